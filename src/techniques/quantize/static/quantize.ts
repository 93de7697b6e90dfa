/**
 * Weights and activations in 8-bit integers, with ranges measured on samples (static quantization).
 *
 * Helps: latency, about 2 times on CPUs with integer dot products (VNNI, ARM dot product); size by 4; memory traffic.
 * Hurts: accuracy by tenths of a point to a few points; depthwise networks (MobileNet, MCUNet) most.
 * Needs: calibration data, some hundred samples like those the model will see. No labels.
 * Cost: four passes over the samples (two with `equalize` never), and a short run for each way of choosing ranges; memory is
 *   one batch. Fitting reads both models once more, from a remembered cut, and holds one part's samples (256 MB at most).
 * Maths: x ≈ (q − z)·s. Weights symmetric int8 per output channel, s = max|w|/127; activations uint8 with
 * s = (h − l)/255, z = round(−l/s) over the calibrated range [l, h]; biases int32 with s_x·s_w. Rectifiers and clips become
 * the ends of the range.
 * Paper: Jacob et al. 2018 (arXiv 1712.05877); Krishnamoorthi 2018 (arXiv 1806.08342); Nagel et al. 2021 (arXiv 2106.08295);
 *   fit: Nagel et al. 2019 (arXiv 1906.04721), 2020 (arXiv 2004.10568), Li et al. 2021 (arXiv 2102.05426).
 */
import { z } from "zod";
import { nameOf } from "../../../analyse/keep.ts";
import { PareError } from "../../../base/error.ts";
import type { Dataset } from "../../../data/dataset.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Model } from "../../../ir/model.ts";
import { loadKernels } from "../../../kernels/kernels.ts";
import type { Feeds } from "../../../run/session.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { convertOpset } from "../../../transform/opset.ts";
import { type IntegerPorts, integerPorts } from "../../../transform/integer-ports.ts";
import { type QOperatorResult, toQOperators } from "../../../transform/to-qoperator.ts";
import { Journal } from "../../journal.ts";
import { keepOf, keepOption } from "../../keep-option.ts";
import { prepareConstants } from "../../prepare.ts";
import { dataFeeds } from "../../samples.ts";
import { choices, range } from "../../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../../technique.ts";
import { BALANCE_TEXT } from "../balanced.ts";
import { type Observed, observe } from "./calibrate.ts";
import { EQUALIZE, equalizeModel } from "./equalize.ts";
import { fitUnits } from "./fit-units.ts";
import { foldLayers } from "./fold-layers.ts";
import { type LinearCodes, linearCodes } from "./linear-weights.ts";
import { keepReason, type QdqPlan, type QdqPlanOptions, planQdq } from "./qdq-plan.ts";
import {
  type Choice,
  chooseStatic,
  gridsOf,
  type RangeChoice,
  splitCalibration,
  type Variant,
} from "./static-choice.ts";
import { packNarrow } from "../pack-narrow.ts";
import { reduceRangeOption, reducesRange } from "../reduce-range.ts";
import { STATIC_FORMATS, type StaticFormats, staticFormats } from "./static-formats.ts";
import { writeStatic } from "./static-model.ts";
import { endsOptionOf, layersOptionOf, onlyOption } from "../weights/layer-formats.ts";

/** First opset whose DequantizeLinear takes a scale per channel. */
const PER_CHANNEL_OPSET = 13;

/** What "auto" tries. */
const RANGES: readonly RangeChoice[] = [
  { calibration: "min-max", percentile: 100 },
  { calibration: "percentile", percentile: 99.9 },
  { calibration: "percentile", percentile: 99.99 },
  { calibration: "percentile", percentile: 99.999 },
  { calibration: "mse", percentile: 100 },
];

