/** Gradient rules of structure against central differences, over shapes and attributes, with wrong gradients as negative controls. */
import { describe, expect, test } from "vitest";
import { gradientError } from "./gradient-check.ts";
import { STRUCTURE_CASES } from "./structure-cases.ts";

/** float32 arithmetic of some dozen terms: a few 1e-6; anything wrong in a rule is off by 1e-2 and more. */
const TOLERANCE = 2e-4;

for (const [family, cases] of Object.entries(STRUCTURE_CASES))
  describe(`gradients: ${family}`, () => {
    for (const each of cases)
      test(each.name, async () => {
        expect(await gradientError(each)).toBeLessThan(TOLERANCE);
      });
  });

describe("negative controls", () => {
  for (const [family, [first]] of Object.entries(STRUCTURE_CASES))
    test(`a factor of 1.01 on the first case of ${family} fails`, async () => {
      if (!first) throw new Error("no case");
      const corrupt = (gradient: number[]): void => gradient.forEach((value, i) => (gradient[i] = value * 1.01));
      expect(await gradientError(first, { corrupt })).toBeGreaterThan(5 * TOLERANCE);
    });
});
