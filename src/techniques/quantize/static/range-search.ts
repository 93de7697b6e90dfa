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
  const clipping = new ClippingError(histogram);
  for (let round = 0; round < 2; round++)
    for (const side of ["high", "low"] as const) {
      if (full[side] === 0) continue;
      let least = Number.POSITIVE_INFINITY;
      let chosen = best;
      for (let step = 0; step <= STEPS; step++) {
        const share = 1 - (step * (1 - SMALLEST_SHARE)) / STEPS;
        const candidate = { ...best, [side]: full[side] * share };
        const error = clipping.of(candidate, levels);
        if (error < least) {
          least = error;
          chosen = candidate;
        }
      }
      best = chosen;
    }
  return best;
}

/**
 * Squared error of a histogram outside of a range and inside, from running sums over its bins: with n, a, b the counts of the bins
 * beyond h, their counts times centres and times squared centres, Σ count·(x − h)² = b − 2h·a + h²·n.
 */
class ClippingError {
  readonly #low: number;
  readonly #width: number;
  readonly #bins: number;
  /** Sums over the bins before each one: counts, times centres, times squared centres. */
  readonly #sums: readonly [Float64Array, Float64Array, Float64Array];

  constructor({ low, high, counts }: Histogram) {
    const bins = counts.length;
    const width = (high - low) / bins;
    const sums = [new Float64Array(bins + 1), new Float64Array(bins + 1), new Float64Array(bins + 1)] as const;
    for (let bin = 0; bin < bins; bin++) {
      const left = low + bin * width;
      const x = left + width / 2;
      let term = left <= 0 && left + width > 0 ? 0 : (counts[bin] as number); // zeros are exact
      for (const sum of sums) {
        sum[bin + 1] = (sum[bin] as number) + term;
        term *= x;
      }
    }
    this.#low = low;
    this.#width = width;
    this.#bins = bins;
    this.#sums = sums;
  }

  of(range: Range, levels: number): number {
    const scale = (range.high - range.low) / (levels - 1);
    const [counts] = this.#sums;
    const rounding = ((scale * scale) / 12) * (counts[this.#bins] as number);
    return (
      rounding +
      this.#beyond(range.low, 0, this.#bin(range.low)) +
      this.#beyond(range.high, this.#bin(range.high), this.#bins)
    );
  }

  /** The first bin whose centre is not below x. */
  #bin(x: number): number {
    return Math.min(this.#bins, Math.max(0, Math.ceil((x - this.#low) / this.#width - 0.5)));
  }

  #beyond(end: number, from: number, to: number): number {
    const [n, a, b] = this.#sums.map((sum) => (sum[to] as number) - (sum[from] as number)) as [number, number, number];
    return Math.max(0, b - 2 * end * a + end * end * n);
  }
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
