/** Dense linear algebra and rounding with feedback: the SIMD kernels against their references to the bit, and against their definitions. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { type FeedbackRounding, type Kernels, loadKernels } from "../../src/kernels/kernels.ts";
import { plainKernels } from "../../src/kernels/reference/plain-kernels.ts";
import { expectElements, noise } from "./arrays.ts";

let kernels: Kernels;
beforeAll(async () => {
  kernels = await loadKernels();
});

const size = (max: number): fc.Arbitrary<number> => fc.integer({ min: 1, max });

/** XᵀX/rows + I/10 of noise. */
function positive(n: number, seed: number): Float32Array {
  const x = noise(3 * n * n, seed);
  return Float32Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    let sum = i === j ? 0.1 : 0;
    for (let row = 0; row < 3 * n; row++) sum += ((x[row * n + i] ?? 0) * (x[row * n + j] ?? 0)) / (3 * n);
    return sum;
  });
}

function rounding(count: number, n: number, grids: number, seed: number, top: number): FeedbackRounding {
  const positiveNoise = (length: number, s: number): Float32Array =>
    noise(length, s).map((x) => 0.05 + Math.abs(x) / 4);
  return {
    w: noise(count * n, seed),
    base: noise(count * n, seed + 1, 0.1),
    count,
    n,
    feedback: noise(count * count, seed + 2, 0.3),
    importance: positiveNoise(count, seed + 3),
    groups: Int32Array.from({ length: count }, (_, j) => j % grids),
    scales: positiveNoise(grids * n, seed + 4).map((s, i) => (i % 3 === 0 ? -s : s)),
    zeroPoints: noise(grids * n, seed + 5).map((x) => Math.min(top, Math.max(0, Math.round(top / 2 + x)))),
    top,
  };
}

describe("products", () => {
  it("equal the reference to the bit, at any sizes", () => {
    fc.assert(
      fc.property(size(9), size(40), size(70), fc.nat(99), (m, p, n, seed) => {
        const [a, b, c] = [noise(m * p, seed), noise(p * n, seed + 1), noise(m * n, seed + 2)];
        expectElements(kernels.addProduct(c, a, b, { m, p, n }), plainKernels.addProduct(c, a, b, { m, p, n }));
      }),
    );
  });

  it("are taken in pieces where they are wide", () => {
    const sizes = { m: 3, p: 1000, n: 3001 };
    const [a, b, c] = [noise(3000, 1), noise(1000 * 3001, 2), noise(9003, 3)];
    expectElements(kernels.addProduct(c, a, b, sizes), plainKernels.addProduct(c, a, b, sizes));
  });
});

describe("Cholesky factors", () => {
  it("equal the reference to the bit and give the matrix back", () => {
    fc.assert(
      fc.property(size(45), fc.nat(99), (n, seed) => {
        const a = positive(n, seed);
        const u = kernels.choleskyUpper(a, n);
        expectElements(u, plainKernels.choleskyUpper(a, n));
        const v = kernels.invertUpper(u as Float32Array, n);
        expectElements(v, plainKernels.invertUpper(u as Float32Array, n));
        for (let i = 0; i < n; i++)
          for (let j = 0; j < n; j++) {
            let [square, unit] = [0, 0];
            for (let r = 0; r < n; r++) {
              square += (u?.[r * n + i] ?? 0) * (u?.[r * n + j] ?? 0);
              unit += (u?.[i * n + r] ?? 0) * (v[r * n + j] ?? 0);
            }
            // Condition numbers stay below a few hundred; float32 has 1e-7.
            expect(Math.abs(square - (a[i * n + j] ?? 0))).toBeLessThan(1e-5);
            expect(Math.abs(unit - (i === j ? 1 : 0))).toBeLessThan(1e-4);
          }
      }),
      { numRuns: 30 },
    );
  });

  it("are refused where the matrix is not positive definite", () => {
    for (const a of [
      [1, 2, 2, 1],
      [0, 0, 0, 1],
      [1, 0, 0, Number.NaN],
    ]) {
      expect(kernels.choleskyUpper(Float32Array.from(a), 2)).toBeUndefined();
      expect(plainKernels.choleskyUpper(Float32Array.from(a), 2)).toBeUndefined();
    }
  });
});

describe("rounding with feedback", () => {
  it("equals the reference to the bit", () => {
    fc.assert(
      fc.property(
        size(20),
        size(50),
        size(4),
        fc.nat(99),
        fc.constantFrom(3, 7, 15, 255),
        (count, n, grids, seed, top) => {
          const problem = rounding(count, n, grids, seed, top);
          const [actual, expected] = [kernels.roundWithFeedback(problem), plainKernels.roundWithFeedback(problem)];
          expectElements(actual.codes, expected.codes);
          expectElements(actual.errors, expected.errors);
          expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-9 * (1 + expected.loss));
        },
      ),
    );
  });

  it("without feedback rounds each weight to the nearest code", () => {
    const problem = { ...rounding(8, 40, 2, 5, 15), feedback: new Float32Array(64), base: new Float32Array(320) };
    const { codes } = kernels.roundWithFeedback(problem);
    for (let at = 0; at < codes.length; at++) {
      const grid = (problem.groups[Math.floor(at / 40)] ?? 0) * 40 + (at % 40);
      const [s, z] = [problem.scales[grid] ?? 0, problem.zeroPoints[grid] ?? 0];
      const exact = Math.min(15, Math.max(0, (problem.w[at] ?? 0) / s + z));
      expect(Math.abs((codes[at] ?? 0) - exact)).toBeLessThan(0.5 + 1e-5);
    }
    // The control: feedback moves some of them.
    const moved = kernels.roundWithFeedback(rounding(8, 40, 2, 5, 15)).codes;
    expect(moved.some((code, at) => code !== codes[at])).toBe(true);
  });
});
