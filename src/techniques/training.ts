/** Training as techniques do it: its options, declared once, and the run that they stand for. */
import { z } from "zod";
import { PareError } from "../base/error.ts";
import type { Dataset } from "../data/dataset.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Model } from "../ir/model.ts";
import { trainModel } from "../train/loop.ts";
import { type LossName, LOSSES, type LossTerm, TEACHER_LOSSES, type TeacherLossName } from "../train/losses/table.ts";
import { type OptimizerName, OPTIMIZERS } from "../train/optimizers/optimizer.ts";
import type { Projection } from "../train/projections.ts";
import { type ScheduleName, SCHEDULES } from "../train/schedule.ts";
import type { Rewiring } from "../train/rewiring.ts";
import type { Shrinkage } from "../train/shrinkage.ts";
import type { TargetedDropout } from "../train/targeted-dropout.ts";
import type { TrainResult } from "../train/train-options.ts";
import { convertOpset } from "../transform/opset.ts";
import { engine } from "./engine.ts";
import { loadModelFile } from "./model-file.ts";
import { choices, range } from "./search-range.ts";
import type { Context, Need } from "./technique.ts";

/** The oldest opset in which every gradient can be written. */
export const TRAINING_OPSET = 17;

/** What the options become. */
export interface TrainingChoice {
  readonly epochs: number;
  readonly learningRate: number;
  readonly optimizer: OptimizerName;
  readonly momentum: number;
  readonly nesterov: boolean;
  readonly weightDecay: number;
  readonly clipNorm: number | undefined;
  readonly schedule: ScheduleName;
  readonly warmup: number;
  readonly batch: number;
  readonly accumulate: number;
  readonly averaging: number | undefined;
  readonly loss: LossName;
  readonly labelSmoothing: number;
  readonly temperature: number;
  readonly match: string[];
  readonly flip: boolean;
  readonly crop: number;
  readonly cutout: number;
  readonly noise: number;
  readonly mixup: number;
  readonly cutmix: number;
  readonly holdOut: number;
  readonly patience: number | undefined;
  readonly reestimate: number;
}

/** Options of every technique that trains. */
export const trainingOptions: { readonly [Name in keyof TrainingChoice]: z.ZodType<TrainingChoice[Name]> } = {
  epochs: z
    .number()
    .positive()
    .default(1)
    .describe("passes over the training data; 0.5 is half of it")
    .meta({ search: range(1, 5, { integer: true }) }),
  learningRate: z
    .number()
    .positive()
    .default(0.01)
    .describe("highest learning rate")
    .meta({ search: range(1e-4, 0.1, { log: true }) }),
  optimizer: z.enum(OPTIMIZERS).default("sgd").describe("how gradients become steps"),
  momentum: z.number().min(0).max(1).default(0.9).describe("momentum of sgd and rmsprop"),
  nesterov: z.boolean().default(true).describe("Nesterov's form of momentum"),
  weightDecay: z.number().min(0).default(1e-4).describe("weight decay of matrices and kernels"),
  clipNorm: z.number().positive().optional().describe("largest norm of all gradients together"),
  schedule: z.enum(SCHEDULES).default("cosine").describe("how the learning rate changes"),
  warmup: z.number().min(0).max(1).default(0.05).describe("share of the steps over which the learning rate rises"),
  batch: z.int().min(1).default(128).describe("samples per step"),
  accumulate: z.int().min(1).default(1).describe("runs into which a step's samples are split, for less memory"),
  averaging: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .describe("end with a moving average of the weights, of this share (0.999)"),
  loss: z.enum(LOSSES).default("cross-entropy").describe("what is minimized against the labels"),
  labelSmoothing: z.number().min(0).max(1).default(0).describe("share of the target spread over all classes"),
  temperature: z
    .number()
    .positive()
    .default(2)
    .describe("temperature of the teacher's soft labels")
    .meta({ search: range(1, 20, { log: true }) }),
  match: z
    .array(z.string())
    .default([])
    .describe(
      `values matched to the teacher's beside the scores, as loss[*weight][:value[=teacher's value]], such as hidden*0.5:relu4=relu9 or relation-distance; losses: ${TEACHER_LOSSES.join(", ")}`,
    ),
  flip: z.boolean().default(false).describe("mirror images left and right at random"),
  crop: z.int().min(0).default(0).describe("pixels by which images are shifted at random"),
  cutout: z.int().min(0).default(0).describe("side of a square that is erased from images at random"),
  noise: z.number().min(0).default(0).describe("deviation of noise added to the samples"),
  mixup: z.number().min(0).default(0).describe("alpha of mixup: samples are blended in pairs"),
  cutmix: z.number().min(0).default(0).describe("alpha of cutmix: rectangles of images are swapped"),
  holdOut: z
    .number()
    .min(0)
    .max(0.5)
    .default(0)
    .describe("share of the data that is not trained on but judges the epochs; the best one's weights are kept"),
  patience: z.int().min(1).optional().describe("stop after so many epochs that are no better (with hold-out)"),
  reestimate: z
    .int()
    .min(0)
    .default(0)
    .describe("batches over which BatchNorm's statistics are measured anew at the end"),
};

