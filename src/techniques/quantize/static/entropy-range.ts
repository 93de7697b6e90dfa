/** The range whose quantized histogram tells most about the original one: calibration by entropy. */
import type { Histogram, Range } from "./range-search.ts";

/** Ranges that are tried, at most. */
const MOST_CANDIDATES = 128;

/**
 * The clipping magnitude T, and with it the range [max(low, −T), min(high, T)], whose integers lose least information:
 * min over T of KL(P‖Q) = Σ p ln(p/q), where P is the histogram inside the range with everything outside counted in its
 * outermost bins, and Q what 2^b levels keep of the inside: each level's count spread evenly over its bins that are not empty.
 * Zeros are exact on every grid and left out. Ranges whose outermost bin is empty cannot stand for what they cut off and are not tried (but for the whole).
 * Paper: Migacz 2017, "8-bit Inference with TensorRT" (GTC 2017).
 */
export function entropyRange(histogram: Histogram, levels = 256): Range {
  const { low, high } = histogram;
  const width = (high - low) / histogram.counts.length;
  const zero = Math.round(-low / width);
  const counts = histogram.counts.slice();
  if (zero >= 0 && zero < counts.length) counts[zero] = 0;
  const before = new Float64Array(counts.length + 1);
  for (const [i, count] of counts.entries()) before[i + 1] = (before[i] as number) + count;
  const most = Math.max(zero, counts.length - zero);
  const step = Math.max(1, Math.ceil(most / MOST_CANDIDATES));
  let best = { from: 0, to: counts.length };
  let least = Number.POSITIVE_INFINITY;
  for (let bins = most; bins > 0; bins -= step) {
    const from = Math.max(0, zero - bins);
    const to = Math.min(counts.length, zero + bins);
    if (to - from < levels && least < Number.POSITIVE_INFINITY) break;
    const divergence = divergenceOf(counts, before, from, to, levels);
    if (divergence < least) [best, least] = [{ from, to }, divergence];
  }
  return { low: low + best.from * width, high: low + best.to * width };
}

/** KL(P‖Q) of the bins [from, to); infinite where an outermost bin is empty but takes what lies outside. */
function divergenceOf(counts: Float64Array, before: Float64Array, from: number, to: number, levels: number): number {
  const total = before.at(-1) as number;
  const inside = (before[to] as number) - (before[from] as number);
  const [below, above] = [before[from] as number, total - (before[to] as number)];
  if (inside === 0) return Number.POSITIVE_INFINITY;
  if ((below > 0 && counts[from] === 0) || (above > 0 && counts[to - 1] === 0)) return Number.POSITIVE_INFINITY;
  let divergence = 0;
  const size = (to - from) / levels;
  for (let level = 0; level < levels; level++) {
    const first = from + Math.round(level * size);
    const end = from + Math.round((level + 1) * size);
    let filled = 0;
    for (let i = first; i < end; i++) if ((counts[i] as number) > 0) filled++;
    if (filled === 0) continue;
    const q = ((before[end] as number) - (before[first] as number)) / filled / inside;
    for (let i = first; i < end; i++) {
      const count = counts[i] as number;
      if (count === 0) continue;
      const p = (count + (i === from ? below : 0) + (i === to - 1 ? above : 0)) / total;
      divergence += p * Math.log(p / q);
    }
  }
  return divergence;
}
