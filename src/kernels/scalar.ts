/** Single-precision scalar arithmetic that kernels' callers and references share: clamped rounding, stored scales. */
import { decodeFloat16, encodeFloat16 } from "../base/half.ts";

const MAGIC = 2 ** 52 + 2 ** 51; // adding and subtracting it rounds |x| < 2^51 to an integer, half to even

/** Nearest integer to x clamped to [low, high], half to even. */
export function roundClamped(x: number, low: number, high: number): number {
  const clamped = x < low ? low : x > high ? high : x;
  return clamped + MAGIC - MAGIC;
}

/** A scale as it will be stored: through half precision (saturating) if asked; one that is 0 becomes 1 (its codes are all zero). */
export function storedScale(s: number, half: boolean): number {
  const stored = half ? decodeFloat16(encodeFloat16(Math.fround(s), true)) : Math.fround(s);
  return stored === 0 ? 1 : stored;
}

/** (high − low)/levels; divides first where the difference would overflow. */
export function rangeScale(low: number, high: number, levels: number): number {
  const range = Math.fround(high - low);
  if (range !== Infinity) return Math.fround(range / levels);
  return Math.fround(Math.fround(high / levels) - Math.fround(low / levels));
}

/** Bins per unit of a histogram over [low, high], in float32; an empty range puts everything into bin 0. */
export function binsPerUnit(low: number, high: number, bins: number): number {
  const range = Math.fround(high - low);
  return range > 0 ? Math.min(Math.fround(bins / range), 3.4028234663852886e38) : 0;
}
