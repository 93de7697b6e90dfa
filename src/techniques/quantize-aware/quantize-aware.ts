/**
 * Quantization-aware training: the network is trained with its weights and activations rounded to few bits, then stored and
 * run with them.
 *
 * Helps: at 4 bits and below, where static quantization fails: the weights move to where rounding costs little, and the ranges
 *   learn with them. Files shrink by the bits of the weights; products run on 8-bit integers, whatever the bits.
 * Hurts: training time; below 3 bits some accuracy. Activations of fewer than 8 bits save no time on the CPU: they live in bytes.
 * Needs: training data, labelled unless a teacher has the whole share of the loss; ranges begin where its samples lie.
 * Cost: about 1.3 times the fine-tuning of the same network.
 * Maths: x -> s * clip(round(x/s) + z, low, high) - z, gradients straight through rounding within the range. Scales learn by
 *   LSQ: ds = sum g * (code - [inside] x/s), times 1/sqrt(N * high) for N elements per scale; offsets of activations of both
 *   signs by LSQ+. Sums and residual connections are rounded to 8 bits, the first and last layer to `ends` bits.
 *   BatchNorm trains as it is and is folded afterwards: with a scale per channel its factor goes into the weight's scale, codes
 *   stay, so that folding in training (Krishnamoorthi 2018) would add the batch's noise and gain nothing; `fold: before`
 *   trains the folded network. Ternary weights: -1, 0, 1 with a learned scale, thresholds and scales from the weights (TWN),
 *   or a learned magnitude per sign (TTQ); binary ones with a learned scale or the mean magnitude (XNOR-Net).
 * Paper: Jacob et al. 2018 (arXiv 1712.05877); Esser et al. 2020, "Learned Step Size Quantization" (arXiv 1902.08153); Bhalgat
 *   et al. 2020, "LSQ+" (arXiv 2004.09576); Li et al. 2016 (arXiv 1605.04711); Zhu et al. 2017 (arXiv 1612.01064); Rastegari
 *   et al. 2016 (arXiv 1603.05279); Krishnamoorthi 2018 (arXiv 1806.08342).
 */
