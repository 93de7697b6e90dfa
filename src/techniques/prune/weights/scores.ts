/** Criteria of unstructured pruning: from a weight, and what is known of its inputs or its gradient, to the importance of its elements. */
import { Rng } from "../../../base/rng.ts";
import type { MatrixLayout } from "./mask-rules.ts";

/** What a criterion may look at. */
export interface ScoreContext {
  readonly name: string;
  readonly shape: readonly number[];
  readonly seed: number;
}

/** Importance of each element, not negative, in the weight's own order; the least important go first. Users' functions are of this type too. */
export type WeightScore = (weights: Float32Array, context: ScoreContext) => Float32Array | Promise<Float32Array>;

/** |w|: the larger, the more important (Han et al. 2015, arXiv 1506.02626). */
export const magnitude: WeightScore = (weights) => weights.map(Math.abs);

/** Uniform random: the baseline that any criterion must beat. Seeded, and independent of the other layers; what is zero already goes first. */
export const random: WeightScore = (weights, { name, seed }) => {
  const rng = new Rng(seed).fork(name);
  return weights.map((w) => {
    const drawn = rng.uniform(Number.EPSILON, 1);
    return w === 0 ? 0 : drawn;
  });
};

export const WEIGHT_SCORES: Readonly<Record<"magnitude" | "random", WeightScore>> = { magnitude, random };

/** Criteria that read second moments XᵀX of the layer's inputs. */
export const INPUT_SCORES = ["wanda", "obd", "obs"] as const;
export type InputScore = (typeof INPUT_SCORES)[number];

/** Criteria that read gradients of the loss. */
export const GRADIENT_SCORES = ["taylor", "fisher"] as const;
export type GradientScore = (typeof GRADIENT_SCORES)[number];

/** Criteria that make steps of training. */
export const STEP_SCORES = ["snip", "movement"] as const;
export type StepScore = (typeof STEP_SCORES)[number];

/**
 * Scores from one number d_j for each input j of each group: Wanda |w|·√d with d = [XᵀX]_jj (Sun et al. 2023, arXiv
 * 2306.11695); OBD w²·d/2 with the same d, the diagonal of the Hessian of the layer's squared output error (LeCun et al. 1989);
 * OBS w²/(2·[H⁻¹]_jj), d = 1/[H⁻¹]_jj (Hassibi and Stork 1992).
 */
export function inputScores(
  kind: InputScore,
  weights: Float32Array,
  { k, n, rowsFirst }: MatrixLayout,
  d: readonly Float32Array[], // groups × (k)
): Float32Array {
  const factors = d.map((group) => (kind === "wanda" ? group.map(Math.sqrt) : group.map((x) => x / 2)));
  const scores = new Float32Array(weights.length);
  for (let i = 0; i < weights.length; i++) {
    const group = rowsFirst ? Math.floor(i / (k * n)) : 0;
    const factor = factors[group]?.[rowsFirst ? i % k : Math.floor(i / n)] as number;
    const w = weights[i] as number;
    scores[i] = (kind === "wanda" ? Math.abs(w) : w * w) * factor;
  }
  return scores;
}
