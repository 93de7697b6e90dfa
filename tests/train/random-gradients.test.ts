/** Gradient rules against central differences over random shapes and attributes. */
import { describe, expect, test } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { checkOperator } from "./operator-check.ts";
import { RANDOM } from "./random-cases.ts";

/** As for the fixed cases: float32 arithmetic is below 1e-5, a wrong rule is off by 1e-2 and more. */
const TOLERANCE = 1e-4;
const SEEDS = Number(process.env["SEEDS"] ?? 4);

describe("gradients over random shapes and attributes", () => {
  test.each(Object.entries(RANDOM))("%s", async (name, draw) => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      const opCase = { ...draw(new Rng(seed).fork(name)), note: `seed ${seed}` };
      const report = await checkOperator(opCase, { seed, quick: true });
      expect(report.error, JSON.stringify(opCase)).toBeLessThan(TOLERANCE);
      expect(report.forwardError ?? 0, JSON.stringify(opCase)).toBeLessThan(1e-5);
    }
  });

  test("a wrong gradient fails whatever was drawn", async () => {
    const corrupt = (gradient: number[]): void => gradient.forEach((value, i) => (gradient[i] = value * 1.002));
    for (const name of ["Conv", "MatMul", "LayerNormalization", "ReduceLogSumExp", "AveragePool"]) {
      const opCase = { ...RANDOM[name]!(new Rng(1).fork(name)), note: "corrupt" };
      expect((await checkOperator(opCase, { corrupt, quick: true })).error).toBeGreaterThan(2 * TOLERANCE);
    }
  });
});
