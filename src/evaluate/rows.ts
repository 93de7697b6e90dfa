/** Arithmetic on rows of scores: highest, rank, log-probability, and whether they are probabilities already. */

/** Index of the highest of `width` scores from `offset`, the first of equals; −1 if any is NaN or none is finite. */
export function argmax(scores: ArrayLike<number>, offset: number, width: number): number {
  let best = -1;
  let highest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < width; i++) {
    const score = scores[offset + i] as number;
    if (Number.isNaN(score)) return -1;
    if (score > highest) {
      highest = score;
      best = i;
    }
  }
  return best;
}

/** How many scores are higher than that of `label`; equal ones before it count too, so that rank 0 is {@link argmax}. */
export function rankOf(scores: ArrayLike<number>, offset: number, width: number, label: number): number {
  const own = scores[offset + label] as number;
  let rank = 0;
  for (let i = 0; i < width; i++) {
    const score = scores[offset + i] as number;
    if (Number.isNaN(score)) return width;
    if (score > own || (score === own && i < label)) rank++;
  }
  return rank;
}

/** Smallest probability in −ln p: beyond it a float32 softmax has underflowed and says no more. */
const LEAST_PROBABILITY = 1e-12;

/** −ln p(label): log-sum-exp of logits, or the logarithm of a probability (no smaller than 1e-12). */
export function negativeLogLikelihood(
  scores: ArrayLike<number>,
  offset: number,
  width: number,
  label: number,
  probabilities: boolean,
): number {
  const own = scores[offset + label] as number;
  if (probabilities) return -Math.log(Math.max(own, LEAST_PROBABILITY));
  return logSumExp(scores, offset, width) - own;
}

/** ln Σ exp(x_i), shifted by the maximum so that nothing overflows. */
export function logSumExp(scores: ArrayLike<number>, offset: number, width: number): number {
  let highest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < width; i++) highest = Math.max(highest, scores[offset + i] as number);
  if (!Number.isFinite(highest)) return Number.NaN;
  let sum = 0;
  for (let i = 0; i < width; i++) sum += Math.exp((scores[offset + i] as number) - highest);
  return highest + Math.log(sum);
}

/** Half floats and int8 softmaxes sum to one no better than this. */
const SUM_TOLERANCE = 0.02;

/** True if every row lies within [0, 1] and sums to one: the model ends in a softmax. */
export function areProbabilities(scores: ArrayLike<number>, width: number): boolean {
  if (width < 2 || scores.length < width) return false;
  for (let offset = 0; offset + width <= scores.length; offset += width) {
    let sum = 0;
    for (let i = 0; i < width; i++) {
      const score = scores[offset + i] as number;
      if (!(score >= -1e-6 && score <= 1 + 1e-3)) return false;
      sum += score;
    }
    if (Math.abs(sum - 1) > SUM_TOLERANCE) return false;
  }
  return true;
}

/**
 * Kullback-Leibler divergence of row b from row a in nats, Σ p_a (ln p_a − ln p_b); rows are logits, or probabilities.
 */
export function divergence(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  offset: number,
  width: number,
  probabilities: boolean,
): number {
  const shiftA = probabilities ? 0 : logSumExp(a, offset, width);
  const shiftB = probabilities ? 0 : logSumExp(b, offset, width);
  let sum = 0;
  for (let i = 0; i < width; i++) {
    const x = a[offset + i] as number;
    const y = b[offset + i] as number;
    const logA = probabilities ? Math.log(Math.max(x, LEAST_PROBABILITY)) : x - shiftA;
    const logB = probabilities ? Math.log(Math.max(y, LEAST_PROBABILITY)) : y - shiftB;
    sum += Math.exp(logA) * (logA - logB);
  }
  return Math.max(0, sum);
}
