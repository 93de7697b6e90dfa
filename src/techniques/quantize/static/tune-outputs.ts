/**
 * The end of fitting: biases, weight scales and the rounding of narrow weights of all layers of a statically quantized model learn
 * together what the float model's outputs are, so that layers make good what those before them could not. Biases alone: Finkelstein et
 * al. 2019, "Fighting Quantization Bias With Bias" (arXiv 1906.03193).
 */
import { inferShapes } from "../../../analyse/shapes.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { type Augmentation, augment, augments } from "../../../data/augment.ts";
import type { Batch, Dataset } from "../../../data/dataset.ts";
import { Builder } from "../../../ir/builder.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { Tensor } from "../../../ir/tensor.ts";
import { add, mul, scalar, scale, type Site, sub } from "../../../ops/gradients/words.ts";
import { feedChunks } from "../../../run/feeds.ts";
import type { Feeds, NdArray } from "../../../run/session.ts";
import { bindBatch } from "../../../train/bind-batch.ts";
import { imageBlock } from "../../../train/blocked/image-block.ts";
import { mean, square } from "../../../train/losses/words.ts";
import { objectiveStep } from "../../../train/objective-step.ts";
import { convertOpset } from "../../../transform/opset.ts";
import { engine } from "../../engine.ts";
import { portsOf } from "../../samples.ts";
import type { Context } from "../../technique.ts";
import { TRAINING_OPSET } from "../../training.ts";
import type { FitModels } from "./fit-units.ts";
import { type LinearCodes, storedBits } from "./linear-weights.ts";
import { annealing, hardCodes, openness, roundingRate, type Soft, softWeight } from "./soft-rounding.ts";
import type { Reference } from "./static-choice.ts";
import { keptLayer, type StoredLayer, storedLayer, writeLayer } from "./stored-layer.ts";

export interface TuneOptions {
  readonly steps: number;
  /** Samples per step. */
  readonly batch: number;
  /** Learn the rounding of 4-bit weights too. */
  readonly rounding: boolean;
  /** How samples are varied; the float model answers for what it is shown. */
  readonly augmentation: Augmentation;
}

/** Adam moves a number by about the rate in each step: a share of a scale, or of the size of a layer's biases. */
const RATE = 3e-3;
/** What is left of it at the end, when rounding must still settle. */
const LAST_RATE = 0.2;
/** Rounding starts near the present codes, which the biases have been fitted to. */
const LEAN = 0.8;
/** Size of biases that are all zero, in their integer steps. */
const ZERO_BIASES = 1024;

type TunedModels = Pick<FitModels, "quantized" | "reference" | "linear" | "codes">;

/**
 * Tunes `quantized` in place, and keeps what brings the outputs nearer to those of the original on samples that were not learned
 * from, where `reference` has such. The journal says what came of it, or why it was not possible.
 */
export async function tuneOutputs(
  models: TunedModels,
  data: Dataset,
  reference: Reference,
  options: TuneOptions,
  context: Context,
): Promise<void> {
  const { quantized, linear } = models;
  const { journal } = context;
  const before = await reference.error(quantized);
  const restore = linear.map(({ node }) => keptLayer(node));
  try {
    const tuned = await learn(models, data, before, options, context);
    for (const [i, { node }] of linear.entries())
      await writeLayer(node, tuned[i]?.codes, tuned[i]?.biases, tuned[i]?.scales);
  } catch (error) {
    if (!(error instanceof PareError) || !["not-differentiable", "unsupported"].includes(error.code)) throw error;
    journal.skip("tuning against the outputs", error.message);
    return;
  }
  const after = await reference.error(quantized);
  const percent = (share: number): string => `${(100 * share).toPrecision(2)} %`;
  if (after < before)
    journal.note(
      `Tuned against the outputs: they differ by ${percent(after)} of their size on calibration samples, by ${percent(before)} before.`,
    );
  else {
    for (const each of restore) each();
    journal.skip("tuning against the outputs", "samples that it did not learn from come out no better");
  }
}

interface TunedLayer {
  readonly codes: Int8Array;
  readonly scales: Float32Array;
  readonly biases: Float32Array | undefined;
}

/**
 * min over g, c, V of Σ ‖ŷ − y‖²/‖y − mean y‖² over the outputs, with Ŵ = s·(1 + g)·q, b̂ = b + u·c, u the size of the layer's
 * biases, and, where rounding is learned, q = clip(⌊W/s⌋ + h(V)) with its pull.
 */
