/** Reductions over tensors in plain TypeScript: the oracles of the SIMD kernels. */
import { binsPerUnit, roundClamped } from "../scalar.ts";
import type { Comparison, Extent, HistogramRest, Summary } from "../types.ts";

/** Least and greatest of finite elements. */
export function extent(x: Float32Array): Extent | undefined {
  const { count, min, max } = summarize(x);
  return count > 0 && count === x.length ? { min, max } : undefined;
}

/** Minimum, maximum, moments and counts of the finite elements. */
export function summarize(x: Float32Array): Summary {
  const s = {
    count: 0,
    min: Infinity,
    max: -Infinity,
    sum: 0,
    sumSquares: 0,
    sumAbs: 0,
    zeros: 0,
    nan: 0,
    infinite: 0,
  };
  for (const value of x) {
    if (Number.isNaN(value)) s.nan++;
    else if (Math.abs(value) === Infinity) s.infinite++;
    else {
      s.count++;
      if (value < s.min) s.min = value;
      if (value > s.max) s.max = value;
      s.sum += value;
      s.sumSquares += value * value;
      s.sumAbs += Math.abs(value);
      if (value === 0) s.zeros++;
    }
  }
  return s;
}

/** bin = ⌊(x − low)·bins/(high − low)⌋, every operation rounded to float32; the last bin holds x = high. A range wider than float32 fills bin 0. */
export function histogram(x: Float32Array, low: number, high: number, counts: Float64Array): HistogramRest {
  return count(x, low, high, counts, (value) => value);
}

/** The same of |x| over [0, high]. */
export function histogramAbs(x: Float32Array, high: number, counts: Float64Array): HistogramRest {
  return count(x, 0, high, counts, Math.abs);
}

function count(
  x: Float32Array,
  low: number,
  high: number,
  counts: Float64Array,
  map: (value: number) => number,
): HistogramRest {
  const { fround } = Math;
  const [from, to, bins] = [fround(low), fround(high), counts.length];
  const perUnit = binsPerUnit(from, to, bins);
  const rest = { below: 0, above: 0, notFinite: 0 };
  for (const element of x) {
    const value = map(element);
    if (!Number.isFinite(value)) rest.notFinite++;
    else if (value < from) rest.below++;
    else if (value > to) rest.above++;
    else {
      const bin = Math.min(bins - 1, Math.floor(fround(fround(value - from) * perUnit)) || 0);
      counts[bin] = (counts[bin] as number) + 1;
    }
  }
  return rest;
}

/** Elements that are not ±0; NaN counts. */
export function countNonZero(x: Float32Array): number {
  let nonZero = 0;
  for (const value of x) if (value !== 0) nonZero++;
  return nonZero;
}

/** Sums over the pairs in which both elements are finite. */
export function compare(a: Float32Array, b: Float32Array): Comparison {
  const c = {
    count: 0,
    squaredDifference: 0,
    dot: 0,
    squaredNormA: 0,
    squaredNormB: 0,
    maxAbsDifference: 0,
    sumAbsDifference: 0,
    notFinite: 0,
  };
  for (let i = 0; i < a.length; i++) {
    const p = a[i] as number;
    const q = b[i] as number;
    if (!Number.isFinite(p) || !Number.isFinite(q)) {
      c.notFinite++;
      continue;
    }
    const d = p - q;
    c.count++;
    c.squaredDifference += d * d;
    c.dot += p * q;
    c.squaredNormA += p * p;
    c.squaredNormB += q * q;
    c.maxAbsDifference = Math.max(c.maxAbsDifference, Math.abs(d));
    c.sumAbsDifference += Math.abs(d);
  }
  return c;
}

/** Σ g·(clamp(round(x/s))·s − x) for each grid (s, low, high), codes in float32 as the kernel's, sums in double precision. */
export function gridEffects(x: Float32Array, g: Float32Array, grids: Float32Array): Float64Array {
  const { fround } = Math;
  return Float64Array.from({ length: grids.length / 3 }, (_, i) => {
    const [s = 1, low = 0, high = 0] = grids.subarray(3 * i);
    let sum = 0;
    for (const [at, value] of x.entries()) {
      const q = roundClamped(fround(value / s), low, high);
      sum += fround(fround(q * s) - value) * (g[at] as number);
    }
    return sum;
  });
}
