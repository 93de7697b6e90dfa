/** Statistics of a tapped value: range, moments and histogram by SIMD kernels, one batch at a time. */
import type { AxisLayout, Kernels } from "../kernels/kernels.ts";
import { elementCount } from "../base/shape.ts";
import { asFloat32 } from "./arrays.ts";
import type { NdArray } from "./session.ts";

/** Keeps statistics of one value. */
export interface Reducer<T> {
  /** Takes one batch of the value; the array must not be kept. */
  add(array: NdArray): void;
  result(): T;
}

/** Everything about a value that one pass tells. */
export interface Moments {
  /** Finite elements. */
  readonly count: number;
  readonly min: number;
  readonly max: number;
  readonly mean: number;
  /** Σ(x − mean)²/n. */
  readonly variance: number;
  readonly meanAbs: number;
  readonly zeros: number;
  readonly notFinite: number;
}

/** Range and moments over all elements. */
export function momentsReducer(kernels: Kernels): Reducer<Moments> {
  let [count, sum, sumSquares, sumAbs, zeros, notFinite] = [0, 0, 0, 0, 0, 0];
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  return {
    add(array) {
      const part = kernels.summarize(asFloat32(array));
      count += part.count;
      sum += part.sum;
      sumSquares += part.sumSquares;
      sumAbs += part.sumAbs;
      zeros += part.zeros;
      notFinite += part.nan + part.infinite;
      min = Math.min(min, part.min);
      max = Math.max(max, part.max);
    },
    result() {
      const mean = sum / count;
      const variance = Math.max(0, sumSquares / count - mean * mean);
      return { count, min, max, mean, variance, meanAbs: sumAbs / count, zeros, notFinite };
    },
  };
}

/** Per channel along an axis. */
export interface ChannelMoments {
  readonly min: Float32Array; // (channels)
  readonly max: Float32Array; // (channels)
  readonly mean: Float64Array; // (channels)
  readonly meanSquare: Float64Array; // (channels)
}

/** Range and moments per channel of axis `axis` (negative from the end), default 1. */
export function channelReducer(kernels: Kernels, axis = 1): Reducer<ChannelMoments> {
  let total: { min: Float32Array; max: Float32Array; sum: Float64Array; squares: Float64Array } | undefined;
  let perChannel = 0;
  return {
    add(array) {
      const layout = layoutOf(array, axis);
      const part = kernels.summarizeChannels(asFloat32(array), layout);
      perChannel += layout.outer * layout.inner;
      if (!total) {
        total = { min: part.min, max: part.max, sum: part.sum, squares: part.sumSquares };
        return;
      }
      for (let c = 0; c < layout.channels; c++) {
        total.min[c] = Math.min(total.min[c] as number, part.min[c] as number);
        total.max[c] = Math.max(total.max[c] as number, part.max[c] as number);
        total.sum[c] = (total.sum[c] as number) + (part.sum[c] as number);
        total.squares[c] = (total.squares[c] as number) + (part.sumSquares[c] as number);
      }
    },
    result() {
      const { min, max, sum, squares } = total ?? {
        min: new Float32Array(),
        max: new Float32Array(),
        sum: new Float64Array(),
        squares: new Float64Array(),
      };
      return {
        min,
        max,
        mean: sum.map((value) => value / perChannel),
        meanSquare: squares.map((value) => value / perChannel),
      };
    },
  };
}

function layoutOf(array: NdArray, axis: number): AxisLayout {
  const at = axis < 0 ? axis + array.shape.length : axis;
  return {
    outer: elementCount(array.shape.slice(0, at)),
    channels: array.shape[at] ?? 1,
    inner: elementCount(array.shape.slice(at + 1)),
  };
}

/** Equal bins over [low, high], and how many elements lay outside. */
export interface Histogram {
  readonly low: number;
  readonly high: number;
  readonly counts: Float64Array;
  readonly below: number;
  readonly above: number;
  readonly notFinite: number;
}

/** A histogram over a range that is known before (from a first pass with {@link momentsReducer}). */
export function histogramReducer(kernels: Kernels, low: number, high: number, bins = 2048): Reducer<Histogram> {
  const counts = new Float64Array(bins);
  let [below, above, notFinite] = [0, 0, 0];
  return {
    add(array) {
      const rest = kernels.histogram(asFloat32(array), low, high, counts);
      below += rest.below;
      above += rest.above;
      notFinite += rest.notFinite;
    },
    result: () => ({ low, high, counts, below, above, notFinite }),
  };
}