/** Options of techniques whose model may learn from another beside the labels. */
export const teacherOptions: {
  readonly teacher: z.ZodType<string>;
  readonly teacherShare: z.ZodType<number>;
} = {
  teacher: z
    .string()
    .default("none")
    .describe("learn soft labels, too: of 'original', the model that compression started from, or of a model file")
    .meta({ search: choices("none", "original") }),
  teacherShare: z
    .number()
    .min(0)
    .max(1)
    .default(0.5)
    .describe("weight of the teacher's part of the loss; 1 needs no labels"),
};

/** What they need: labels, unless the teacher has the whole share of the loss. */
export function teacherDemands(chosen: { readonly teacher: string; readonly teacherShare: number }): readonly Need[] {
  return chosen.teacher !== "none" && chosen.teacherShare === 1 ? [] : ["labels"];
}

/** The teacher that they name. */
export async function teacherNamed(named: string, original: Model): Promise<Model | undefined> {
  if (named === "none") return undefined;
  return named === "original" ? original : loadModelFile(named);
}

/** A teacher beside the labels: (1 − share)·loss + share·soft labels, and what is matched. */
export interface Teaching {
  readonly model: Model;
  readonly share: number;
}

/** What the technique itself decides. */
export interface TrainingSetting {
  /** For progress: the technique's name. */
  readonly name: string;
  readonly teaching: Teaching | undefined;
  readonly frozen?: ((name: string) => boolean) | undefined;
  readonly maskZeros?: boolean | undefined;
  readonly maskThreshold?: number | undefined;
  readonly batchNorm?: "batch" | "frozen" | undefined;
  /** What weights obey after every step. */
  readonly projections?: readonly Projection[] | undefined;
  /** Moves the zeros of thinned weights between steps. */
  readonly rewiring?: Rewiring | undefined;
  /** Drops the least of some weights at random. */
  readonly targetedDropout?: TargetedDropout | undefined;
  /** A penalty whose proximal step follows each step. */
  readonly shrinkage?: Shrinkage | undefined;
  /** Share of the steps during which observed ranges follow the data. */
  readonly observe?: number | undefined;
}

