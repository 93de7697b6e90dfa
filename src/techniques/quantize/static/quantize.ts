/**
 * Weights and activations in 8-bit integers, with ranges measured on samples (static quantization).
 *
 * Helps: latency, about 2 times on CPUs with integer dot products (VNNI, ARM dot product); size by 4; memory traffic.
 * Hurts: accuracy by tenths of a point to a few points; depthwise networks (MobileNet, MCUNet) most.
 * Needs: calibration data, some hundred samples like those the model will see. No labels.
 * Cost: two passes over the samples for each of the two forms of the channels (one with `equalize` never), a short run for each
 *   way of choosing ranges, and gradients of 48 samples (each about ten runs); memory is one batch. Fitting reads both models
 *   once more, from a remembered cut, and holds one part's samples (256 MB at most). A step of tuning costs about ten runs of
 *   its samples.
 * Maths: x ≈ (q − z)·s. Weights symmetric int8 per output channel, s = max|w|/127; activations uint8 with
 * s = (h − l)/255, z = round(−l/s) over the calibrated range [l, h]; biases int32 with s_x·s_w. Rectifiers and clips become
 * the ends of the range. What an error δ in an activation does to the outputs is J δ, E‖J δ‖² = E(uᵀJ δ)² over random directions
 * u: `auto` ends with the range of least effect for each value, and where outputs still differ by 5 % leaves the layers around
 * the worst values in floating point. Biases take back Σ (ŵ − w)·E[x].
 * Paper: Jacob et al. 2018 (arXiv 1712.05877); Krishnamoorthi 2018 (arXiv 1806.08342); Nagel et al. 2021 (arXiv 2106.08295);
 *   fit: Nagel et al. 2019 (arXiv 1906.04721), 2020 (arXiv 2004.10568), Li et al. 2021 (arXiv 2102.05426); tuneSteps:
 *   Finkelstein et al. 2019 (arXiv 1906.03193).
 */
import { z } from "zod";
import { nameOf } from "../../../analyse/keep.ts";
import { PareError } from "../../../base/error.ts";
import type { Dataset } from "../../../data/dataset.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Model } from "../../../ir/model.ts";
import type { Feeds } from "../../../run/session.ts";
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
import type { Calibration } from "./calibrate.ts";
import { fitUnits } from "./fit-units.ts";
import { foldLayers } from "./fold-layers.ts";
import { channelNormals } from "../../../transform/channel-normals.ts";
import { keepReason, type QdqPlanOptions, planQdq } from "./qdq-plan.ts";
import { refine } from "./refine.ts";
import {
  type Choice,
  chooseStatic,
  type RangeChoice,
  Reference,
  splitCalibration,
  writeChoice,
} from "./static-choice.ts";
import { packNarrow } from "../pack-narrow.ts";
import { reduceRangeOption } from "../reduce-range.ts";
import { STATIC_FORMATS, staticFormats } from "./static-formats.ts";
import { variantsOf } from "./static-variants.ts";
import { tuneOutputs } from "./tune-outputs.ts";
import { endsOptionOf, layersOptionOf, onlyOption } from "../weights/layer-formats.ts";

/** First opset whose DequantizeLinear takes a scale per channel. */
const PER_CHANNEL_OPSET = 13;

