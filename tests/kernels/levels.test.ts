/** Quantization to levels: the SIMD kernel against its plain reference, and what published rules say by hand. */
import { beforeAll, describe, expect, it } from "vitest";
import { smallFloatTable } from "../../src/base/float8.ts";
import { type Kernels, type LevelSpec, loadKernels } from "../../src/kernels/kernels.ts";
import { plainKernels } from "../../src/kernels/reference/plain-kernels.ts";
import { expectElements, gridded, noise, salted } from "./arrays.ts";

let kernels: Kernels;
beforeAll(async () => {
  kernels = await loadKernels();
});

const TERNARY = Float32Array.of(-1, 0, 1);
const BINARY = Float32Array.of(-1, 1);
const POWERS = Float32Array.of(-1, -0.5, -0.25, 0, 0.25, 0.5, 1);
const E4M3 = Float32Array.from(new Set(smallFloatTable("float8e4m3fn").filter(Number.isFinite))).sort();
const RULES: LevelSpec["scale"][] = ["peak", "mse", "mean"];

describe.each([
  [1, 1],
  [5, 27],
  [40, 32],
  [3, 1001],
  [1, 40000],
])("%i rows of %i", (rows, inner) => {
  it.each([
    ["ternary", TERNARY],
    ["binary", BINARY],
    ["powers of two", POWERS],
    ["e4m3", E4M3],
  ])("equal the reference: %s", (_, levels) => {
    for (const make of [noise, gridded, salted])
      for (const scale of [...RULES, new Float32Array(rows).fill(0.25)])
        for (const scaleType of ["float32", "float16"] as const) {
          if (rows * inner > 1500 && (make !== noise || scale === "mse")) continue;
          const w = make(rows * inner);
          const spec: LevelSpec = { levels, scale, scaleType };
          const actual = kernels.quantizeLevels(w, rows, spec);
          const expected = plainKernels.quantizeLevels(w, rows, spec);
          expect(actual.scales).toEqual(expected.scales);
          expectElements(actual.codes, expected.codes);
          expect(actual.notFinite).toBe(expected.notFinite);
          expect(actual.maxError).toBe(expected.maxError);
          // Sums differ in the order of additions only
          for (const sum of ["squaredError", "squaredNorm"] as const)
            if (actual[sum] !== expected[sum])
              expect(Math.abs(actual[sum] - expected[sum]) / expected[sum]).toBeLessThan(1e-11);
        }
  });
});

describe("scales", () => {
  it("of Ternary Weight Networks: Δ = 0.7·mean|w|, s = mean of |w| above it", () => {
    const w = Float32Array.of(0.1, -0.9, 0.5, -0.2, 1.3, 0.3);
    const { codes, scales } = kernels.quantizeLevels(w, 1, { levels: TERNARY, scale: "mean" });
    // mean|w| = 0.55, Δ = 0.385
    expect([...codes]).toEqual([1, 0, 2, 1, 2, 1]);
    expect(scales[0]).toBeCloseTo((0.9 + 0.5 + 1.3) / 3, 6);
  });

  it("of binary weights: mean|w| (Rastegari et al. 2016)", () => {
    const w = Float32Array.of(0.1, -0.9, 0.5, -0.2);
    for (const scale of ["mean", "mse"] as const) {
      const { codes, scales } = kernels.quantizeLevels(w, 1, { levels: BINARY, scale });
      expect([...codes]).toEqual([1, 0, 1, 0]);
      expect(scales[0]).toBeCloseTo(0.425, 6);
    }
  });

  it("searched are never worse than those of the peak, and better on noise", () => {
    const w = noise(4096);
    const error = (scale: "peak" | "mse"): number =>
      kernels.quantizeLevels(w, 8, { levels: POWERS, scale }).squaredError;
    expect(error("mse")).toBeLessThan(0.9 * error("peak"));
  });

  it("of rows beyond the kernels' memory come from a part of them, all codes from the same scale", () => {
    const w = noise((4 << 20) + 5);
    w[1234567] = 40; // the peak, which an even draw would miss
    const { scales, codes } = kernels.quantizeLevels(w, 1, { levels: POWERS, scale: "peak" });
    expect(scales[0]).toBe(40);
    expect(codes[1234567]).toBe(6);
    const last = w.subarray(-5);
    expectElements(codes.subarray(-5), plainKernels.quantizeLevels(last, 1, { levels: POWERS, scale: scales }).codes);
  });
});