/** Trains the weights of the model in place on the context's data. */
export async function trainOn(
  model: Model,
  chosen: TrainingChoice,
  setting: TrainingSetting,
  context: Context,
): Promise<TrainResult> {
  const { data, seed, journal } = context;
  if (!data) throw new PareError("bad-option", `${setting.name} needs training data`, { help: "Name it with --data" });
  const { epochs, holdOut, flip, crop, cutout, noise, mixup, cutmix } = chosen;
  if (chosen.patience !== undefined && holdOut === 0)
    throw new PareError("bad-option", "Stopping early needs data to judge the epochs by", {
      where: `${setting.name} option 'patience'`,
      help: "Keep some of it for that: hold-out=0.1",
    });
  // A part of an epoch is an epoch over that part of the data.
  const whole = Math.max(1, Math.ceil(epochs));
  const part = (epochs / whole) * (1 - holdOut);
  const used = part < 1 ? data.subset({ part: [0, part], seed }) : data;
  const validation: Dataset | undefined = holdOut > 0 ? data.subset({ part: [1 - holdOut, 1], seed }) : undefined;
  // Training runs on copies in a newer opset where a model's own is too old; the model itself only gets the weights.
  const teacher = setting.teaching && inOpset(setting.teaching.model, Math.max(TRAINING_OPSET, model.opset));
  const opset = Math.max(TRAINING_OPSET, model.opset, teacher?.opset ?? 0);
  const work = inOpset(model, opset);
  const terms = termsOf(chosen, setting.teaching, used);
  const { openSession } = await engine();
  const result = await trainModel(
    work,
    used,
    {
      ...chosen,
      epochs: whole,
      seed,
      validation,
      frozen: setting.frozen,
      maskZeros: setting.maskZeros,
      maskThreshold: setting.maskThreshold,
      batchNorm: setting.batchNorm,
      projections: setting.projections,
      shrinkage: setting.shrinkage,
      targetedDropout: setting.targetedDropout,
      rewiring: setting.rewiring,
      observe: setting.observe,
      terms,
      teacher: teacher && { model: teacher },
      augment: { flip, crop, cutout, noise, mixup, cutmix },
      threads: context.threads,
      provider: context.provider,
      signal: context.signal,
      onNote: (note) => journal.note(note),
      onProgress: ({ stage, done, total, secondsLeft }) =>
        context.onProgress({ stage: `${setting.name}: ${stage}`, done, total, secondsLeft }),
    },
    openSession,
  );
  if (work !== model)
    for (const name of result.trained) {
      const [value, trained] = [model.graph.initializers.get(name), work.graph.initializers.get(name)?.tensor];
      if (value && trained) value.tensor = trained;
    }
  journal.note(`training loss per epoch: ${result.epochs.map(({ loss }) => loss.toFixed(4)).join(", ")}`);
  if (result.stoppedEarly) journal.note(`stopped after ${result.epochs.length} of ${whole} epochs: no better since`);
  return result;
}

/** The model, or a copy of it in that opset. */
export function inOpset(model: Model, opset: number): Model {
  if (model.opset >= opset) return model;
  const copy = cloneModel(model);
  convertOpset(copy, opset);
  return copy;
}

/** (1 − s)·loss + s·soft labels + what is matched. Data without labels leaves the teacher the whole. */
function termsOf(chosen: TrainingChoice, teaching: Teaching | undefined, data: Dataset): LossTerm[] {
  const share = teaching ? (data.labels === undefined ? 1 : teaching.share) : 0;
  const smoothing = chosen.loss === "cross-entropy" ? { labelSmoothing: chosen.labelSmoothing } : {};
  const terms: LossTerm[] = [
    { kind: chosen.loss, weight: 1 - share, ...smoothing },
    { kind: "soft-logits", weight: share, temperature: chosen.temperature },
  ];
  const matched = chosen.match.map(parseMatch);
  if (matched.length > 0 && !teaching)
    throw new PareError("bad-option", "Values are matched to a teacher's, and there is none", {
      where: `match '${chosen.match[0]}'`,
      help: "Name the teacher: teacher=original",
    });
  return [...terms.filter(({ weight }) => weight !== 0), ...matched];
}

/** `loss[*weight][:value[=teacher's value]]`. */
export function parseMatch(text: string): LossTerm {
  const [, kind = "", weight, student, teacher] = /^([a-z-]+)(?:\*([^:]+))?(?::([^=]+)(?:=(.+))?)?$/.exec(text) ?? [];
  const factor = weight === undefined ? 1 : Number(weight);
  if (!(TEACHER_LOSSES as readonly string[]).includes(kind) || !(factor >= 0))
    throw new PareError("bad-option", "Not something to match", {
      where: `match '${text}'`,
      expected: `loss[*weight][:value[=teacher's value]], the loss one of ${TEACHER_LOSSES.join(", ")}`,
    });
  return { kind: kind as LossName | TeacherLossName, weight: factor, student, teacher };
}