const options = z.object({
  to: z
    .enum(["int8", "int4"])
    .default("int8")
    .describe(
      "integers of the weights; those of activations have 8 bits. int4 is packed in the file and runs on the int8 kernels",
    )
    .meta({ search: choices("int8", "int4") }),
  layers: layersOptionOf(STATIC_FORMATS),
  ends: endsOptionOf(STATIC_FORMATS),
  only: onlyOption,
  fit: z
    .enum(["none", "biases", "layers", "blocks"])
    .default("none")
    .describe(
      "fit to the original on the samples, layer by layer: biases in closed form, or learned rounding and biases, per layer (AdaRound) or per residual block (BRECQ)",
    )
    .meta({ search: choices("none", "biases", "layers", "blocks") }),
  iterations: z.int().min(1).default(500).describe("steps for each layer or block (fit layers or blocks)"),
  fitBatch: z.int().min(1).default(16).describe("samples per step (fit layers or blocks)"),
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
  equalize: z
    .enum(["auto", "always", "never"])
    .default("auto")
    .describe(
      "equalize the channels' ranges first (see equalize); auto: where the outputs are nearer to the original's with it",
    )
    .meta({ search: choices("auto", "never") }),
  reduceRange: reduceRangeOption,
  form: z
    .enum(["qdq", "qoperator"])
    .default("qdq")
    .describe(
      "qdq: pairs of QuantizeLinear and DequantizeLinear around operators, which every provider reads and fuses as it can; qoperator: operators on integers themselves (QLinearConv, QGemm, …), which need no fusing but run on ONNX Runtime's CPU and WebAssembly kernels only",
    ),
  inputs: z
    .enum(["float", "integer"])
    .default("float")
    .describe(
      "integer: the model takes 8-bit codes; what they stand for is in the file's metadata and shown by inspect, and pare converts",
    ),
  outputs: z.enum(["float", "integer"]).default("float").describe("integer: the model gives 8-bit codes, likewise"),
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
    const operators = chosen.operators.length > 0 ? new Set(chosen.operators) : undefined;
    const kept: QdqPlanOptions = { reasonToKeep: keepReason(keepOf(chosen.keep, model, journal)), operators };
    const formats = staticFormats(model, chosen, kept, journal);
    const ports = { inputs: chosen.inputs === "integer", outputs: chosen.outputs === "integer" };
    const planning: QdqPlanOptions = { reasonToKeep: formats.reasonToKeep, operators, ports };
    const plan = planQdq(model, planning);
    for (const { what, why } of plan.skipped) journal.skip(what, why);
    for (const inner of model.graph.nodes)
      if (inner.subgraphs().next().value) journal.skip(nameOf(inner), "operators inside subgraphs are not calibrated");
    if (plan.linear.length === 0) return model;
    const { calibrate, choose } = splitCalibration(dataOf(context), context.seed);
    const variants = await variantsOf(model, chosen, { planning, formats }, { ...context, data: calibrate });
    const ranges = chosen.calibration === "auto" ? RANGES : [{ ...chosen, calibration: chosen.calibration }];
    const best = await chooseStatic(
      variants.map(({ variant }) => variant),
      ranges,
      { ...chosen, planning },
      { ...context, data: choose },
    );
    const found = variants.find(({ variant }) => variant === best.variant);
    if (found?.entries) takeOver(journal, found.entries);
    if (best.error !== undefined) noteChoice(journal, best, variants.length * ranges.length);
    const { model: result, plan: made, codes, observed } = best.variant;
    const reference = cloneModel(result);
    const written = writeStatic(result, made, codes, gridsOf(made, observed, best.ranges, chosen), chosen, journal);
    if (chosen.fit !== "none") {
      const limit = Math.min(chosen.samples, calibrate.size);
      const { seed, signal } = context;
      const stream = (): AsyncGenerator<Feeds> =>
        dataFeeds(reference, calibrate, { limit, size: chosen.batch, seed, signal });
      const fitted = new Journal();
      const learn = { iterations: chosen.iterations, batch: chosen.fitBatch };
      const models = { quantized: result, reference, linear: made.linear, codes, written };
      const left = await fitUnits(
        models,
        stream,
        { fit: chosen.fit, samples: limit, learn },
        { ...context, journal: fitted },
      );
      for (const { what, why } of fitted.skipped) journal.skip(what, why);
      journal.note(
        `Fitted to the original (${chosen.fit}): ${(100 * left).toFixed(0)} % of each part's error is left on average.`,
      );
    }
    await packNarrow(result, made.linear, codes);
    if (chosen.form === "qoperator") noteForm(toQOperators(result), journal);
    notePorts(integerPorts(result, ports), journal);
    const others = plan.nodes.size - plan.linear.length;
    if (others > 0) journal.note(`${others} operators between them run on int8 too.`);
    return result;
  },
});

/** The model as it is, the model with equalized channels, or both; the latter with what the journal says of it. */
async function variantsOf(
  model: Model,
  chosen: z.output<typeof options>,
  { planning, formats }: { readonly planning: QdqPlanOptions; readonly formats: StaticFormats },
  context: Context,
): Promise<{ variant: Variant; entries: Journal | undefined }[]> {
  const kernels = await loadKernels();
  const made: { variant: Variant; entries: Journal | undefined }[] = [];
  const reduceRange = await reducesRange(chosen.reduceRange, context);
  const add = async (name: string, each: Model, entries?: Journal): Promise<void> => {
    const plan = planQdq(each, planning);
    const observed = await measure(each, plan, kernels, chosen, context);
    const codes: LinearCodes[] = [];
    for (const linear of plan.linear)
      codes.push(await linearCodes(each, kernels, linear, { ...chosen, reduceRange, ...formats.weightsOf(linear) }));
    made.push({ variant: { name, model: each, plan, observed, codes }, entries });
  };
  const equal = chosen.equalize === "never" ? undefined : cloneModel(model);
  const entries = new Journal();
  const changed = equal
    ? await equalizeModel(
        equal,
        { ...EQUALIZE, batch: chosen.batch, samples: chosen.samples, keep: chosen.keep },
        { ...context, journal: entries },
      )
    : 0;
  if (chosen.equalize !== "always" || changed === 0) await add("as they are", model);
  if (equal && changed > 0) await add("equalized", equal, entries);
  return made;
}

function dataOf({ data }: Context): Dataset {
  if (data) return data;
  throw new PareError("bad-option", "quantize needs calibration samples", { help: "Name them with --data" });
}

function noteForm({ converted, left }: QOperatorResult, journal: Journal): void {
  journal.note(`${converted} operators take integers themselves (form qoperator).`);
  for (const { what, why } of left) journal.skip(what, `no integer operator: ${why}`);
}

function notePorts({ changed, left }: IntegerPorts, journal: Journal): void {
  for (const { what, grid } of changed)
    journal.note(`'${what}' is ${grid.dtype} now, standing for (code − ${grid.zeroPoint}) × ${grid.scale}.`);
  for (const { what, why } of left) journal.skip(what, `stays as it is: ${why}`);
}

function takeOver(journal: Journal, from: Journal): void {
  for (const change of from.changed) journal.change(change);
  for (const note of from.notes) journal.note(note);
}

function noteChoice(journal: Journal, { variant, ranges, error }: Choice, of: number): void {
  const { calibration, percentile } = ranges;
  journal.note(
    `Channels ${variant.name}, ranges by ${calibration}${calibration === "percentile" ? ` ${percentile}` : ""}: outputs differ by ${(100 * (error ?? 0)).toPrecision(2)} % of their size on calibration samples, the least of ${of} choices.`,
  );
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
  if (fold) await foldLayers(model, context.journal);
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
