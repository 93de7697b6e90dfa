/** Pareto dominance: the non-dominated set for any objectives, ranks of the layers behind it, and crowding distances. */
import type { Objective } from "./results.ts";

/** A point that takes part, or the reason why it cannot. */
export interface ParetoResult {
  /** Indices of the non-dominated points, in the order given. Equal points do not dominate each other: all are kept. */
  readonly front: readonly number[];
  /** Rank by point: 0 on the front, 1 once the front is removed, and so on; -1 for rejected points. */
  readonly ranks: readonly number[];
  /** Points that cannot be compared. */
  readonly rejected: readonly { readonly index: number; readonly why: string }[];
}

/** Values of one point, one per objective; undefined where it was not measured. */
export type Point = readonly (number | undefined)[];

/** True if `a` is at least as good as `b` everywhere and better somewhere. Missing values never reach this. */
export function dominates(a: readonly number[], b: readonly number[], objectives: readonly Objective[]): boolean {
  let better = false;
  for (const [i, objective] of objectives.entries()) {
    const difference =
      objective.direction === "minimize" ? (b[i] as number) - (a[i] as number) : (a[i] as number) - (b[i] as number);
    if (difference < 0) return false;
    if (difference > 0) better = true;
  }
  return better;
}

/**
 * The non-dominated set and all ranks (fast non-dominated sort of NSGA-II, Deb et al. 2002: O(objectives · points²)).
 * Points with a missing or NaN value are rejected with the reason; infinities compare like numbers.
 */
export function paretoFront(points: readonly Point[], objectives: readonly Objective[]): ParetoResult {
  const rejected: { index: number; why: string }[] = [];
  const ranks = points.map(() => -1);
  const alive: number[] = [];
  for (const [index, point] of points.entries()) {
    const bad = objectives.findIndex((_, i) => point[i] === undefined || Number.isNaN(point[i]));
    if (bad < 0) alive.push(index);
    else {
      const name = objectives[bad]?.name ?? "";
      rejected.push({ index, why: point[bad] === undefined ? `${name} was not measured` : `${name} is not a number` });
    }
  }
  const valueOf = (index: number): readonly number[] => points[index] as readonly number[];
  // dominators[i]: how many points that are not ranked yet dominate i
  const dominators = new Map<number, number>(alive.map((index) => [index, 0]));
  const beaten = new Map<number, number[]>(alive.map((index) => [index, []]));
  for (const a of alive)
    for (const b of alive)
      if (a !== b && dominates(valueOf(a), valueOf(b), objectives)) {
        beaten.get(a)?.push(b);
        dominators.set(b, (dominators.get(b) ?? 0) + 1);
      }
  let layer = alive.filter((index) => dominators.get(index) === 0);
  const front = layer;
  for (let rank = 0; layer.length > 0; rank++) {
    const next: number[] = [];
    for (const index of layer) {
      ranks[index] = rank;
      for (const other of beaten.get(index) ?? []) {
        const left = (dominators.get(other) ?? 0) - 1;
        dominators.set(other, left);
        if (left === 0) next.push(other);
      }
    }
    layer = next.sort((a, b) => a - b);
  }
  return { front, ranks, rejected };
}

/**
 * Crowding distance of each point among `points` (one rank; all values finite): Σ_m (v_m,i+1 − v_m,i−1) / (max_m − min_m), ∞ at the ends
 * (Deb et al. 2002). Large means lonely: worth keeping. An objective in which all points are equal adds nothing.
 */
export function crowdingDistances(points: readonly (readonly number[])[]): number[] {
  const distance = points.map(() => 0);
  const dimensions = points[0]?.length ?? 0;
  for (let m = 0; m < dimensions; m++) {
    const value = (index: number): number => points[index]?.[m] ?? 0;
    const order = points.map((_, index) => index).sort((a, b) => value(a) - value(b) || a - b);
    const first = order[0] as number;
    const last = order.at(-1) as number;
    const range = value(last) - value(first);
    if (range === 0) continue;
    distance[first] = Number.POSITIVE_INFINITY;
    distance[last] = Number.POSITIVE_INFINITY;
    for (let i = 1; i + 1 < order.length; i++) {
      const index = order[i] as number;
      distance[index] =
        (distance[index] ?? 0) + (value(order[i + 1] as number) - value(order[i - 1] as number)) / range;
    }
  }
  return distance;
}
