/** How far outliers of activations move into weights: scales of a layer's inputs, and the exponent that 8 bits lose the least with. */
import { bytesOf } from "../../base/dtype.ts";
import type { Kernels } from "../../kernels/types.ts";
import { asFloat32 } from "../../run/arrays.ts";
import type { Matrix, MatrixEngine } from "../../run/matrix-engine.ts";
import { type ChannelMoments, type Reducer, channelReducer } from "../../run/reducers.ts";
import { scaleInputs } from "./weights/awq.ts";
import type { Weights } from "./weights/weight-grid.ts";

/** What is kept of a layer's inputs. */
export interface SmoothStatistics {
  /** Ends of each channel over all samples. */
  readonly ends: ChannelEnds;
  /** Over every other batch: what scales are made of while exponents are compared, so that values never seen before count. */
  readonly seen: ChannelEnds;
  /** Some rows, evenly over the samples. */
  readonly rows: Matrix; // (rows, k)
}

export type ChannelEnds = Pick<ChannelMoments, "min" | "max">;

/** Ends of each channel, and at most `most` rows, `perBatch` of each batch. */
export function smoothReducer(kernels: Kernels, most: number, perBatch: number): Reducer<SmoothStatistics> {
  const halves = [channelReducer(kernels, -1), channelReducer(kernels, -1)] as const;
  let batches = 0;
  const kept: Float32Array[] = [];
  let cols = 0;
  return {
    add(array) {
      (batches++ % 2 === 0 ? halves[0] : halves[1]).add(array);
      const data = asFloat32(array);
      cols = array.shape.at(-1) ?? 1;
      const rows = data.length / cols;
      const count = Math.min(perBatch, rows, most - kept.length);
      for (let i = 0; i < count; i++) {
        const row = Math.floor(((i + 0.5) * rows) / count);
        kept.push(data.slice(row * cols, (row + 1) * cols));
      }
    },
    result() {
      const data = new Float32Array(kept.length * cols);
      for (const [i, row] of kept.entries()) data.set(row, i * cols);
      const [seen, other] = [halves[0].result(), halves[1].result()];
      const ends =
        batches > 1
          ? {
              min: seen.min.map((low, c) => Math.min(low, other.min[c] as number)),
              max: seen.max.map((high, c) => Math.max(high, other.max[c] as number)),
            }
          : seen;
      return { ends, seen, rows: { rows: kept.length, cols, data } };
    },
  };
}

/** Exponents that are tried. */
const ALPHAS = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1] as const;
/** Magnitudes are taken to be at least this, as in the paper's code. */
const SMALLEST = 1e-5;
/** Scales beyond are no outliers but channels that are never used. */
const LARGEST_SCALE = 1e4;

/** s_c = max|X_c|^α / max|W_c|^(1−α), over all layers that read X; 1 where a channel or its weights are zero. */
export function smoothScales({ min, max }: ChannelEnds, layers: readonly Weights[], alpha: number): Float32Array {
  const peaks = weightPeaks(layers, min.length);
  return Float32Array.from(peaks, (weight, c) => {
    const activation = Math.max(Math.abs(min[c] as number), Math.abs(max[c] as number));
    if (!(activation > 0) || !(weight > 0)) return 1;
    const scale = Math.max(activation, SMALLEST) ** alpha / Math.max(weight, SMALLEST) ** (1 - alpha);
    return Math.min(LARGEST_SCALE, Math.max(1 / LARGEST_SCALE, scale));
  });
}

/** max_o |W_co|. */
function weightPeaks(layers: readonly Weights[], k: number): Float64Array {
  const peaks = new Float64Array(k);
  for (const { n, data } of layers)
    for (let c = 0, at = 0; c < k; c++)
      for (const end = at + n; at < end; at++) peaks[c] = Math.max(peaks[c] as number, Math.abs(data[at] as number));
  return peaks;
}

export interface SmoothChoice {
  /** undefined: the layer is better left as it is. */
  readonly scales: Float32Array | undefined;
  readonly alpha: number | undefined;
  /** ‖Ŷ − Y‖/‖Y‖ of the layers' outputs on the kept rows, weights and activations in 8 bits: as it was, and with the scales. */
  readonly before: number;
  readonly after: number;
}

/**
 * The exponent with the least error of all layers' outputs in 8 bits, or the given one. Compared are scales made of half of the
 * samples, over the range that all of them need: channels that are stretched to the last value seen stretch the range for all when
 * the next sample goes beyond.
 */
export async function chooseSmoothing(
  engine: MatrixEngine,
  kernels: Kernels,
  { ends, seen, rows }: SmoothStatistics,
  layers: readonly Weights[],
  alpha: number | undefined,
): Promise<SmoothChoice> {
  const targets: Matrix[] = [];
  for (const weights of layers) targets.push(await engine.product(rows, matrixOf(weights)));
  const size = Math.sqrt(targets.reduce((sum, { data }) => sum + dot(kernels, data, data), 0)) || 1;
  const errorOf = async (scales: Float32Array): Promise<number> => {
    const input = eightBitInputs(rows, ends, scales);
    let error = 0;
    for (const [i, weights] of layers.entries()) {
      const output = await engine.product(input, matrixOf(eightBitWeights(kernels, scaleInputs(weights, scales))));
      const difference = output.data.map((y, at) => y - (targets[i]?.data[at] as number));
      error += dot(kernels, difference, difference);
    }
    return Math.sqrt(error) / size;
  };
  const before = await errorOf(new Float32Array(rows.cols).fill(1));
  let best: SmoothChoice = { scales: undefined, alpha: undefined, before, after: before };
  for (const each of alpha === undefined ? ALPHAS : [alpha]) {
    const after = await errorOf(smoothScales(seen, layers, each));
    if (alpha === undefined && after >= best.after) continue;
    best = { scales: smoothScales(ends, layers, each), alpha: each, before, after };
  }
  return best;
}

const matrixOf = ({ k, n, data }: Weights): Matrix => ({ rows: k, cols: n, data });

function dot(kernels: Kernels, a: Float32Array, b: Float32Array): number {
  return kernels.compare(a, b).dot;
}

/** X/s rounded to 256 steps over its range in all samples, as numbers. */
function eightBitInputs({ rows, cols, data }: Matrix, { min, max }: ChannelEnds, scales: Float32Array): Matrix {
  let [low, high] = [0, 0];
  for (let c = 0; c < cols; c++) {
    low = Math.min(low, (min[c] as number) / (scales[c] as number));
    high = Math.max(high, (max[c] as number) / (scales[c] as number));
  }
  const step = (high - low) / 255 || 1;
  const zero = Math.round(-low / step);
  return {
    rows,
    cols,
    data: data.map((x, at) => {
      const code = Math.round(x / (scales[at % cols] as number) / step) + zero;
      return (Math.max(0, Math.min(255, code)) - zero) * step;
    }),
  };
}

/** W rounded to int8 with one scale for each output, as numbers. */
function eightBitWeights(kernels: Kernels, { k, n, data }: Weights): Weights {
  const layout = { outer: k, channels: n, inner: 1 };
  const { codes, scales } = kernels.quantizeChannels(data, layout, { low: -127, high: 127, scale: "range" });
  const integers = new Int8Array(bytesOf(codes).slice().buffer);
  return { k, n, data: Float32Array.from(integers, (code, at) => code * (scales[at % n] as number)) };
}
