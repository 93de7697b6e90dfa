/** Learned levels: the codebook of least squared error for one weight, by k-means in one dimension. */

/** Equal bins of the weight's range in which centroids and borders are found: exact but for where inside a bin a border lies. */
const BINS = 8192;

export interface CodebookData {
  readonly w: Float32Array;
  /** What a squared error of each element costs; default: 1. */
  readonly cost?: ((index: number) => number) | undefined;
}

/**
 * min over c of Σ h_i·(w_i − nearest c)²: k-means, which in one dimension has an optimum that can be computed. Over sorted bins
 * with D[k][j] = min_i D[k − 1][i] + cost(i..j), the best i grows with j, so that a level of D is found by halving; k·B·log B steps.
 * Han et al. 2016, "Deep Compression" (arXiv 1510.00149), who iterate from evenly spread centroids; Grønlund et al. 2017 (arXiv 1701.07204).
 * Returns `entries` levels, ascending; where the weight has fewer different values the last ones repeat.
 */
export function learnCodebook({ w, cost }: CodebookData, entries: number): Float32Array {
  const bins = binned(w, cost);
  const count = bins.h.length;
  if (count === 0) return new Float32Array(entries);
  // Prefix sums of h, h·w and h·w²; cost(i..j) = Σhw² − (Σhw)²/Σh
  const [h, hw, hww] = [prefix(bins.h), prefix(bins.hw), prefix(bins.hww)];
  const of = (sums: Float64Array, from: number, to: number): number => (sums[to] as number) - (sums[from] as number);
  const spread = (from: number, to: number): number => {
    const sum = of(hw, from, to);
    return Math.max(0, of(hww, from, to) - (sum * sum) / of(h, from, to));
  };
  const levels = Math.min(entries, count);
  let best = Float64Array.from({ length: count + 1 }, (_, to) => (to === 0 ? 0 : spread(0, to)));
  const starts: Int32Array[] = [];
  for (let k = 2; k <= levels; k++) {
    const next = new Float64Array(count + 1).fill(Number.POSITIVE_INFINITY);
    const start = new Int32Array(count + 1);
    const fill = (low: number, high: number, first: number, last: number): void => {
      if (low > high) return;
      const to = (low + high) >> 1;
      let [least, at] = [Number.POSITIVE_INFINITY, first];
      for (let from = Math.max(first, k - 1); from <= Math.min(last, to - 1); from++) {
        const total = (best[from] as number) + spread(from, to);
        if (total < least) [least, at] = [total, from];
      }
      [next[to], start[to]] = [least, at];
      fill(low, to - 1, first, at);
      fill(to + 1, high, at, last);
    };
    fill(k, count, k - 1, count - 1);
    starts.push(start);
    best = next;
  }
  const found = new Float32Array(entries);
  let to = count;
  for (let k = levels; k >= 1; k--) {
    const from = k === 1 ? 0 : (starts[k - 2]?.[to] as number);
    found[k - 1] = of(hw, from, to) / of(h, from, to);
    to = from;
  }
  found.fill(found[levels - 1] as number, levels);
  return found;
}

/** Sums of h, h·w and h·w² of the bins that hold something. */
function binned(w: Float32Array, cost: CodebookData["cost"]): Record<"h" | "hw" | "hww", Float64Array> {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const x of w)
    if (Number.isFinite(x)) {
      if (x < low) low = x;
      if (x > high) high = x;
    }
  const [h, hw, hww] = [new Float64Array(BINS), new Float64Array(BINS), new Float64Array(BINS)];
  const perUnit = high > low ? BINS / (high - low) : 0;
  for (let i = 0; i < w.length; i++) {
    const x = w[i] as number;
    if (!Number.isFinite(x)) continue;
    const bin = Math.min(BINS - 1, Math.floor((x - low) * perUnit));
    const weight = cost?.(i) ?? 1;
    h[bin] = (h[bin] as number) + weight;
    hw[bin] = (hw[bin] as number) + weight * x;
    hww[bin] = (hww[bin] as number) + weight * x * x;
  }
  const used = (sums: Float64Array): Float64Array => sums.filter((_, bin) => (h[bin] as number) > 0);
  return { h: used(h), hw: used(hw), hww: used(hww) };
}

/** Sum of the first n, for n from 0 up. */
function prefix(values: Float64Array): Float64Array {
  const sums = new Float64Array(values.length + 1);
  for (const [i, value] of values.entries()) sums[i + 1] = (sums[i] as number) + value;
  return sums;
}
