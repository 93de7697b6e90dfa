/** The options of training as one declaration: flags of `pare train`, and whatever techniques take of them. */
import { z } from "zod";
import { matchKeep } from "../analyse/keep.ts";
import type { Model } from "../ir/model.ts";
import { checkTerm, LOSSES, type LossTerm } from "./losses/table.ts";
import { OPTIMIZERS } from "./optimizers/optimizer.ts";
import { maxNorm, nonNegative, type Projection } from "./projections.ts";
import { SCHEDULES } from "./schedule.ts";
import type { ParameterGroup } from "./step-update.ts";
import { DEFAULT_EPOCHS, type TrainOptions } from "./train-options.ts";

const share = (): z.ZodNumber => z.number().min(0).max(1);
const names = "names, globs, /regular expressions/ or op:Type";

const schema = z.strictObject({
  epochs: z.int().min(1).default(DEFAULT_EPOCHS).describe("passes over the data"),
  batch: z.int().min(1).default(128).describe("samples per step"),
  accumulate: z.int().min(1).default(1).describe("runs that the batch of a step is split into, to save memory"),
  precision: z
    .enum(["float32", "mixed"])
    .default("float32")
    .describe(
      "mixed: products in float16 with a loss scale that adapts, weights in float32 (gains nothing on the cpu provider, which computes in float32 anyway)",
    ),
  learningRate: z
    .number()
    .positive()
    .optional()
    .describe("highest learning rate (default: 0.05 for sgd, 0.001 for adam, adamw and rmsprop, 0.0001 for lion)"),
  schedule: z.enum(SCHEDULES).default("cosine").describe("learning rate over time"),
  warmup: share()
    .optional()
    .describe("share of the steps during which the learning rate rises (default: 0.1, for one-cycle 0.3)"),
  minimumRate: share().default(0).describe("lowest learning rate at the end, as a share of the highest"),
  milestones: z.array(share()).default([0.5, 0.75]).describe("shares of the steps after which schedule step drops"),
  decay: share().default(0.1).describe("factor of each drop of schedule step"),
  optimizer: z.enum(OPTIMIZERS).default("sgd").describe("how gradients become steps"),
  momentum: share().optional().describe("momentum (default: 0.9 for sgd, 0 for rmsprop)"),
  nesterov: z.boolean().default(false).describe("Nesterov's form of sgd's momentum"),
  beta1: share().optional().describe("averaging of gradients in adam, adamw and lion (default: 0.9)"),
  beta2: share().optional().describe("averaging of squares (default: 0.999; rmsprop and lion 0.99)"),
  epsilon: z
    .number()
    .positive()
    .optional()
    .describe("added to the denominator of adam, adamw and rmsprop (default: 1e-8)"),
  weightDecay: z.number().min(0).default(0).describe("weight decay of matrices and kernels"),
  group: z
    .array(z.string())
    .default([])
    .describe(`own rate and decay of some weights, as 'pattern:rate=0.1,weight-decay=0'; patterns are ${names}`),
  freeze: z.array(z.string()).default([]).describe(`weights that do not change: ${names}`),
  project: z
    .array(z.string())
    .default([])
    .describe("what weights obey after every step, as 'pattern:non-negative' or 'pattern:max-norm=3'"),
  maskZeros: z.boolean().default(true).describe("weights that pruning set to zero stay zero"),
  clipNorm: z.number().positive().optional().describe("largest norm of all gradients together"),
  clipValue: z.number().positive().optional().describe("largest element of a gradient"),
  averaging: share()
    .optional()
    .describe("keep a moving average of the weights, of this share per step (0.999), and save that"),
  loss: z.enum(LOSSES).default("cross-entropy").describe("what is minimized"),
  labelSmoothing: share().default(0).describe("share of the target spread over all classes"),
  terms: z
    .array(z.string())
    .default([])
    .describe("the whole loss as a mix: 'cross-entropy:weight=0.5' 'hidden:student=a,teacher=b,weight=2'"),
  teacherShare: share()
    .default(0.5)
    .describe("weight of the teacher's soft labels, where there is a teacher and no terms"),
  temperature: z.number().positive().default(2).describe("temperature of the teacher's soft labels"),
  batchNorm: z
    .enum(["batch", "frozen"])
    .default("batch")
    .describe("statistics that BatchNorm uses: the batch's, or its own, frozen"),
  statisticsMomentum: share().default(0.9).describe("share of BatchNorm's old running statistics kept at each step"),
  reestimate: z
    .int()
    .min(0)
    .default(0)
    .describe("batches over which BatchNorm's statistics are measured anew at the end"),
  dropoutActive: z.boolean().default(true).describe("Dropout drops during training"),
  flip: z.boolean().default(false).describe("mirror images at random"),
  crop: z.int().min(0).default(0).describe("pad images by so many pixels and crop them at random"),
  cutout: z.int().min(0).default(0).describe("side in pixels of a square that is erased from each image"),
  fill: z.array(z.number()).default([0]).describe("value of padding and erased squares: one, or one per channel"),
  noise: z.number().min(0).default(0).describe("deviation of normal noise added to the samples"),
  mixup: z.number().min(0).default(0).describe("alpha of mixup: blends samples and their labels"),
  cutmix: z.number().min(0).default(0).describe("alpha of cutmix: pastes a part of one image into another"),
  layout: z.enum(["nchw", "nhwc"]).default("nchw").describe("order of the axes of images"),
  keepBest: z.boolean().default(true).describe("end with the weights that scored best on the validation data"),
  patience: z
    .int()
    .min(1)
    .optional()
    .describe("stop after so many epochs without a better score on the validation data"),
  minimumGain: z.number().min(0).default(0).describe("how much better a score must be to count for patience"),
});

