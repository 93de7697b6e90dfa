/** How much of each weight goes: the same share everywhere, by its shape (Erdős–Rényi-kernel), or by scores that compare across layers (LAMP, normalised). */
import type { WeightSite } from "../../../transform/weight-sites.ts";

/**
 * Shares that go when `ratio` of all weights do and each layer keeps a density proportional to (Σ sizes)/(Π sizes) of its
 * kernel, at most 1: large layers lose more. Evci et al. 2020 (arXiv 1911.11134).
 */
export function erdosRenyi(sites: readonly WeightSite[], ratio: number): Map<WeightSite, number> {
  const total = sites.reduce((sum, { tensor }) => sum + tensor.elements, 0);
  const raw = sites.map(({ tensor }) => tensor.shape.reduce((sum, size) => sum + size, 0) / tensor.elements);
  const full = new Set<number>();
  for (;;) {
    // ε·Σ raw·N over layers that are not full = what is kept beside the full ones
    let [kept, weight] = [(1 - ratio) * total, 0];
    for (const [i, { tensor }] of sites.entries())
      if (full.has(i)) kept -= tensor.elements;
      else weight += (raw[i] as number) * tensor.elements;
    const epsilon = weight > 0 ? Math.max(0, kept) / weight : 0;
    const over = raw.findIndex((density, i) => !full.has(i) && density * epsilon > 1);
    if (over < 0) return new Map(sites.map((site, i) => [site, full.has(i) ? 0 : 1 - epsilon * (raw[i] as number)]));
    full.add(over);
  }
}

/**
 * s²/Σ s² over all elements of the layer that are at least as important: what removing the element costs relative to all
 * that would then be left. Compared over all layers, it needs no ratios. Lee et al. 2021 (arXiv 2010.07611).
 */
export function lampScores(scores: Float32Array): Float32Array {
  const sorted = scores.map(Math.abs).sort();
  const sums = new Float64Array(sorted.length + 1);
  for (let i = sorted.length - 1; i >= 0; i--) sums[i] = (sums[i + 1] as number) + (sorted[i] as number) ** 2;
  return scores.map((score) => {
    const size = Math.abs(score);
    let [low, high] = [0, sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((sorted[middle] as number) < size) low = middle + 1;
      else high = middle;
    }
    return size === 0 ? 0 : (size * size) / (sums[low] as number);
  });
}

/** Scores over the root of their layer's mean square, so that layers compare. */
export function normalisedScores(scores: Float32Array): Float32Array {
  let squares = 0;
  for (const score of scores) squares += score * score;
  const size = Math.sqrt(squares / scores.length);
  return size > 0 ? scores.map((score) => score / size) : scores;
}
