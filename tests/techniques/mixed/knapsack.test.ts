/** The multiple-choice knapsack against every combination, and its speed at the size of real models. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Rng } from "../../../src/base/rng.ts";
import { type Choice, type KnapsackSolution, solveKnapsack } from "../../../src/techniques/mixed/knapsack.ts";

/** Every combination. */
function bruteForce(classes: readonly (readonly Choice[])[], budget: number): KnapsackSolution | undefined {
  let best: KnapsackSolution | undefined;
  const visit = (chosen: number[], cost: number, loss: number): void => {
    if (chosen.length === classes.length) {
      if (cost <= budget + 1e-9 && loss < (best?.loss ?? Number.POSITIVE_INFINITY)) best = { chosen, cost, loss };
      return;
    }
    for (const [index, choice] of (classes[chosen.length] ?? []).entries())
      visit([...chosen, index], cost + choice.cost, loss + choice.loss);
  };
  visit([], 0, 0);
  return best;
}

const choice = (cost: fc.Arbitrary<number>, loss: fc.Arbitrary<number>): fc.Arbitrary<Choice> =>
  fc.record({ cost, loss });
const whole = fc.array(
  fc.array(choice(fc.integer({ min: -20, max: 30 }), fc.integer({ min: 0, max: 20 })), { minLength: 1, maxLength: 5 }),
  { minLength: 1, maxLength: 6 },
);
const real = fc.array(
  fc.array(choice(fc.double({ min: -1e3, max: 1e3, noNaN: true }), fc.double({ min: 0, max: 10, noNaN: true })), {
    minLength: 1,
    maxLength: 4,
  }),
  { minLength: 1, maxLength: 7 },
);

function sums(classes: readonly (readonly Choice[])[], { chosen }: KnapsackSolution): Choice {
  return chosen.reduce(
    (sum, index, i) => {
      const { cost, loss } = (classes[i] as readonly Choice[])[index] as Choice;
      return { cost: sum.cost + cost, loss: sum.loss + loss };
    },
    { cost: 0, loss: 0 },
  );
}

describe("the multiple-choice knapsack", () => {
  it("finds what trying every combination finds, whole numbers with ties", () => {
    fc.assert(
      fc.property(whole, fc.integer({ min: -60, max: 120 }), (classes, budget) => {
        const [found, wanted] = [solveKnapsack(classes, budget), bruteForce(classes, budget)];
        expect(found?.loss).toBe(wanted?.loss);
        if (found) expect(sums(classes, found)).toEqual({ cost: found.cost, loss: found.loss });
        if (found) expect(found.cost).toBeLessThanOrEqual(budget);
      }),
      { numRuns: 400 },
    );
  });

  it("finds it for real numbers", () => {
    fc.assert(
      fc.property(real, fc.double({ min: -4e3, max: 4e3, noNaN: true }), (classes, budget) => {
        const found = solveKnapsack(classes, budget);
        // Sums in another order differ in their last bits, also at the edge of the budget.
        const slack = 1e-9 * (1 + Math.abs(budget));
        const [more, less] = [bruteForce(classes, budget + slack), bruteForce(classes, budget - slack)];
        const loss = found?.loss ?? Number.POSITIVE_INFINITY;
        expect(loss).toBeGreaterThanOrEqual((more?.loss ?? Number.POSITIVE_INFINITY) - 1e-9);
        expect(loss).toBeLessThanOrEqual((less?.loss ?? Number.POSITIVE_INFINITY) + 1e-9);
      }),
      { numRuns: 400 },
    );
  });

  it("is better than taking steps by their gain per cost, where that fails", () => {
    // Greedy takes the steep small step of the first class and then cannot pay for the second.
    const classes = [
      [
        { cost: 0, loss: 10 },
        { cost: 6, loss: 2 },
      ],
      [
        { cost: 0, loss: 10 },
        { cost: 10, loss: 0 },
      ],
    ];
    expect(solveKnapsack(classes, 10)).toEqual({ chosen: [0, 1], cost: 10, loss: 10 });
  });

  it("says when nothing fits, and takes the cheapest of equals", () => {
    expect(solveKnapsack([[{ cost: 5, loss: 1 }]], 4)).toBeUndefined();
    expect(
      solveKnapsack(
        [
          [
            { cost: 5, loss: 1 },
            { cost: 3, loss: 1 },
          ],
        ],
        9,
      )?.chosen,
    ).toEqual([1]);
    expect(() => solveKnapsack([[{ cost: 1, loss: Number.POSITIVE_INFINITY }]], 4)).toThrow("no format that works");
  });

  it("solves 300 layers of 8 formats exactly within seconds", () => {
    const rng = new Rng(7);
    const classes = Array.from({ length: 300 }, () => {
      const [elements, weight] = [10 ** (3 + 3 * rng.uniform()), rng.uniform()];
      return [1, 2, 3, 4, 5, 6, 8, 16].map((bits) => ({
        cost: Math.round((elements * bits) / 8),
        loss: weight * elements * 4 ** -bits * (0.5 + rng.uniform()),
      }));
    });
    const most = classes.reduce((sum, choices) => sum + (choices[3]?.cost ?? 0), 0);
    const started = performance.now();
    const found = solveKnapsack(classes, most);
    expect(found?.cost).toBeLessThanOrEqual(most);
    const uniform = classes.reduce((sum, choices) => sum + (choices[3]?.loss ?? 0), 0);
    expect(found?.loss).toBeLessThan(uniform);
    // Generous: the machine may be busy; the plain list without a bound would take hours.
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});