import { z } from "zod";
import { inferShapes } from "../../analyse/shapes.ts";
import type { Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { loadKernels } from "../../kernels/kernels.ts";
import type { Kernels } from "../../kernels/types.ts";
import { type Projection, within } from "../../train/projections.ts";
import { foldAffine } from "../../transform/fold-affine.ts";
import { foldConstants } from "../../transform/fold-constants.ts";
import { convertOpset } from "../../transform/opset.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import { removeIdentities } from "../../transform/remove-identities.ts";
import { engine } from "../engine.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { choices } from "../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../technique.ts";
import { teacherDemands, teacherNamed, teacherOptions, trainingOptions, TRAINING_OPSET, trainOn } from "../training.ts";
import { convert } from "./convert.ts";
import { type AwarePlan, type Layer, planAware } from "./plan.ts";
import { activationStart, observeActivations, type WeightBits, weightStart } from "./ranges.ts";
import { bitsOf, simulate, type Simulation, unsimulate, type WeightStart } from "./simulate.ts";

/** Smallest scale: below it a grid would vanish, and its gradient with it. */
const LEAST_SCALE = 1e-8;

const options = z.object({
  weights: z
    .literal([8, 4, 3, 2, "ternary", "binary"])
    .default(4)
    .describe("bits of weights")
    .meta({ search: choices(8, 4, 3, 2, "ternary", "binary") }),
  activations: z
    .literal([8, 4, 3, 2, "float"])
    .default(8)
    .describe("bits of what layers multiply their weights with; float: weights alone are quantized")
    .meta({ search: choices(8, 4, 3, 2) }),
  ends: z
    .literal([8, 4, 3, 2])
    .default(8)
    .describe("bits of the first and last layer, weights and inputs, where the others have fewer")
    .meta({ search: choices(8, 4) }),
  perChannel: z.boolean().default(true).describe("a weight scale per output channel instead of one per weight"),
  scales: z
    .enum(["learned", "observed", "fixed"])
    .default("learned")
    .describe(
      "learned: scales learn with the weights (LSQ; those of 8-bit activations stay); observed: those of activations follow the samples at first, then stay; fixed: all stay where they begin",
    ),
  observe: z
    .number()
    .min(0)
    .max(1)
    .default(0.3)
    .describe("share of the steps during which scales=observed follow the samples"),
  rule: z
    .enum(["learned", "mean", "trained"])
    .default("learned")
    .describe(
      "ternary and binary weights: a learned scale; threshold and scale from the weights at every step (TWN, XNOR-Net); trained: a magnitude per sign (TTQ, ternary only)",
    )
    .meta({ search: choices("learned", "mean") }),
  lowering: z
    .array(z.literal([8, 4, 3]))
    .default([])
    .describe("bits through which training goes first, as 8+4: each takes an equal part of the epochs"),
  samples: z.int().min(1).default(256).describe("samples on which ranges of activations begin"),
  fold: z
    .enum(["after", "before"])
    .default("after")
    .describe("BatchNorm is folded into the layers after training, or before it"),
  reduceRange: z
    .boolean()
    .default(false)
    .describe("7-bit instead of 8-bit weights: for CPUs without integer dot products, whose 16-bit sums overflow"),
  ...trainingOptions,
  ...teacherOptions,
  batchNorm: z
    .enum(["batch", "frozen"])
    .default("batch")
    .describe("BatchNorm uses each batch's statistics and moves its running ones, or keeps these frozen"),
  keep: keepOption,
});

type Chosen = z.output<typeof options>;

/** Widths of one part of the training. */
interface Stage {
  readonly weights: WeightBits;
  readonly activations: number | "float";
}

export const quantizeAware: TechniqueFunction = defineTechnique({
  name: "quantize-aware",
  family: "quantize",
  summary: "Train the model with weights and activations of 8, 4, 3 or 2 bits, ternary or binary, then store it so.",
  needs: ["training"],
  options,
  demands: teacherDemands,
  async run(model, chosen, context) {
    const { journal } = context;
    await prepare(model, chosen.fold === "before", context);
    const kernels = await loadKernels();
    const plan = await planAware(model, keepOf(chosen.keep, model, journal));
    for (const { what, why } of plan.skipped) journal.skip(what, why);
    if (plan.layers.length === 0) return model;
    const teaching = await teacherNamed(chosen.teacher, context.original);
    const stages = stagesOf(chosen);
    noteWidths(chosen, context);
    for (const [index, stage] of stages.entries()) {
      const simulation = await round(model, plan, stage, kernels, chosen, context);
      const training = { ...chosen, epochs: chosen.epochs / stages.length };
      await trainOn(
        model,
        training,
        {
          name: "quantize-aware",
          teaching: teaching && { model: teaching, share: chosen.teacherShare },
          batchNorm: chosen.batchNorm,
          projections: projectionsOf(simulation),
          observe: chosen.scales === "observed" ? chosen.observe : undefined,
        },
        context,
      );
      if (index < stages.length - 1) unsimulate(model);
      else await convert(model, plan, simulation, journal);
    }
    return model;
  },
});

/** The widths that training goes through, each no less than what is wanted in the end. */
function stagesOf({ weights, activations, lowering }: Chosen): Stage[] {
  const wanted = typeof weights === "number" ? weights : 2;
  const before = lowering.filter((bits) => bits > wanted || (activations !== "float" && bits > activations));
  return [
    ...before.map(
      (bits): Stage => ({
        weights: bits > wanted ? bits : weights,
        activations: activations === "float" ? "float" : Math.max(bits, activations),
      }),
    ),
    { weights, activations },
  ];
}

/** Rounds the model's weights and activations to a stage's widths, from ranges of least squared error on. */
async function round(
  model: Model,
  plan: AwarePlan,
  { weights, activations }: Stage,
  kernels: Kernels,
  chosen: Chosen,
  context: Context,
): Promise<Simulation> {
  const learns = chosen.scales === "learned";
  const observes = chosen.scales === "observed";
  const starts = new Map<Layer, WeightStart>();
  for (const layer of plan.layers) {
    const wide = layer.end && (typeof weights !== "number" || weights < chosen.ends);
    const start = await weightStart(kernels, layer, wide ? chosen.ends : weights, chosen);
    starts.set(layer, { ...start, learns: chosen.scales !== "fixed" });
  }
  const bits = activations === "float" ? undefined : { layer: activations, end: Math.max(activations, chosen.ends) };
  const observed = bits && (await observeActivations(model, plan, kernels, chosen.samples, context));
  return simulate(
    model,
    plan,
    (layer) => starts.get(layer) as WeightStart,
    (rounding) => {
      const width = bits && bitsOf(rounding, bits);
      return width === undefined || !observed
        ? undefined
        : { ...activationStart(observed, rounding, width, learns && width < 8), observed: observes };
    },
  );
}

/** Scales stay positive, and codes of zero within the grid. */
function projectionsOf({ weights, activations }: Simulation): Projection[] {
  const names = (values: readonly (Value | undefined)[]): ((name: string) => boolean) => {
    const set = new Set(values.map((value) => value?.name));
    return (name) => set.has(name);
  };
  const scales = [...weights.flatMap(({ learned }) => learned), ...activations.map(({ scale }) => scale)];
  return [
    within(names(scales), LEAST_SCALE),
    ...[...new Set(activations.map(({ bits }) => bits))].map((bits) =>
      within(names(activations.filter((each) => each.bits === bits).map(({ offset }) => offset)), 0, 2 ** bits - 1),
    ),
  ];
}

/** Plain layers at an opset in which every gradient can be written. */
async function prepare(model: Model, fold: boolean, { journal }: Context): Promise<void> {
  prepareConstants(model, journal);
  if (model.opset < TRAINING_OPSET) {
    const changes = convertOpset(model, TRAINING_OPSET);
    journal.note(`Raised to opset ${TRAINING_OPSET} for training (${changes.length} operators rewritten).`);
    prepareConstants(model, journal);
  }
  removeIdentities(model);
  const { evaluateConstants } = await engine();
  await foldConstants(model, { evaluate: evaluateConstants });
  if (fold) {
    const { folded, skipped } = await foldAffine(model);
    if (folded.length > 0) journal.note(`${folded.length} normalizations, scales and shifts folded into layers first.`);
    for (const { what, why } of skipped) journal.skip(what, why);
  }
  removeDead(model);
  inferShapes(model);
}

function noteWidths(chosen: Chosen, { journal }: Context): void {
  const width = (bits: WeightBits | number | "float"): string => (typeof bits === "number" ? `${bits}-bit` : bits);
  journal.note(
    `Trained with ${chosen.lowering.length > 0 ? `bits lowered through ${chosen.lowering.join(", ")} to ` : ""}${width(chosen.weights)} weights and ${width(chosen.activations)} activations; first and last layer ${chosen.ends}-bit where the others have fewer; sums and residual connections 8-bit.`,
  );
}
