/**
 * Weights and activations in 8-bit integers, with ranges measured on samples (static quantization).
 *
 * Helps: latency, about 2 times on CPUs with integer dot products (VNNI, ARM dot product); size by 4; memory traffic.
 * Hurts: accuracy by tenths of a point to a few points; depthwise networks (MobileNet, MCUNet) most.
 * Needs: calibration data, some hundred samples like those the model will see. No labels.
 * Cost: two passes over the samples, and a short run for each way of choosing ranges; memory is one batch.
 * Maths: x ≈ (q − z)·s. Weights symmetric int8 per output channel, s = max|w|/127; activations uint8 with
 * s = (h − l)/255, z = round(−l/s) over the calibrated range [l, h]; biases int32 with s_x·s_w. Rectifiers and clips become
 * the ends of the range.
 * Paper: Jacob et al. 2018 (arXiv 1712.05877); Krishnamoorthi 2018 (arXiv 1806.08342); Nagel et al. 2021 (arXiv 2106.08295).
 */
import { z } from "zod";
import { type Keep, nameOf } from "../../analyse/keep.ts";
import { inferShapes } from "../../analyse/shapes.ts";
import { throwIfAborted } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { cloneModel } from "../../ir/clone.ts";
import { loadKernels } from "../../kernels/kernels.ts";
import type { Kernels } from "../../kernels/types.ts";
import { asNumbers } from "../../run/arrays.ts";
import { foldAffine } from "../../transform/fold-affine.ts";
import { padCodes, quantizeActivation } from "../../transform/insert-qdq.ts";
import { convertOpset } from "../../transform/opset.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import { removeIdentities } from "../../transform/remove-identities.ts";
import { engine } from "../engine.ts";
import { Journal } from "../journal.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { dataFeeds, sampleFeeds } from "../samples.ts";
import { choices, range } from "../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../technique.ts";
import { BALANCE_TEXT } from "./balanced.ts";
import { type Calibration, type Observed, observe, rangeOf } from "./calibrate.ts";
import { quantizeLinear } from "./linear-weights.ts";
import { type QdqPlan, planQdq } from "./qdq-plan.ts";
import { type Grid, gridOf } from "./range-search.ts";

/** First opset whose DequantizeLinear takes a scale per channel. */
const PER_CHANNEL_OPSET = 13;

/** One way to get ranges. */
interface Candidate {
  readonly calibration: Calibration;
  readonly percentile: number;
}

/** What "auto" tries. */
const CANDIDATES: readonly Candidate[] = [
  { calibration: "min-max", percentile: 100 },
  { calibration: "percentile", percentile: 99.9 },
  { calibration: "percentile", percentile: 99.99 },
  { calibration: "percentile", percentile: 99.999 },
  { calibration: "mse", percentile: 100 },
];
/** Samples on which the choices are compared. */
const CHOICE_SAMPLES = 32;

const options = z.object({
  to: z.enum(["int8"]).default("int8").describe("width of the integers"),
  samples: z
    .number()
    .int()
    .min(1)
    .default(256)
    .describe("calibration samples")
    .meta({ search: range(32, 512, { log: true, integer: true }) }),
  batch: z.number().int().min(1).default(16).describe("samples per calibration run: memory grows with it"),
  calibration: z
    .enum(["auto", "min-max", "average", "percentile", "mse"])
    .default("auto")
    .describe(
      "range of an activation: everything seen, the mean of each batch's ends, a share of the values, or the least squared error; auto tries several and takes the one whose outputs are nearest to the original's",
    )
    .meta({ search: choices("min-max", "percentile", "mse") }),
  percentile: z
    .number()
    .gt(50)
    .max(100)
    .default(99.99)
    .describe("values inside the range, in percent (calibration percentile)")
    .meta({ search: choices(99.9, 99.99, 99.999) }),
  activations: z.enum(["uint8", "int8"]).default("uint8").describe("integers of activations"),
  symmetric: z.boolean().default(false).describe("activation ranges symmetric around zero, zero point in the middle"),
  perChannel: z.boolean().default(true).describe("one weight scale per output channel instead of one per weight"),
  method: z.enum(["range", "mse"]).default("mse").describe("weight scales: cover the range, or least squared error"),
  balance: z
    .boolean()
    .default(true)
    .describe(BALANCE_TEXT)
    .meta({ search: choices(true, false) }),
  reduceRange: z
    .boolean()
    .default(false)
    .describe("7-bit weights: for CPUs without integer dot products, whose 16-bit sums overflow"),
  operators: z
    .array(z.string())
    .default([])
    .describe("operator types to quantize; default: all that the engine runs on int8"),
  fold: z.boolean().default(true).describe("fold BatchNorm first; without it normalization stays in floating point"),
  keep: keepOption,
});

