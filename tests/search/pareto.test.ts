/** Dominance against its definition, and the properties of fronts, ranks and crowding. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { crowdingDistances, dominates, paretoFront } from "../../src/search/pareto.ts";
import type { Objective } from "../../src/search/results.ts";

const MIXED: readonly Objective[] = [
  { name: "accuracy", direction: "maximize" },
  { name: "bytes", direction: "minimize" },
  { name: "seconds", direction: "minimize" },
];

/** Few distinct values, so that ties and duplicates are common. */
const points = (dimensions: number) =>
  fc.array(fc.tuple(...Array.from({ length: dimensions }, () => fc.integer({ min: 0, max: 5 }))), { maxLength: 24 });

/** The definition, word for word: nobody is at least as good everywhere and better somewhere. */
function bruteForce(all: readonly (readonly number[])[], objectives: readonly Objective[]): number[] {
  const worth = all.map((point) => point.map((value, m) => (objectives[m]?.direction === "minimize" ? -value : value)));
  return all.flatMap((_, i) =>
    worth.some((other, j) => {
      if (i === j) return false;
      const mine = worth[i] ?? [];
      return other.every((value, m) => value >= (mine[m] ?? 0)) && other.some((value, m) => value > (mine[m] ?? 0));
    })
      ? []
      : [i],
  );
}

describe("paretoFront", () => {
  it("is the set that the definition gives, for one to four objectives", () => {
    const four: readonly Objective[] = [...MIXED, { name: "joules", direction: "minimize" }];
    for (const count of [1, 2, 3, 4]) {
      const objectives = four.slice(0, count);
      fc.assert(
        fc.property(points(count), (all) => {
          expect(paretoFront(all, objectives).front).toEqual(bruteForce(all, objectives));
        }),
        { numRuns: 200, seed: 11 },
      );
    }
  });

  it("ranks: each layer is the front of what is left", () => {
    fc.assert(
      fc.property(points(3), (all) => {
        const { ranks } = paretoFront(all, MIXED);
        for (let rank = 0, left = all.map((_, i) => i); left.length > 0; rank++) {
          const layer = bruteForce(
            left.map((i) => all[i] ?? []),
            MIXED,
          ).map((i) => left[i]);
          expect(left.filter((i) => ranks[i] === rank)).toEqual(layer);
          left = left.filter((i) => ranks[i] !== rank);
        }
      }),
      { numRuns: 100, seed: 5 },
    );
  });

  it("keeps equal points together, and drops a point that is worse in one objective only", () => {
    const { front, ranks } = paretoFront(
      [
        [0.9, 10, 1],
        [0.9, 10, 1],
        [0.9, 11, 1],
      ],
      MIXED,
    );
    expect(front).toEqual([0, 1]);
    expect(ranks).toEqual([0, 0, 1]);
    expect(dominates([0.9, 10, 1], [0.9, 10, 1], MIXED)).toBe(false);
  });

  it("rejects what was not measured, with the reason, and lets infinities compete", () => {
    const { front, ranks, rejected } = paretoFront(
      [
        [0.9, undefined, 1],
        [Number.NaN, 1, 1],
        [0.5, Number.POSITIVE_INFINITY, 1],
        [0.8, 3, 1],
      ],
      MIXED,
    );
    expect(rejected).toEqual([
      { index: 0, why: "bytes was not measured" },
      { index: 1, why: "accuracy is not a number" },
    ]);
    expect(front).toEqual([3]);
    expect(ranks).toEqual([-1, -1, 1, 0]);
  });

  it("handles nothing at all", () => {
    expect(paretoFront([], MIXED)).toEqual({ front: [], ranks: [], rejected: [] });
  });
});

describe("crowdingDistances", () => {
  it("is the sum of the neighbours' gaps over the ranges, infinite at the ends", () => {
    // first objective: range 10, neighbours of 4 are 0 and 10; second: range 8, neighbours of 3 are 0 and 8
    expect(
      crowdingDistances([
        [0, 8],
        [4, 3],
        [10, 0],
      ]),
    ).toEqual([Number.POSITIVE_INFINITY, 2, Number.POSITIVE_INFINITY]);
  });

  it("adds nothing for an objective in which all are equal", () => {
    expect(
      crowdingDistances([
        [1, 5],
        [2, 5],
        [4, 5],
      ])[1],
    ).toBe(1);
    expect(crowdingDistances([])).toEqual([]);
  });
});
