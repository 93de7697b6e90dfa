/** Single-precision arithmetic exactly as the SIMD kernels do it: four lanes, round to nearest even. */
import { roundClamped } from "../scalar.ts";

/** Finite extremes, widened to hold 0. */
export interface Range {
  low: number;
  high: number;
  notFinite: number;
}

export function finiteRange(values: Float32Array, range: Range = { low: 0, high: 0, notFinite: 0 }): Range {
  for (const x of values) {
    if (!Number.isFinite(x)) range.notFinite++;
    else if (x < range.low) range.low = x;
    else if (x > range.high) range.high = x;
  }
  return range;
}

/** NaN becomes 0, an infinity the end of the finite range on its side. In place. */
export function replaceNotFinite(values: Float32Array, range: Range): void {
  if (range.notFinite === 0) return;
  for (let i = 0; i < values.length; i++) {
    const x = values[i] as number;
    if (Number.isNaN(x)) values[i] = 0;
    else if (x === Infinity) values[i] = range.high;
    else if (x === -Infinity) values[i] = range.low;
  }
}

/** Elements summed in single precision before the sum goes into a double: keeps long sums exact enough to rank scales. */
export const RUN = 256;

/** Σ (clamp(round(w/s))·s − w)² in the kernels' order: four float32 lanes, every {@link RUN} elements into a double. */
export function searchError(w: Float32Array, s: number, low: number, high: number): number {
  const { fround } = Math;
  const lanes = new Float32Array(4);
  let total = 0;
  for (let start = 0; start < w.length; start += RUN) {
    lanes.fill(0);
    const end = Math.min(start + RUN, w.length);
    for (let i = start; i < end; i++) {
      const x = w[i] as number;
      const q = roundClamped(fround(x / s), low, high);
      const e = fround(fround(q * s) - x);
      lanes[i & 3] = fround((lanes[i & 3] as number) + fround(e * e));
    }
    total += laneSum(lanes);
  }
  return total;
}

/** Σ q·w and Σ q² of the codes q that scale s gives, in the same order. */
export function refitSums(w: Float32Array, s: number, low: number, high: number): { qw: number; qq: number } {
  const { fround } = Math;
  const qwLanes = new Float32Array(4);
  const qqLanes = new Float32Array(4);
  let qw = 0;
  let qq = 0;
  for (let start = 0; start < w.length; start += RUN) {
    qwLanes.fill(0);
    qqLanes.fill(0);
    const end = Math.min(start + RUN, w.length);
    for (let i = start; i < end; i++) {
      const x = w[i] as number;
      const q = roundClamped(fround(x / s), low, high);
      qwLanes[i & 3] = fround((qwLanes[i & 3] as number) + fround(q * x));
      qqLanes[i & 3] = fround((qqLanes[i & 3] as number) + q * q);
    }
    qw += laneSum(qwLanes);
    qq += laneSum(qqLanes);
  }
  return { qw, qq };
}

function laneSum(lanes: Float32Array): number {
  const [a = 0, b = 0, c = 0, d = 0] = lanes;
  return a + b + (c + d);
}