export const quantize: TechniqueFunction = defineTechnique({
  name: "quantize",
  family: "quantize",
  summary: "Weights and activations in 8-bit integers, calibrated on samples.",
  needs: ["calibration"],
  options,
  async run(model, chosen, context) {
    const { journal } = context;
    await prepare(model, chosen.fold, context);
    const kernels = await loadKernels();
    const keep = keepOf(chosen.keep, model, journal);
    const plan = planQdq(model, planOptions(keep, chosen));
    for (const { what, why } of plan.skipped) journal.skip(what, why);
    for (const inner of model.graph.nodes)
      if (inner.subgraphs().next().value) journal.skip(nameOf(inner), "operators inside subgraphs are not calibrated");
    if (plan.linear.length === 0) return model;
    const observed = await measure(model, plan, kernels, chosen, context);
    const candidates = chosen.calibration === "auto" ? CANDIDATES : [{ ...chosen, calibration: chosen.calibration }];
    let best = candidates[0] as Candidate;
    if (candidates.length > 1) {
      let least = Number.POSITIVE_INFINITY;
      for (const [index, candidate] of candidates.entries()) {
        throwIfAborted(context.signal);
        context.onProgress({ stage: "quantize: choice of ranges", done: index, total: candidates.length });
        const trial = cloneModel(model);
        const trialPlan = planQdq(trial, planOptions(keep, chosen));
        await build(trial, trialPlan, kernels, chosen, gridsOf(trialPlan, observed, candidate, chosen), new Journal());
        const error = await outputError(model, trial, context);
        if (error < least) [least, best] = [error, candidate];
      }
      const { calibration, percentile } = best;
      journal.note(
        `Ranges by ${calibration}${calibration === "percentile" ? ` ${percentile}` : ""}: outputs differ by ${(100 * least).toPrecision(2)} % of their size on calibration samples, the least of ${candidates.length} choices.`,
      );
    }
    await build(model, plan, kernels, chosen, gridsOf(plan, observed, best, chosen), journal);
    const others = plan.nodes.size - plan.linear.length;
    if (others > 0) journal.note(`${others} operators between them run on int8 too.`);
    return model;
  },
});

function planOptions(keep: Keep, chosen: z.output<typeof options>): Parameters<typeof planQdq>[1] {
  return {
    isKept: (node) => keep.node(node) || node.inputs.some((input) => input?.tensor !== undefined && keep.value(input)),
    operators: chosen.operators.length > 0 ? new Set(chosen.operators) : undefined,
  };
}

/** Rewrites the model on the given grids. */
async function build(
  model: Model,
  plan: QdqPlan,
  kernels: Kernels,
  chosen: z.output<typeof options>,
  grids: ReadonlyMap<Value, Grid>,
  journal: Journal,
): Promise<void> {
  for (const linear of plan.linear) {
    const grid = grids.get(linear.node.inputs[0] as Value);
    const result = await quantizeLinear(model, kernels, linear, grid?.scale ?? 1, chosen);
    journal.change({
      what: nameOf(linear.node),
      how: `weights int8 ${chosen.perChannel ? "per channel" : "per tensor"}, input ${chosen.activations} over ${describe(grid)}`,
      error: result.error,
      bytesBefore: result.bytesBefore,
      bytesAfter: result.bytesAfter,
    });
  }
  insertGrids(model, plan, grids, chosen.activations);
  removeDead(model);
}