/** What "auto" tries. */
const RANGES: readonly RangeChoice[] = [
  { calibration: "min-max", percentile: 100 },
  { calibration: "average", percentile: 100 },
  { calibration: "percentile", percentile: 99.9 },
  { calibration: "percentile", percentile: 99.99 },
  { calibration: "percentile", percentile: 99.999 },
  { calibration: "entropy", percentile: 100 },
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
  fitBatch: z.int().min(1).default(16).describe("samples per step (fit layers or blocks, tuneSteps)"),
  tuneSteps: z
    .int()
    .min(0)
    .default(0)
    .describe(
      "steps at the end in which biases, weight scales and the rounding of 4-bit weights of all layers learn together what the original's outputs are; with fitBatch samples each",
    )
    .meta({ search: choices(0, 300) }),
  tuneRounding: z.boolean().default(true).describe("learn the rounding of 4-bit weights as well (tuneSteps)"),
  flip: z.boolean().default(false).describe("mirror images at random (tuneSteps)"),
  crop: z.int().min(0).default(0).describe("pad images by so many pixels and crop them at random (tuneSteps)"),
  layout: z.enum(["nchw", "nhwc"]).default("nchw").describe("order of the axes of images (flip, crop)"),
  samples: z
    .number()
    .int()
    .min(1)
    .default(256)
    .describe("calibration samples")
    .meta({ search: range(32, 512, { log: true, integer: true }) }),
  batch: z.number().int().min(1).default(16).describe("samples per calibration run: memory grows with it"),
  calibration: z
    .enum(["auto", "min-max", "average", "percentile", "entropy", "mse"])
    .default("auto")
    .describe(
      "range of an activation: everything seen, the mean of each batch's ends, a share of the values, the least loss of information (KL divergence), or the least squared error; auto tries all of them, then chooses value by value what changes the outputs least",
    )
    .meta({ search: choices("min-max", "percentile", "entropy", "mse") }),
  percentile: z
    .number()
    .gt(50)
    .max(100)
    .default(99.99)
    .describe("values inside the range, in percent (calibration percentile)")
    .meta({ search: choices(99.9, 99.99, 99.999) }),
  floatShare: z
    .number()
    .min(0)
    .max(1)
    .default(0.1)
    .describe(
      "share of the multiply-accumulates that may stay in floating point (their weights are stored in int8 all the same), where 8-bit activations change the outputs most; spent only while outputs differ by more than 5 % (calibration auto, to int8)",
    )
    .meta({ search: choices(0, 0.05, 0.1) }),
  activations: z.enum(["uint8", "int8"]).default("uint8").describe("integers of activations"),
  symmetric: z.boolean().default(false).describe("activation ranges symmetric around zero, zero point in the middle"),
  perChannel: z.boolean().default(true).describe("one weight scale per output channel instead of one per weight"),
  method: z.enum(["range", "mse"]).default("mse").describe("weight scales: cover the range, or least squared error"),
  balance: z
    .boolean()
    .default(true)
    .describe(BALANCE_TEXT)
    .meta({ search: choices(true, false) }),
  correct: z
    .enum(["samples", "statistics", "none"])
    .default("samples")
    .describe(
      "take back what rounded weights add to each channel on average, in the biases: with means of the samples, or with those that BatchNormalization states (channels that are not equalized)",
    )
    .meta({ search: choices("samples", "none") }),
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
    const normals = chosen.correct === "statistics" ? channelNormals(model) : undefined;
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
    const calibrating = { ...context, data: calibrate };
    const variants = await variantsOf(model, { ...chosen, planning, formats, normals }, calibrating);
    const isAuto = chosen.calibration === "auto";
    const ranges = isAuto ? RANGES : [{ ...chosen, calibration: chosen.calibration as Calibration }];
    const reference = await Reference.of(model, { ...context, data: choose });
    const all = { ...chosen, planning };
    const tried: Choice[] = [];
    for (const group of isAuto ? variants.map((one) => [one]) : [variants]) {
      const own = group.map(({ variant }) => variant);
      const uniform = await chooseStatic(own, ranges, all, reference, context);
      tried.push(isAuto ? await refine(uniform, all, reference, calibrating) : uniform);
    }
    const best = tried.reduce((a, b) => ((b.error ?? 0) < (a.error ?? 0) ? b : a));
    const found = variants.find(({ variant }) => variant === best.variant);
    if (found?.entries) takeOver(journal, found.entries);
    if (best.error !== undefined) noteChoice(journal, best, variants.length * ranges.length);
    const { model: result } = best.variant;
    const original = cloneModel(result);
    const { linear, codes, written } = writeChoice(result, best, all, journal);
    if (chosen.fit !== "none") {
      const limit = Math.min(chosen.samples, calibrate.size);
      const { seed, signal } = context;
      const stream = (): AsyncGenerator<Feeds> =>
        dataFeeds(original, calibrate, { limit, size: chosen.batch, seed, signal });
      const fitted = new Journal();
      const learn = { iterations: chosen.iterations, batch: chosen.fitBatch };
      const models = { quantized: result, reference: original, linear, codes, written };
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
    if (chosen.tuneSteps > 0) {
      const { tuneSteps: steps, fitBatch, flip, crop, layout } = chosen;
      const tuning = { steps, batch: fitBatch, rounding: chosen.tuneRounding, augmentation: { flip, crop, layout } };
      await tuneOutputs(
        { quantized: result, reference: original, linear, codes },
        calibrate,
        reference,
        tuning,
        context,
      );
    }
    await packNarrow(result, linear, codes);
    if (chosen.form === "qoperator") noteForm(toQOperators(result), journal);
    notePorts(integerPorts(result, ports), journal);
    const others = plan.nodes.size - plan.linear.length;
    if (others > 0) journal.note(`${others} operators between them run on int8 too.`);
    return result;
  },
});

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

function noteChoice(journal: Journal, { variant, method, error }: Choice, of: number): void {
  journal.note(
    `Channels ${variant.name}, ${method}: outputs differ by ${(100 * (error ?? 0)).toPrecision(2)} % of their size on calibration samples, the least of ${of} choices.`,
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
