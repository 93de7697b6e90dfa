/** Codebooks: the optimum of k-means in one dimension, against every partition of small weights. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { learnCodebook } from "../../src/techniques/quantize/weights/codebook.ts";

function lossOf(w: Float32Array, cost: readonly number[], levels: ArrayLike<number>): number {
  return w.reduce(
    (sum, x, i) => sum + (cost[i] as number) * Math.min(...Array.from(levels, (level) => (x - level) ** 2)),
    0,
  );
}

/** The least loss over all ways to cut the sorted elements into `entries` runs. */
function least(w: Float32Array, cost: readonly number[], entries: number): number {
  const order = [...w.keys()].sort((a, b) => (w[a] as number) - (w[b] as number));
  const spread = (part: readonly number[]): number => {
    const weight = part.reduce((sum, i) => sum + (cost[i] as number), 0);
    const mean = part.reduce((sum, i) => sum + (cost[i] as number) * (w[i] as number), 0) / weight;
    return part.reduce((sum, i) => sum + (cost[i] as number) * ((w[i] as number) - mean) ** 2, 0);
  };
  const best = (rest: readonly number[], left: number): number => {
    if (rest.length === 0) return 0;
    if (left === 1) return spread(rest);
    return Math.min(...rest.map((_, i) => spread(rest.slice(0, i + 1)) + best(rest.slice(i + 1), left - 1)));
  };
  return best(order, entries);
}

describe("learnCodebook", () => {
  it("finds the least squared error, weighted or not", () => {
    const element = fc.record({
      x: fc.float({ min: -2, max: 2, noNaN: true }),
      cost: fc.integer({ min: 1, max: 9 }),
    });
    fc.assert(
      fc.property(fc.array(element, { minLength: 1, maxLength: 9 }), fc.integer({ min: 1, max: 4 }), (all, entries) => {
        const w = Float32Array.from(all, ({ x }) => x);
        const cost = all.map((one) => one.cost);
        const levels = learnCodebook({ w, cost: (i) => cost[i] as number }, entries);
        expect([...levels]).toEqual([...levels].sort((a, b) => a - b));
        const range = Math.max(...w) - Math.min(...w);
        // Elements of one bin stay together: a bin is 1/8192 of the range wide
        const slack = cost.reduce((a, b) => a + b, 0) * (range / 8192) * (range + 1) + 1e-6;
        expect(lossOf(w, cost, levels)).toBeLessThanOrEqual(least(w, cost, entries) + slack);
      }),
      { numRuns: 60 },
    );
  });

  it("beats evenly spread levels by far where weights cluster", () => {
    const w = Float32Array.from({ length: 400 }, (_, i) => [-1, -0.9, 0.01, 2][i % 4] as number);
    expect([...learnCodebook({ w }, 4)].map((x) => Number(x.toFixed(3)))).toEqual([-1, -0.9, 0.01, 2]);
  });

  it("knows one value, and none", () => {
    expect([...learnCodebook({ w: Float32Array.of(0.5, 0.5) }, 4)]).toEqual([0.5, 0.5, 0.5, 0.5]);
    expect([...learnCodebook({ w: Float32Array.of(Number.NaN) }, 2)]).toEqual([0, 0]);
  });
});
