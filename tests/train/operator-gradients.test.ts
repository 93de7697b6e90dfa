/** The gradient of every operator case in tests/ops of the arithmetic families, with wrong gradients as negative controls. */
import { describe, expect, test } from "vitest";
import { isFloat } from "../../src/base/dtype.ts";
import { specOf } from "../../src/ops/registry.ts";
import { type OpCase, allCases } from "../support/op-case.ts";
import { ARITHMETIC, checkOperator, nameOf } from "./operator-check.ts";

/** float32 arithmetic of some hundred terms: below 1e-5 of the largest element; anything wrong in a rule is off by 1e-2 and more. */
const TOLERANCE = 1e-4;
/** The error of a central difference in double precision itself: 1e-16/step, and step² times the third derivative. */
const TOLERANCE_64 = 1e-7;
/** float16 has 11 bits: 5e-4 for each rounding, some of them one after the other. */
const TOLERANCE_16 = 2e-2;

/** A power of a negative number is none of the exponent. */
const UNWANTED: Readonly<Record<string, number>> = { Pow: 1 };

/** Rules that may refuse an open first axis, in these words: they build a matrix of its size. */
const NEEDS_SIZES: ReadonlySet<string> = new Set(["CumProd"]);

const differentiable = allCases().filter((each) => {
  const spec = specOf({ opType: each.op, domain: each.domain ?? "" }, each.opset);
  return (
    nameOf(each) in ARITHMETIC &&
    typeof spec?.grad === "function" &&
    each.inputs.some((input) => input && isFloat(input.dtype))
  );
});

describe("gradients of operator cases", () => {
  test.each(differentiable.map((each) => [`${nameOf(each)} (${each.opset}): ${each.note}`, each] as const))(
    "%s",
    async (_, opCase) => {
      const report = await checkOperator(opCase, { wanted: (input) => UNWANTED[opCase.op] !== input });
      expect(report.error).toBeLessThan(TOLERANCE);
      expect(report.error64 ?? 0).toBeLessThan(TOLERANCE_64);
      expect(report.error16 ?? 0).toBeLessThan(TOLERANCE_16);
      expect(report.forwardError ?? 0).toBeLessThan(1e-5);
      if (NEEDS_SIZES.has(opCase.op) && typeof report.openFirst === "string")
        expect(report.openFirst).toMatch(/must be known here/);
      else expect(report.openFirst).toBeLessThan(TOLERANCE);
    },
  );
});

describe("negative controls", () => {
  const broken: Record<string, (gradient: number[]) => void> = {
    "a factor of 1.001": (gradient) => gradient.forEach((value, i) => (gradient[i] = value * 1.001)),
    "a wrong sign": (gradient) => gradient.forEach((value, i) => (gradient[i] = -value)),
    "one element lost": (gradient) => {
      const sizes = gradient.map(Math.abs);
      gradient[sizes.indexOf(Math.max(...sizes))] = 0;
    },
    "two elements exchanged": (gradient) => {
      const [first = 0, last = 0] = [gradient[0], gradient.at(-1)];
      [gradient[0], gradient[gradient.length - 1]] = [last, first];
    },
  };
  const sample = ["Conv", "LayerNormalization"];
  for (const op of sample)
    for (const [name, corrupt] of Object.entries(broken))
      test(`${op} with ${name} fails`, async () => {
        const opCase = differentiable.find((each) => each.op === op) as OpCase;
        expect((await checkOperator(opCase, { corrupt, quick: true })).error).toBeGreaterThan(2 * TOLERANCE);
      });
});