/** Every option of training with its description and default. */
export const trainingSchema: z.ZodObject = schema;

/** Texts of the declaration that stand for more, parsed by whoever knows their syntax. */
export interface ParsedTexts {
  readonly terms: readonly LossTerm[];
  readonly groups: readonly (ParameterGroup & { readonly pattern: string })[];
  readonly projections: readonly (
    | { readonly pattern: string; readonly kind: "non-negative" }
    | { readonly pattern: string; readonly kind: "max-norm"; readonly limit: number }
  )[];
}

/**
 * The options of a run from choices that the declaration has checked. Patterns are matched against the model; what matches
 * nothing is noted.
 */
export function trainOptionsOf(
  choices: Readonly<Record<string, unknown>>,
  texts: ParsedTexts,
  model: Model,
  teacher: Model | undefined,
  note: (text: string) => void,
): TrainOptions {
  const chosen = schema.parse(choices);
  const {
    group: _group,
    project: _project,
    terms: _terms,
    freeze,
    teacherShare,
    temperature,
    dropoutActive,
    ...rest
  } = chosen;
  const { flip, crop, cutout, fill, noise, mixup, cutmix, layout, ...training } = rest;
  const matcher = (patterns: readonly string[]): ((name: string) => boolean) => {
    const keep = matchKeep(patterns, model);
    for (const warning of keep.warnings) note(warning.replace(/^keep /, "pattern "));
    const matched = new Set<string>();
    for (const value of model.graph.initializers.values())
      if (keep.value(value) || value.uses.some((use) => keep.node(use.node))) matched.add(value.name);
    return (name) => matched.has(name);
  };
  const groups = texts.groups.map(({ pattern, ...own }) => ({ matches: matcher([pattern]), own }));
  const projections = texts.projections.map((each): Projection => {
    const matches = matcher([each.pattern]);
    return each.kind === "max-norm" ? maxNorm(matches, each.limit) : nonNegative(matches);
  });
  for (const term of texts.terms) checkTerm(term);
  const fills = fill.length === 1 ? fill[0] : fill;
  return {
    ...training,
    dropout: dropoutActive,
    warmup: chosen.warmup ?? (chosen.schedule === "one-cycle" ? undefined : 0.1),
    frozen: freeze.length > 0 ? matcher(freeze) : undefined,
    // Of several groups that name a weight the last one counts.
    groupOf: groups.length > 0 ? (name) => groups.findLast(({ matches }) => matches(name))?.own : undefined,
    projections,
    terms: texts.terms.length > 0 ? texts.terms : undefined,
    teacher: teacher && { model: teacher, share: teacherShare, temperature },
    augment: { flip, crop, cutout, fill: fills, noise, mixup, cutmix, layout },
  };
}
