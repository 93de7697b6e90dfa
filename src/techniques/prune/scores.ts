/** Criteria of unstructured pruning: one function each, from a weight to the importance of its elements. */
import { Rng } from "../../base/rng.ts";

/** Importance of each element, not negative; the least important go first. */
export type WeightScore = (
  weights: Float32Array,
  context: { readonly name: string; readonly seed: number },
) => Float32Array;

/** |w|: the larger, the more important. */
export const magnitude: WeightScore = (weights) => weights.map(Math.abs);

/** Uniform random: the baseline that any criterion must beat. Seeded, and independent of the other layers. */
export const random: WeightScore = (weights, { name, seed }) => {
  const rng = new Rng(seed).fork(name);
  return weights.map(() => rng.uniform(Number.EPSILON, 1));
};

export const WEIGHT_SCORES: Readonly<Record<"magnitude" | "random", WeightScore>> = { magnitude, random };