async function learn(
  { quantized, reference, linear, codes }: TunedModels,
  data: Dataset,
  before: number,
  { steps, batch, rounding, augmentation }: TuneOptions,
  context: Context,
): Promise<readonly (TunedLayer | undefined)[]> {
  const { threads, signal, onProgress, seed, provider } = context;
  const size = Math.min(batch, data.size);
  const ports = portsOf(reference);
  const feedsOf = (samples: Batch, step: number): Feeds => {
    const indices = Array.from({ length: samples.size }, (_, i) => i);
    const varied = augments(augmentation) ? augment(samples, augmentation, { seed, epoch: step, indices }) : samples;
    return feedChunks(ports, varied)[0]?.feeds ?? {};
  };
  const { openSession } = await engine();
  const original = await openSession(reference, { threads, signal });
  try {
    const first = feedsOf(await data.take(Array.from({ length: size }, (_, i) => i)), 0);
    const part = fixedBatch(quantized, first);
    const learned = await learnedLayers(part, linear, rounding ? codes : []);
    const { targets, beta, pull } = objective(part, await original.run(first), learned, before);
    const names = learned
      .flatMap((layer) => [layer?.gain, layer?.shift, layer?.soft?.rounding.name])
      .filter((name) => name !== undefined);
    const roundings = new Set(learned.map((layer) => layer?.soft?.rounding.name));
    const step = objectiveStep(part, {
      parameters: names,
      optimizer: "adam",
      groupOf: (name) =>
        roundings.has(name) ? { rate: roundingRate(steps) / (0.5 * (1 + LAST_RATE) * RATE) } : undefined,
      block: await imageBlock(openSession, provider),
    });
    const session = await openSession(step.model, { threads, signal });
    try {
      const resident = await session.resident(await step.initialState(), step.links);
      let done = 0;
      for (let epoch = 0; done < steps; epoch++)
        for await (const samples of data.batches({ size, dropLast: true, seed: seed + epoch, signal })) {
          throwIfAborted(signal);
          onProgress({ stage: "quantize: tuning against the outputs", done, total: steps });
          const feeds = feedsOf(samples, done);
          const wanted = await original.run(feeds);
          const rate = RATE * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + Math.cos((Math.PI * done) / steps)));
          const fed = Object.entries(targets).map(([output, name]) => [name, wanted[output] as NdArray] as const);
          const annealed = annealing(done / steps);
          const numbers = pull && beta ? { [pull]: number(annealed.pull), [beta]: number(annealed.beta) } : {};
          await resident.step({ ...step.scalars(done, rate), ...feeds, ...Object.fromEntries(fed), ...numbers }, []);
          if (++done === steps) break;
        }
      const state = await resident.read(names);
      return learned.map((layer, i) => layer && tunedLayer(layer, codes[i] as LinearCodes, state));
    } finally {
      await session.close();
    }
  } finally {
    await original.close();
  }
}

function number(value: number): NdArray {
  return { dtype: "float32", shape: [], data: Float32Array.of(value) };
}

/** A copy whose shapes are those that follow from the feeds. */
function fixedBatch(model: Model, feeds: Feeds): Model {
  const part = cloneModel(model);
  if (part.opset < TRAINING_OPSET) convertOpset(part, TRAINING_OPSET);
  const [rows = 1] = Object.values(feeds)[0]?.shape ?? [];
  bindBatch(part.graph, rows);
  for (const input of part.graph.inputs) input.shape = feeds[input.name]?.shape ?? input.shape;
  inferShapes(part);
  return part;
}

interface LearnedLayer {
  readonly stored: StoredLayer;
  /** Names of g and c. */
  readonly gain: string;
  readonly shift: string | undefined;
  /** u. */
  readonly unit: number;
  /** Where the rounding is learned. */
  readonly soft: Soft | undefined;
}

