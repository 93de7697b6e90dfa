/** From statistics of a value to the range that its integers shall cover. */

/** Equal bins over [low, high]. */
export interface Histogram {
  readonly low: number;
  readonly high: number;
  readonly counts: Float64Array;
}

export interface Range {
  readonly low: number;
  readonly high: number;
}

/** Keeps the given share of all samples inside, cutting half of the rest off each end. `share` is 0..1. */
export function percentileRange({ low, high, counts }: Histogram, share: number): Range {
  const total = sumOf(counts);
  const width = (high - low) / counts.length;
  const tail = (total * (1 - share)) / 2;
  let first = 0;
  for (let below = counts[0] ?? 0; first < counts.length - 1 && below <= tail; below += counts[first] ?? 0) first++;
  let last = counts.length - 1;
  for (let above = counts[last] ?? 0; last > first && above <= tail; above += counts[last] ?? 0) last--;
  return { low: low + first * width, high: low + (last + 1) * width };
}

/** Shares of the range that are tried as clipping points. */
const STEPS = 128;
const SMALLEST_SHARE = 0.2;

/**
 * The clipping range [l, h] that minimizes the squared error of uniform quantization with 2^b levels over the histogram:
 * Σ_{inside} s²/12 + Σ_{outside} (x − clip(x))², s = (h − l)/(2^b − 1). Zeros are exact and cost nothing. Both ends are
 * searched in turn (Choukroun et al. 2019, arXiv 1902.06822, by enumeration).
 */
export function leastErrorRange(histogram: Histogram, levels = 256): Range {
  let best: Range = { low: Math.min(0, histogram.low), high: Math.max(0, histogram.high) };
  const full = best;
  for (let round = 0; round < 2; round++)
    for (const side of ["high", "low"] as const) {
      if (full[side] === 0) continue;
      let least = Number.POSITIVE_INFINITY;
      let chosen = best;
      for (let step = 0; step <= STEPS; step++) {
        const share = 1 - (step * (1 - SMALLEST_SHARE)) / STEPS;
        const candidate = { ...best, [side]: full[side] * share };
        const error = squaredError(histogram, candidate, levels);
        if (error < least) {
          least = error;
          chosen = candidate;
        }
      }
      best = chosen;
    }
  return best;
}

function squaredError({ low, high, counts }: Histogram, range: Range, levels: number): number {
  const width = (high - low) / counts.length;
  const scale = (range.high - range.low) / (levels - 1);
  const rounding = (scale * scale) / 12;
  let error = 0;
  for (let bin = 0; bin < counts.length; bin++) {
    const count = counts[bin] ?? 0;
    if (count === 0) continue;
    const left = low + bin * width;
    if (left <= 0 && left + width > 0) continue; // the bin that holds zero
    const x = left + width / 2;
    const clipped = Math.min(range.high, Math.max(range.low, x));
    error += count * (x === clipped ? rounding : (x - clipped) ** 2 + rounding);
  }
  return error;
}

function sumOf(counts: Float64Array): number {
  let sum = 0;
  for (const count of counts) sum += count;
  return sum;
}

/** Scale and zero point that map a range (widened to hold 0) onto integers [lowest, highest]. */
export interface Grid {
  readonly scale: number;
  readonly zeroPoint: number;
  readonly lowest: number;
  readonly highest: number;
}

/** Smallest normal float32. */
const SMALLEST_SCALE = 2 ** -126;

/**
 * s = (h − l)/(highest − lowest), z = round(lowest − l/s); symmetric: s = max(|l|, |h|)/highest', z in the middle.
 * Zero is always exactly representable, so that padding and rectifiers stay exact.
 */
export function gridOf(range: Range, type: "uint8" | "int8", symmetric: boolean): Grid {
  const [lowest, highest] = type === "uint8" ? [0, 255] : [-128, 127];
  const low = Math.min(0, range.low);
  const high = Math.max(0, range.high);
  // Nothing was seen, or nothing that a normal float32 scale can resolve.
  if (!((high - low) / 256 >= SMALLEST_SCALE) || !Number.isFinite(high - low))
    return { scale: 1, zeroPoint: symmetric ? (lowest + highest + 1) / 2 : lowest, lowest, highest };
  if (symmetric && low < 0)
    return { scale: Math.fround(Math.max(-low, high) / 127), zeroPoint: (lowest + highest + 1) / 2, lowest, highest };
  const scale = Math.fround((high - low) / (highest - lowest));
  const zeroPoint = Math.min(highest, Math.max(lowest, Math.round(lowest - low / scale)));
  return { scale, zeroPoint, lowest, highest };
}
