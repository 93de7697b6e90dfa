/** Magnitude selection and masks in plain TypeScript: the oracles of the SIMD kernels. */
import type { AxisLayout } from "../types.ts";

/** m being the 31 bits of |x|, counts (m >> shift) mod counts.length of the elements with m / (counts.length·2^shift) = prefix. */
export function countMagnitudes(x: Float32Array, shift: number, prefix: number, counts: Float64Array): void {
  const words = new Uint32Array(x.slice().buffer);
  for (const word of words) {
    const bits = (word & 0x7fffffff) >>> shift;
    const field = bits % counts.length;
    if ((bits - field) / counts.length === prefix) counts[field] = (counts[field] as number) + 1;
  }
}

/** 1 where |x| > threshold or NaN, and for the first `ties` elements with |x| = threshold. */
export function magnitudeMask(x: Float32Array, threshold: number, ties: number): { mask: Uint8Array; ties: number } {
  const mask = new Uint8Array(x.length);
  let used = 0;
  for (let i = 0; i < x.length; i++) {
    const a = Math.abs(x[i] as number);
    const tied = a === threshold && used < ties;
    if (tied) used++;
    mask[i] = tied || a > threshold || Number.isNaN(a) ? 1 : 0;
  }
  return { mask, ties: used };
}

/** An element is kept if fewer than `keep` of its group are larger in magnitude, or as large with a lower index. */
export function groupMask(x: Float32Array, layout: AxisLayout, keep: number, group: number): Uint8Array {
  const { outer, channels, inner } = layout;
  const mask = new Uint8Array(x.length);
  for (let o = 0; o < outer; o++)
    for (let start = 0; start < channels; start += group)
      for (let i = 0; i < inner; i++) {
        const end = Math.min(start + group, channels);
        const at = (c: number): number => (o * channels + c) * inner + i;
        for (let c = start; c < end; c++) {
          let ahead = 0;
          for (let other = start; other < end; other++) {
            const mine = Math.abs(x[at(c)] as number);
            const theirs = Math.abs(x[at(other)] as number);
            if (theirs > mine || (theirs === mine && other < c)) ahead++;
          }
          mask[at(c)] = ahead < keep ? 1 : 0;
        }
      }
  return mask;
}

/** x where the mask is not 0, else +0. */
export function applyMask(x: Float32Array, mask: Uint8Array): Float32Array {
  return x.map((value, i) => (mask[i] === 0 ? 0 : value));
}