/** Puts s·(1 + g)·q and b + u·c in place of the weights and biases of the layers; `rounded`: where q is learned too. */
async function learnedLayers(
  part: Model,
  linear: FitModels["linear"],
  rounded: readonly LinearCodes[],
): Promise<(LearnedLayer | undefined)[]> {
  const nodes = new Map(part.graph.nodes.map((node) => [node.name, node]));
  const layers: (LearnedLayer | undefined)[] = [];
  for (const [i, layer] of linear.entries()) {
    const { name } = layer.node;
    const node = nodes.get(name);
    const stored = node && (await storedLayer(node, layer.channelAxis));
    if (!node || !stored) {
      layers.push(undefined);
      continue;
    }
    const s: Site = {
      b: new Builder(part.graph, { prefix: `tune/${name}/`, before: part.graph.nodes[0] }),
      opset: part.opset,
    };
    const constant = (word: string, shape: readonly number[], numbers: ArrayLike<number>): Value =>
      s.b.constant(word, Tensor.float32(shape, numbers));
    const gain = constant("gain", stored.scaleShape, new Float32Array(stored.scales.length));
    const scales = mul(s, constant("scales", stored.scaleShape, stored.scales), add(s, scalar(s, "float32", 1), gain));
    const own = rounded[i];
    const soft = own && storedBits(own) === 4 ? softWeight(s, stored, own, LEAN, scales) : undefined;
    const fixed = (): Value => mul(s, constant("codes", stored.shape, Float32Array.from(stored.codes)), scales);
    node.setInput(1, soft?.weight ?? fixed());
    const { biases } = stored;
    const unit = biases ? rootMeanSquare(biases) || ZERO_BIASES * rootMeanSquare(stored.biasScales ?? []) : 1;
    const shift = biases && constant("shift", [biases.length], new Float32Array(biases.length));
    if (shift) node.setInput(2, add(s, constant("stay", [biases.length], biases), scale(s, shift, unit, "float32")));
    layers.push({ stored, gain: gain.name, shift: shift?.name, unit, soft });
  }
  return layers;
}

interface Objective {
  /** Names of the inputs that take what the outputs should be. */
  readonly targets: Readonly<Record<string, string>>;
  /** Names of the inputs that take β and the weight of the pull. */
  readonly beta: string | undefined;
  readonly pull: string | undefined;
}

/** Makes the squared error of all outputs, relative to that before, and the pull of what is rounded, the model's only output. */
function objective(
  part: Model,
  wanted: Feeds,
  learned: readonly (LearnedLayer | undefined)[],
  before: number,
): Objective {
  const site: Site = { b: new Builder(part.graph, { prefix: "tune/" }), opset: part.opset };
  const names: Record<string, string> = {};
  const errors = part.graph.outputs.flatMap((output) => {
    const example = wanted[output.name];
    if (example?.dtype !== "float32") return [];
    const target = site.b.input(`wanted/${output.name}`, "float32", [...example.shape]);
    names[output.name] = target.name;
    const error = mean(site, square(site, sub(site, output, target)), example.shape);
    return [scale(site, error, 1 / (variance(example.data as Float32Array) || 1) / (before ** 2 || 1), "float32")];
  });
  if (errors.length === 0) throw new PareError("not-differentiable", "The model has no output of floats");
  const soft = learned.flatMap((layer) => (layer?.soft ? [{ ...layer.soft, shape: layer.stored.shape }] : []));
  const [beta, pull] =
    soft.length > 0 ? [site.b.input("beta", "float32", []), site.b.input("pull", "float32", [])] : [];
  if (beta && pull)
    for (const { share, shape } of soft) errors.push(mul(site, mean(site, openness(site, share, beta), shape), pull));
  part.graph.outputs.splice(
    0,
    part.graph.outputs.length,
    errors.length === 1 ? (errors[0] as Value) : site.b.op("Sum", errors),
  );
  inferShapes(part);
  return { targets: names, beta: beta?.name, pull: pull?.name };
}

function tunedLayer({ stored, gain, shift, unit, soft }: LearnedLayer, own: LinearCodes, state: Feeds): TunedLayer {
  const numbers = (name: string | undefined): Float32Array | undefined =>
    name === undefined ? undefined : (state[name]?.data as Float32Array);
  const [g, c] = [numbers(gain), numbers(shift)];
  return {
    codes: soft ? hardCodes(stored, own, numbers(soft.rounding.name) as Float32Array) : stored.codes,
    scales: stored.scales.map((s, i) => s * (1 + (g?.[i] ?? 0))),
    biases: stored.biases?.map((b, i) => b + unit * (c?.[i] ?? 0)),
  };
}

function rootMeanSquare(numbers: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < numbers.length; i++) sum += (numbers[i] ?? 0) ** 2;
  return Math.sqrt(sum / Math.max(1, numbers.length));
}

function variance(numbers: Float32Array): number {
  const average = numbers.reduce((sum, x) => sum + x, 0) / Math.max(1, numbers.length);
  return numbers.reduce((sum, x) => sum + (x - average) ** 2, 0) / Math.max(1, numbers.length);
}