/** ‖ŷ − y‖ / ‖y − mean(y)‖ over the outputs for some calibration samples. */
async function outputError(original: Model, trial: Model, context: Context): Promise<number> {
  const { openSession } = await engine();
  const session = { threads: context.threads, signal: context.signal };
  const [reference, candidate] = [await openSession(original, session), await openSession(trial, session)];
  try {
    let difference = 0;
    let spread = 0;
    for (const feeds of await sampleFeeds(original, context, CHOICE_SAMPLES)) {
      const [wanted, got] = [await reference.run(feeds), await candidate.run(feeds)];
      for (const [name, array] of Object.entries(wanted)) {
        const [y, approximate] = [asNumbers(array), got[name] && asNumbers(got[name])];
        let mean = 0;
        for (let i = 0; i < y.length; i++) mean += Number(y[i]) / y.length;
        for (let i = 0; i < y.length; i++) {
          difference += (Number(y[i]) - Number(approximate?.[i] ?? 0)) ** 2;
          spread += (Number(y[i]) - mean) ** 2;
        }
      }
    }
    return spread > 0 ? Math.sqrt(difference / spread) : difference;
  } finally {
    await reference.close();
    await candidate.close();
  }
}

/** Plain layers at an opset that knows per-channel scales. */
async function prepare(model: Model, fold: boolean, context: Context): Promise<void> {
  prepareConstants(model, context.journal);
  if (model.opset < PER_CHANNEL_OPSET) {
    const changes = convertOpset(model, PER_CHANNEL_OPSET);
    context.journal.note(
      `Raised to opset ${PER_CHANNEL_OPSET} for scales per channel (${changes.length} operators rewritten).`,
    );
    prepareConstants(model, context.journal);
  }
  if (!fold) return;
  removeIdentities(model);
  const { folded, skipped } = await foldAffine(model);
  if (folded.length > 0)
    context.journal.note(`${folded.length} normalizations, scales and shifts folded into layers first.`);
  for (const { what, why } of skipped) context.journal.skip(what, why);
  removeDead(model);
  inferShapes(model);
}

/** Statistics of every activation that will be quantized, by name. */
async function measure(
  model: Model,
  plan: QdqPlan,
  kernels: Kernels,
  chosen: z.output<typeof options>,
  context: Context,
): Promise<Map<string, Observed>> {
  const { data } = context;
  if (!data) return new Map();
  const samples = Math.min(chosen.samples, data.size);
  const batches = Math.ceil(samples / chosen.batch);
  const histograms = chosen.calibration !== "min-max" && chosen.calibration !== "average";
  return observe(
    model,
    Array.from(plan.groups.keys(), (value) => value.name),
    () => dataFeeds(model, data, { limit: samples, size: chosen.batch, seed: context.seed, signal: context.signal }),
    kernels,
    {
      histograms,
      threads: context.threads,
      signal: context.signal,
      onBatch: (pass, batch) =>
        context.onProgress({
          stage: "quantize: calibration",
          done: (pass - 1) * batches + batch + 1,
          total: batches * (histograms ? 2 : 1),
        }),
    },
  );
}

/** One grid per group: the range that covers those of all its values. */
function gridsOf(
  plan: QdqPlan,
  observed: ReadonlyMap<string, Observed>,
  { calibration, percentile }: Candidate,
  chosen: z.output<typeof options>,
): Map<Value, Grid> {
  const grids = new Map<Value, Grid>();
  for (const group of new Set(plan.groups.values())) {
    let low = 0;
    let high = 0;
    for (const value of group) {
      const seen = observed.get(value.name);
      const found = seen && rangeOf(seen, calibration, percentile);
      low = Math.min(low, found?.low ?? 0);
      high = Math.max(high, found?.high ?? 0);
    }
    const grid = gridOf({ low, high }, chosen.activations, chosen.symmetric);
    for (const value of group) grids.set(value, grid);
  }
  return grids;
}

function insertGrids(model: Model, plan: QdqPlan, grids: ReadonlyMap<Value, Grid>, dtype: "uint8" | "int8"): void {
  // Behind an int8 operator, or the clamp that it absorbs, nobody may read the float any more.
  for (const [value, grid] of grids)
    quantizeActivation(model.graph, value, { dtype, ...grid }, plan.nodes, plan.results.has(value));
  for (const node of plan.nodes) if (node.opType === "Pad") padCodes(model.graph, node);
}

function describe(grid: Grid | undefined): string {
  if (!grid) return "an unknown range";
  const low = (grid.lowest - grid.zeroPoint) * grid.scale;
  const high = (grid.highest - grid.zeroPoint) * grid.scale;
  return `[${low.toPrecision(3)}, ${high.toPrecision(3)}]`;
}
