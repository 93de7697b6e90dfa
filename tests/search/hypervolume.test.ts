/** Hypervolume against counting cells of a grid, and its properties. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { defaultReference, hypervolume, hypervolumeRecord } from "../../src/search/hypervolume.ts";
import type { Objective } from "../../src/search/results.ts";

const SIDE = 4;
const objectivesOf = (count: number): Objective[] =>
  Array.from({ length: count }, (_, m) => ({ name: `o${m}`, direction: m % 2 === 0 ? "minimize" : "maximize" }));
/** Points on an integer grid; the worst corner is the reference. */
const gridPoints = (dimensions: number) =>
  fc.array(fc.tuple(...Array.from({ length: dimensions }, () => fc.integer({ min: 0, max: SIDE }))), { maxLength: 9 });
const worst = (objectives: readonly Objective[]): number[] =>
  objectives.map(({ direction }) => (direction === "minimize" ? SIDE : 0));

/** Counts unit cells that some point dominates. */
function countCells(all: readonly (readonly number[])[], objectives: readonly Objective[]): number {
  let cells = 0;
  const total = SIDE ** objectives.length;
  for (let cell = 0; cell < total; cell++) {
    const corner = objectives.map((_, m) => Math.floor(cell / SIDE ** m) % SIDE);
    // A cell [c, c+1] of a minimized objective is dominated by values ≤ c, of a maximized one by values ≥ c + 1.
    const covered = all.some((point) =>
      objectives.every(({ direction }, m) =>
        direction === "minimize" ? (point[m] ?? 0) <= (corner[m] ?? 0) : (point[m] ?? 0) >= (corner[m] ?? 0) + 1,
      ),
    );
    if (covered) cells++;
  }
  return cells;
}

describe("hypervolume", () => {
  it("equals the number of dominated cells of a grid, for one to five objectives", () => {
    for (const count of [1, 2, 3, 4, 5]) {
      const objectives = objectivesOf(count);
      fc.assert(
        fc.property(gridPoints(count), (all) => {
          expect(hypervolume(all, worst(objectives), objectives)).toBeCloseTo(countCells(all, objectives), 9);
        }),
        { numRuns: 120, seed: 3 },
      );
    }
  });

  it("does not change with a dominated point, an equal point, the order, or a point outside the box", () => {
    const objectives = objectivesOf(3);
    fc.assert(
      fc.property(gridPoints(3), (all) => {
        const reference = worst(objectives);
        const value = hypervolume(all, reference, objectives);
        const first = all[0];
        expect(hypervolume([...all].reverse(), reference, objectives)).toBeCloseTo(value, 9);
        expect(hypervolume([...all, [SIDE + 1, 3, 0]], reference, objectives)).toBeCloseTo(value, 9);
        if (!first) return;
        const dominated = first.map((value, m) => (m === 1 ? value - 0.5 : value + 0.5));
        expect(hypervolume([...all, dominated, first], reference, objectives)).toBeCloseTo(value, 9);
      }),
      { numRuns: 100, seed: 4 },
    );
  });

  it("never shrinks when a point is added, and grows with a point that dominates all", () => {
    const objectives = objectivesOf(4);
    fc.assert(
      fc.property(gridPoints(4), gridPoints(4), (all, more) => {
        const reference = worst(objectives);
        const value = hypervolume(all, reference, objectives);
        expect(hypervolume([...all, ...more], reference, objectives)).toBeGreaterThanOrEqual(value - 1e-9);
        expect(hypervolume([...all, [-1, SIDE + 1, -1, SIDE + 1]], reference, objectives)).toBeCloseTo(
          (SIDE + 1) ** 4,
          9,
        );
      }),
      { numRuns: 60, seed: 6 },
    );
  });

  it("counts nothing on or beyond the reference", () => {
    const objectives = objectivesOf(2);
    expect(hypervolume([[SIDE, 3]], worst(objectives), objectives)).toBe(0);
    expect(hypervolume([], worst(objectives), objectives)).toBe(0);
  });

  it("refuses values that have no volume", () => {
    const objectives = objectivesOf(2);
    expect(() => hypervolume([[Number.NaN, 1]], [1, 1], objectives)).toThrow(/one finite number per objective/);
    expect(() => hypervolume([[0, 1]], [1, Number.NEGATIVE_INFINITY], objectives)).toThrow(/reference point/);
    expect(() => hypervolume([[0, 1, 2]], [1, 1], objectives)).toThrow(/expected 2 numbers \(o0, o1\)/);
  });
});

describe("hypervolumeRecord", () => {
  it("takes the worst values and a tenth of the range as reference, and the share of the box", () => {
    const objectives = objectivesOf(2);
    const points = [
      [0, 10],
      [10, 20],
    ];
    expect(defaultReference(points, objectives)).toEqual([11, 9]);
    // The box from the best (0, 20) to the reference (11, 9) has 121; dominated: 11·1 + 1·11 − 1·1
    expect(hypervolumeRecord(points, objectives)).toEqual({ value: 21, share: 21 / 121, reference: [11, 9] });
    expect(hypervolumeRecord([], objectives)).toBeUndefined();
  });
});
