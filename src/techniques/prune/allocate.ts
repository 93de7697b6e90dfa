/** How many groups of each family go: the same share everywhere, or the least important of the whole network. */
import type { Family, Group } from "../../analyse/groups.ts";

export interface ScoredFamily {
  readonly family: Family;
  /** Importance of each group, in the family's order. */
  readonly scores: Float64Array;
}

export interface Allocation {
  readonly scope: "local" | "global" | "sensitivity";
  /** All groups that score at most this go, whatever the ratio. */
  readonly threshold?: number | undefined;
  /** sensitivity: what is taken first is least damage for its saving. */
  readonly pieces?: readonly Piece[] | undefined;
  /** Kept groups are a multiple of it, where there are as many. */
  readonly multipleOf: number;
  /** Groups that each family keeps at least. */
  readonly least: number;
  /** Share of its groups that no family loses more of. */
  readonly most: number;
}

/** Some of a family's groups, what goes with them, and the damage per saving. */
export interface Piece {
  /** Index of the family. */
  readonly family: number;
  readonly groups: number;
  readonly saving: number;
  readonly slope: number;
}

/** Divides the scores by their mean, largest, sum or root of their sum of squares, so that families compare. */
export function normalize(scores: Float64Array, by: "mean" | "max" | "sum" | "norm" | "none"): Float64Array {
  if (by === "none") return scores;
  const sum = scores.reduce((a, b) => a + (by === "norm" ? b * b : b), 0);
  const units = {
    sum,
    norm: Math.sqrt(sum),
    mean: sum / scores.length,
    max: scores.reduce((a, b) => Math.max(a, b), 0),
  };
  const unit = units[by];
  return unit > 0 ? scores.map((score) => score / unit) : scores;
}

/** The groups that go when `ratio` of all do, by family. Equal scores go in order; what cannot go is left out. */
export function allocate(
  families: readonly ScoredFamily[],
  ratio: number,
  { scope, threshold, pieces = [], multipleOf, least, most }: Allocation,
): Map<Family, readonly Group[]> {
  const counts =
    threshold !== undefined
      ? families.map(({ scores }) => scores.reduce((sum, score) => sum + Number(score <= threshold), 0))
      : scope === "local"
        ? localCounts(families, ratio)
        : scope === "global"
          ? globalCounts(families, ratio)
          : sensitiveCounts(families, ratio, pieces);
  return new Map(
    families.map((each, i) => {
      const size = each.family.groups.length;
      const floor = Math.max(1, least, Math.min(size, multipleOf), Math.ceil((1 - most) * size - 1e-9));
      const kept = Math.ceil((size - (counts[i] ?? 0)) / multipleOf) * multipleOf;
      const gone = Math.max(0, size - Math.max(floor, Math.min(size, kept)));
      return [each.family, leastImportant(each, gone)] as const;
    }),
  );
}

/** So many groups of least score. */
export function leastImportant({ family, scores }: ScoredFamily, count: number): Group[] {
  const order = family.groups.map((group, at) => ({ group, score: scores[at] ?? 0 }));
  order.sort((a, b) => a.score - b.score || a.group.index - b.group.index);
  return order.slice(0, count).map(({ group }) => group);
}

/** Pieces in their order up to this share of all that they save; of the last one a part. */
function sensitiveCounts(families: readonly ScoredFamily[], ratio: number, pieces: readonly Piece[]): number[] {
  const counts = families.map(() => 0);
  let left = ratio * pieces.reduce((sum, { saving }) => sum + saving, 0);
  for (const { family, groups, saving } of pieces) {
    counts[family] = (counts[family] ?? 0) + groups * Math.min(1, left / saving);
    left = Math.max(0, left - saving);
  }
  return counts.map(Math.round);
}

function localCounts(families: readonly ScoredFamily[], ratio: number): number[] {
  return families.map(({ family }) => Math.round(ratio * family.groups.length));
}

/** One threshold: groups of each family below the ratio's quantile of all. */
function globalCounts(families: readonly ScoredFamily[], ratio: number): number[] {
  const all = families.flatMap(({ scores }, family) => Array.from(scores, (score) => ({ family, score })));
  all.sort((a, b) => a.score - b.score || a.family - b.family);
  const counts = families.map(() => 0);
  for (const { family } of all.slice(0, Math.round(ratio * all.length))) counts[family] = (counts[family] ?? 0) + 1;
  return counts;
}
