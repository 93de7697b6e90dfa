/** Hypervolume: how much of the space between a reference point and the ideal a set of points dominates; exact, any dimension. */
import { PareError } from "../base/error.ts";
import type { HypervolumeRecord, Objective } from "./results.ts";

/**
 * The volume dominated by `points` and bounded by `reference`, exactly, by the WFG algorithm (While, Bradstreet and Barone 2012);
 * two objectives by a sweep in O(n log n). Rules: every objective counts in its own direction; a point that is not strictly better
 * than the reference in every objective adds nothing; duplicates count once; with no point inside, the volume is 0.
 * @throws PareError `bad-option` when a value or the reference is not finite, or lengths differ.
 */
export function hypervolume(
  points: readonly (readonly number[])[],
  reference: readonly number[],
  objectives: readonly Objective[],
): number {
  const dimensions = objectives.length;
  for (const row of [reference, ...points])
    if (row.length !== dimensions || !row.every(Number.isFinite))
      throw new PareError("bad-option", "Hypervolume needs one finite number per objective", {
        where: row === reference ? "reference point" : `point [${row.join(", ")}]`,
        expected: `${dimensions} numbers (${objectives.map((objective) => objective.name).join(", ")})`,
      });
  // As minimization with the reference at the origin: gain_m = |reference_m − value_m| > 0 for points inside the box.
  const gains = points
    .map((point) =>
      objectives.map((objective, m) => {
        const difference = (reference[m] as number) - (point[m] as number);
        return objective.direction === "minimize" ? difference : -difference;
      }),
    )
    .filter((gain) => gain.every((value) => value > 0));
  return volumeOf(gains);
}

/** Volume of the union of boxes [0, gain]. */
function volumeOf(gains: readonly (readonly number[])[]): number {
  const front = maximal(gains);
  if (front.length === 0) return 0;
  const dimensions = front[0]?.length ?? 0;
  if (dimensions === 1) return Math.max(...front.map((gain) => gain[0] as number));
  if (dimensions === 2) return areaOf(front);
  // WFG: vol(S) = Σ_i exclusive(p_i | p_i+1 …); sorted so that limited sets shrink fast.
  const sorted = [...front].sort((a, b) => (b.at(-1) as number) - (a.at(-1) as number));
  let total = 0;
  for (let i = sorted.length - 1; i >= 0; i--) total += exclusive(sorted, i);
  return total;
}

/** Volume that only point i of the sorted list adds to the points after it: box(p_i) − vol({min(p_i, p_j)}). */
function exclusive(sorted: readonly (readonly number[])[], i: number): number {
  const point = sorted[i] as readonly number[];
  const box = point.reduce((product, value) => product * value, 1);
  const limited = sorted.slice(i + 1).map((other) => other.map((value, m) => Math.min(value, point[m] as number)));
  return box - volumeOf(limited);
}

/** Staircase area of mutually non-dominated points. */
function areaOf(front: readonly (readonly number[])[]): number {
  const sorted = [...front].sort((a, b) => (b[0] as number) - (a[0] as number));
  let area = 0;
  let height = 0;
  for (const [width, y] of sorted as [number, number][]) {
    if (y <= height) continue;
    area += width * (y - height);
    height = y;
  }
  return area;
}

/** The points that no other point covers; of equal points the first. */
function maximal(gains: readonly (readonly number[])[]): (readonly number[])[] {
  const kept: (readonly number[])[] = [];
  for (const gain of gains) {
    if (kept.some((other) => other.every((value, m) => value >= (gain[m] as number)))) continue;
    for (let i = kept.length - 1; i >= 0; i--)
      if (gain.every((value, m) => value >= (kept[i]?.[m] as number))) kept.splice(i, 1);
    kept.push(gain);
  }
  return kept;
}

/**
 * The default reference point: the worst value of each objective over all points, moved away by a tenth of the range (by a tenth of
 * the magnitude where all are equal), so that the extreme points count. Comparable only between sets given the same reference.
 */
export function defaultReference(points: readonly (readonly number[])[], objectives: readonly Objective[]): number[] {
  return objectives.map((objective, m) => {
    const column = points.map((point) => point[m] as number);
    const low = Math.min(...column);
    const high = Math.max(...column);
    const margin = 0.1 * (high - low || Math.abs(high) || 1);
    return objective.direction === "minimize" ? high + margin : low - margin;
  });
}

/** Hypervolume with its reference point and the share of the box between the best value of each objective and the reference. */
export function hypervolumeRecord(
  points: readonly (readonly number[])[],
  objectives: readonly Objective[],
  reference: readonly number[] = defaultReference(points, objectives),
): HypervolumeRecord | undefined {
  if (points.length === 0) return undefined;
  const value = hypervolume(points, reference, objectives);
  const box = objectives.reduce((product, objective, m) => {
    const column = points.map((point) => point[m] as number);
    const best = objective.direction === "minimize" ? Math.min(...column) : Math.max(...column);
    return product * Math.abs((reference[m] as number) - best);
  }, 1);
  return { value, share: box > 0 ? value / box : 0, reference };
}
