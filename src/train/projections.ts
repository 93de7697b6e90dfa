/** Projections: where a weight is brought back to after every step, as graph nodes. */
import type { Value } from "../ir/graph.ts";
import { div, mul, reduceSum, scalar, type Site } from "../ops/gradients/words.ts";

/** A weight brought back to where it must be after every step: graph nodes from a weight to the nearest allowed one. */
export interface Projection {
  /** For messages and for telling runs apart. */
  readonly name: string;
  /** True for the weights it applies to. */
  matches(name: string): boolean;
  project(s: Site, weight: Value): Value;
}

/** w ← max(w, 0). */
export function nonNegative(matches: (name: string) => boolean): Projection {
  return { name: "non-negative", matches, project: (s, weight) => s.b.op("Relu", [weight]) };
}

/** w ← min(max(w, low), high); without `high` there is no upper end. */
export function within(matches: (name: string) => boolean, low: number, high?: number): Projection {
  return {
    name: `within ${low}, ${high}`,
    matches,
    project: (s, weight) =>
      s.b.op("Clip", [weight, scalar(s, "float32", low), ...(high === undefined ? [] : [scalar(s, "float32", high)])]),
  };
}

/**
 * w ← w·c/max(‖w‖, c) for the weights of each output (axis 0; a vector as a whole), whose norm stays at most c
 * (Srebro and Shraibman 2005).
 */
export function maxNorm(matches: (name: string) => boolean, limit: number): Projection {
  return {
    name: `max-norm ${limit}`,
    matches,
    project(s, weight) {
      const rank = weight.shape?.length ?? 1;
      const axes = Array.from({ length: rank }, (_, axis) => axis).slice(rank > 1 ? 1 : 0);
      const norm = s.b.op("Sqrt", [reduceSum(s, mul(s, weight, weight), axes, true)]);
      const bound = scalar(s, "float32", limit);
      return mul(s, weight, div(s, bound, s.b.op("Max", [norm, bound])));
    },
  };
}
