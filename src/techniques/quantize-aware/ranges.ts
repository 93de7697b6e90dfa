/** Where training for low bits begins: scales of least squared error, of weights by search and of activations from samples. */
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Kernels } from "../../kernels/types.ts";
import { type Observed, observe } from "../quantize/static/calibrate.ts";
import { gridOf, leastErrorRange } from "../quantize/static/range-search.ts";
import { dataFeeds } from "../samples.ts";
import type { Context } from "../technique.ts";
import type { AwarePlan, Layer, Rounding } from "./plan.ts";
import type { ActivationStart, WeightRule, WeightStart } from "./simulate.ts";

/** Bits of a weight as the options name them. */
export type WeightBits = 8 | 4 | 3 | 2 | "ternary" | "binary";

/** Scales that follow the data of a learned rule: least squares for a bit pattern of two codes is the mean magnitude. */
const mean = (values: Float32Array): number => values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length;

/** Smallest scale that a grid begins with: a channel of zeros has none of its own. */
const LEAST_SCALE = 1e-6;

/**
 * Codes −2^(b−1)..2^(b−1) − 1 at 2, 3, 4 bits (−127..127 at 8), −1..1 of ternary and ±1 of binary weights, with scales of least squared
 * error; `rule` "mean" lets the weights decide theirs at every step, "trained" (ternary) learns one for each sign.
 */
export async function weightStart(
  kernels: Kernels,
  layer: Layer,
  bits: WeightBits,
  options: {
    readonly perChannel: boolean;
    readonly rule: "learned" | "mean" | "trained";
    readonly reduceRange: boolean;
  },
): Promise<Omit<WeightStart, "learns">> {
  const tensor = layer.weight.tensor as Tensor;
  const data = (await tensor.data()) as Float32Array;
  const channels = tensor.shape[layer.axis] ?? 1;
  const { perChannel } = options;
  const inner = tensor.shape.slice(layer.axis + 1).reduce((product, size) => product * size, 1);
  const layout = perChannel
    ? { outer: data.length / channels / inner, channels, inner }
    : { outer: 1, channels: 1, inner: data.length };
  const stored = (scales: Float32Array): Tensor =>
    Tensor.float32(
      perChannel ? [channels] : [],
      scales.map((scale) => Math.max(LEAST_SCALE, scale)),
    );
  if (bits === "binary") {
    const rule: WeightRule = options.rule === "learned" ? "binary" : "mean-binary";
    const learned = rule === "binary" ? [stored(meanMagnitudes(data, layout))] : [];
    return { rule, bits: 1, low: -1, high: 1, perChannel, learned };
  }
  if (bits === "ternary" && options.rule === "trained") {
    const all = Tensor.float32([], [Math.max(LEAST_SCALE, mean(data))]);
    return { rule: "trained-ternary", bits: 2, low: -1, high: 1, perChannel: false, learned: [all, all] };
  }
  if (bits === "ternary" && options.rule === "mean")
    return { rule: "mean-ternary", bits: 2, low: -1, high: 1, perChannel, learned: [] };
  const high = bits === "ternary" ? 1 : bits === 8 && options.reduceRange ? 63 : 2 ** (bits - 1) - 1;
  const low = bits === "ternary" || bits === 8 ? -high : -high - 1;
  const { scales } = kernels.quantizeChannels(data, layout, { low, high, scale: "mse" });
  return { rule: "uniform", bits: bits === "ternary" ? 2 : bits, low, high, perChannel, learned: [stored(scales)] };
}

/** Mean magnitude of each channel. */
function meanMagnitudes(
  data: Float32Array,
  { outer, channels, inner }: { readonly outer: number; readonly channels: number; readonly inner: number },
): Float32Array {
  const sums = new Float64Array(channels);
  for (const [i, value] of data.entries()) {
    const c = Math.floor(i / inner) % channels;
    sums[c] = (sums[c] ?? 0) + Math.abs(value);
  }
  return Float32Array.from(sums, (sum) => sum / (outer * inner));
}

/** Statistics of every activation that will be rounded, by name, on samples of the data. */
export async function observeActivations(
  model: Model,
  plan: AwarePlan,
  kernels: Kernels,
  samples: number,
  context: Context,
): Promise<ReadonlyMap<string, Observed>> {
  const { data, seed, signal, threads } = context;
  if (!data || plan.roundings.length === 0) return new Map();
  const names = [...new Set(plan.roundings.flatMap(({ roots }) => [...roots].map(({ name }) => name)))];
  const limit = Math.min(samples, data.size);
  const batches = Math.ceil(limit / BATCH);
  return observe(model, names, () => dataFeeds(model, data, { limit, size: BATCH, seed, signal }), kernels, {
    histograms: true,
    threads,
    signal,
    onBatch: (batch) => context.onProgress({ stage: "quantize-aware: ranges", done: batch + 1, total: batches }),
  });
}

/** Samples of one run of the observers. */
const BATCH = 32;

/** The range of least squared error at that many bits, over all values that share the grid. */
export function activationStart(
  observed: ReadonlyMap<string, Observed>,
  rounding: Rounding,
  bits: number,
  learns: boolean,
): ActivationStart {
  let [low, high] = [0, 0];
  for (const value of rounding.roots) {
    const seen = observed.get(value.name);
    if (!seen) continue;
    const found = seen.histogram ? leastErrorRange(seen.histogram, 2 ** bits) : seen.ends;
    low = Math.min(low, found.low);
    high = Math.max(high, found.high);
  }
  const grid = gridOf({ low, high }, "uint8", false);
  const scale = (grid.scale * 255) / (2 ** bits - 1);
  return { bits, scale, zeroPoint: low < 0 ? Math.round(-low / scale) : undefined, learns };
}
