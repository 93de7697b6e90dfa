/** Block-wise quantization: the SIMD kernel against its plain reference, against hand-made cases, and its error bounds. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { unpackUnsigned } from "../../src/base/packed.ts";
import { type BlockQuantized, type BlockSpec, type Kernels, loadKernels } from "../../src/kernels/kernels.ts";
import { plainKernels } from "../../src/kernels/reference/plain-kernels.ts";
import { anyFloats, expectElements, gridded, noise, ordinaryFloats, salted } from "./arrays.ts";

let kernels: Kernels;
beforeAll(async () => {
  kernels = await loadKernels();
});

const SPECS: BlockSpec[] = ([2, 4, 8] as const).flatMap((bits) =>
  [true, false].flatMap((symmetric) =>
    (["range", "mse"] as const).flatMap((scale) =>
      (["float32", "float16"] as const).map((scaleType) => ({ bits, symmetric, scale, scaleType, block: 32 })),
    ),
  ),
);

/** Integers identical, scales identical, sums to double precision. */
function expectSame(actual: BlockQuantized, expected: BlockQuantized): void {
  expectElements(actual.scales, expected.scales);
  expectElements(actual.codes, expected.codes);
  expectElements(actual.zeroPoints, expected.zeroPoints);
  expect(actual.notFinite).toBe(expected.notFinite);
  expect(actual.maxError).toBe(expected.maxError);
  expectClose(actual.squaredError, expected.squaredError, expected);
  expectClose(actual.squaredNorm, expected.squaredNorm, expected);
  expect([actual.rows, actual.cols, actual.bits, actual.block]).toEqual([
    expected.rows,
    expected.cols,
    expected.bits,
    expected.block,
  ]);
}

/**
 * The kernel adds the squares of up to 32 rows of four columns in single precision, at most 36 roundings of 2^-24 each, and
 * a square below 2^-126 is rounded to a multiple of 2^-149.
 */
function expectClose(actual: number, expected: number, { rows, cols }: BlockQuantized): void {
  if (actual === expected) return; // both infinite, for one
  expect(Math.abs(actual - expected)).toBeLessThanOrEqual(36 * 2 ** -24 * expected + rows * cols * 2 ** -149);
}

describe.each(SPECS)("quantizeBlocks $bits bits, symmetric $symmetric, $scale, $scaleType scales", (spec) => {
  it.each([
    ["one element", 1, 1],
    ["one block", 1, 32],
    ["a short tail", 3, 37],
    ["fewer than a block", 5, 7],
    ["several blocks", 4, 96],
    ["strips of columns, and a rest", 35, 80],
  ])("equals the reference: %s", (_, rows, cols) => {
    for (const make of [noise, gridded, salted, (n: number) => new Float32Array(n)]) {
      const w = make(rows * cols, rows + cols);
      expectSame(kernels.quantizeBlocks(w, rows, cols, spec), plainKernels.quantizeBlocks(w, rows, cols, spec));
      expectSame(
        kernels.quantizeBlocksTransposed(w, cols, rows, spec),
        plainKernels.quantizeBlocksTransposed(w, cols, rows, spec),
      );
    }
  });
});

describe("quantizeBlocks", () => {
  it.each([
    ["flat tiles", 3, 65536 + 64, 32],
    ["rows of a tile", 700, 100, 16],
    ["a row longer than a tile", 2, 65536 + 40, 32],
    ["large blocks", 2, 1100, 512],
  ])("equals the reference across tile borders: %s", (_, rows, cols, block) => {
    const w = noise(rows * cols);
    for (const symmetric of [true, false]) {
      const spec = { bits: 4, block, symmetric } as const;
      expectSame(kernels.quantizeBlocks(w, rows, cols, spec), plainKernels.quantizeBlocks(w, rows, cols, spec));
    }
  });

  it("equals the reference for transposed matrices across tile borders", () => {
    for (const [k, n] of [
      [1100, 530],
      [64, 3],
      [515, 517],
    ] as const) {
      const w = noise(k * n);
      for (const symmetric of [true, false]) {
        const spec = { bits: 4, block: 64, symmetric } as const;
        expectSame(
          kernels.quantizeBlocksTransposed(w, k, n, spec),
          plainKernels.quantizeBlocksTransposed(w, k, n, spec),
        );
      }
    }
  });

  it("equals the reference for transposed matrices wider than a tile", () => {
    const [k, n] = [300, 8210];
    const w = noise(k * n);
    const spec = { bits: 4, block: 256, symmetric: false } as const;
    expectSame(kernels.quantizeBlocksTransposed(w, k, n, spec), plainKernels.quantizeBlocksTransposed(w, k, n, spec));
  });

  it("equals the reference for columns of any magnitude side by side", () => {
    // 2^-150 to 2^130: scales that vanish, that lose bits when squared, and that overflow
    const powers = fc.array(fc.integer({ min: -150, max: 130 }), { minLength: 16, maxLength: 40 });
    fc.assert(
      fc.property(powers, fc.constantFrom(...SPECS), fc.integer({ min: 0, max: 9 }), (exponents, given, seed) => {
        const n = exponents.length;
        const w = noise(64 * n, seed).map((x, i) => x * 2 ** (exponents[i % n] as number));
        const spec = { ...given, scale: "range" } as const;
        expectSame(
          kernels.quantizeBlocksTransposed(w, 64, n, spec),
          plainKernels.quantizeBlocksTransposed(w, 64, n, spec),
        );
      }),
    );
  });

  it("equals the reference for any matrix and any float32", () => {
    const shape = fc.record({ cols: fc.integer({ min: 1, max: 70 }), block: fc.constantFrom(16, 32, 48, 64) });
    fc.assert(
      fc.property(anyFloats, shape, fc.constantFrom(...SPECS), (values, { cols, block }, given) => {
        const rows = Math.floor(values.length / cols);
        const w = values.subarray(0, rows * cols);
        const spec = { ...given, block };
        expectSame(kernels.quantizeBlocks(w, rows, cols, spec), plainKernels.quantizeBlocks(w, rows, cols, spec));
        expectSame(
          kernels.quantizeBlocksTransposed(w, rows, cols, spec),
          plainKernels.quantizeBlocksTransposed(w, rows, cols, spec),
        );
      }),
      { numRuns: 300 },
    );
  });

  it("follows ONNX Runtime's symmetric rule: the peak maps to the lowest code, exactly", () => {
    // quantize_matmul_4bits of ONNX Runtime 1.30 on linspace(-1, 3, 32): scale -0.375; ties aside the same codes
    const w = Float32Array.from({ length: 32 }, (_, i) => -1 + (4 * i) / 31);
    const q = kernels.quantizeBlocks(w, 1, 32, { bits: 4 });
    expect(q.scales[0]).toBe(-0.375);
    expect(Array.from(q.codes)).toEqual([171, 170, 153, 137, 136, 119, 103, 102, 85, 68, 52, 51, 34, 18, 17, 0]);
    expect(q.zeroPoints).toBeUndefined();
  });

  it("follows ONNX Runtime's asymmetric rule", () => {
    const w = Float32Array.from({ length: 32 }, (_, i) => -1 + (4 * i) / 31);
    const q = kernels.quantizeBlocks(w, 1, 32, { bits: 4, symmetric: false });
    expect(q.scales[0]).toBeCloseTo(0.26666668, 8);
    expect(q.zeroPoints?.[0]).toBe(4);
    expect(Array.from(q.codes)).toEqual([16, 33, 50, 67, 84, 101, 118, 135, 136, 153, 170, 187, 204, 221, 238, 255]);
  });

  it("rounds half to even", () => {
    const w = new Float32Array(32);
    w.set([-8, 0.5, 1.5, 2.5, -0.5, -1.5]); // scale 1
    const q = kernels.quantizeBlocks(w, 1, 32, { bits: 4 });
    expect(q.scales[0]).toBe(1);
    expect(Array.from(unpackUnsigned(q.codes, 4, 6), (code) => code - 8)).toEqual([-8, 0, 2, 2, 0, -2]);
  });

  it("gives a block of zeros scale 1 and no error", () => {
    for (const symmetric of [true, false]) {
      const q = kernels.quantizeBlocks(new Float32Array(40), 1, 40, { bits: 4, symmetric });
      expect(Array.from(q.scales)).toEqual([1, 1]);
      expect(q.squaredError).toBe(0);
      expect(kernels.dequantizeBlocks(q)).toEqual(new Float32Array(40));
    }
  });

  it("counts not-finite weights and keeps the others' scale", () => {
    const w = noise(64);
    const clean = kernels.quantizeBlocks(
      w.map((x, i) => (i === 3 || i === 40 ? 0 : x)),
      1,
      64,
      { bits: 4 },
    );
    const dirty = kernels.quantizeBlocks(
      w.map((x, i) => (i === 3 || i === 40 ? NaN : x)),
      1,
      64,
      { bits: 4 },
    );
    expect(dirty.notFinite).toBe(2);
    expect(dirty.scales).toEqual(clean.scales);
    expect(dirty.codes).toEqual(clean.codes);
  });

  it("takes a matrix in pieces, straight or transposed, with the same result", () => {
    const [rows, cols] = [96, 50];
    const w = noise(rows * cols);
    const spec = { bits: 4, block: 32, symmetric: false } as const;
    for (const transpose of [false, true]) {
      const quantizer = kernels.blockQuantizer({ rows, cols, transpose }, spec);
      quantizer.push(w.subarray(0, 32 * cols));
      quantizer.push(w.subarray(32 * cols, 64 * cols));
      // The rest as a reader delivers it
      const rest = new Uint8Array(w.buffer, 64 * cols * 4);
      quantizer.pull(32, (target, offset) => target.set(rest.subarray(offset, offset + target.length)));
      const whole = transpose
        ? kernels.quantizeBlocksTransposed(w, rows, cols, spec)
        : kernels.quantizeBlocks(w, rows, cols, spec);
      expectSame(quantizer.finish(), whole);
    }
  });

  it("refuses pieces that are not whole rows, and an early finish", () => {
    const quantizer = kernels.blockQuantizer({ rows: 4, cols: 10 }, { bits: 4 });
    expect(() => quantizer.push(new Float32Array(15))).toThrow(/whole rows/);
    quantizer.push(new Float32Array(20));
    expect(() => quantizer.finish()).toThrow(/Not every row/);
    const transposed = kernels.blockQuantizer({ rows: 64, cols: 2, transpose: true }, { bits: 4 });
    expect(() => transposed.push(new Float32Array(20))).toThrow(/whole blocks/);
  });

  it("reads scratch memory in place", () => {
    const bytes = kernels.scratch(64 * 4);
    const view = new Float32Array(bytes.buffer, bytes.byteOffset, 64);
    const w = salted(64);
    view.set(w);
    const q = kernels.quantizeBlocks(view, 1, 64, { bits: 4, symmetric: false });
    expectSame(q, plainKernels.quantizeBlocks(w, 1, 64, { bits: 4, symmetric: false }));
    expect(view).toEqual(w);
    kernels.scratch(0);
    expect(() => kernels.scratch(2 ** 30)).toThrow(/scratch/);
  });
});

describe("the error of quantizeBlocks", () => {
  const bits = fc.constantFrom(2, 4, 8) as fc.Arbitrary<2 | 4 | 8>;

  it("asymmetric: at most half a scale (plus the zero point's rounding) everywhere", () => {
    fc.assert(
      fc.property(ordinaryFloats, bits, (w, b) => {
        const q = kernels.quantizeBlocks(w, 1, w.length, { bits: b, symmetric: false });
        const back = kernels.dequantizeBlocks(q);
        for (let i = 0; i < w.length; i++) {
          const s = q.scales[Math.floor(i / 32)] as number;
          // values at the ends may clip by the rounding of z: half a scale more
          expect(Math.abs((back[i] as number) - (w[i] as number))).toBeLessThanOrEqual(s * 1.0001);
        }
      }),
    );
  });

  it("symmetric: at most half a scale inside the codes' range, one scale at the clipped end", () => {
    fc.assert(
      fc.property(ordinaryFloats, bits, (w, b) => {
        const q = kernels.quantizeBlocks(w, 1, w.length, { bits: b });
        const back = kernels.dequantizeBlocks(q);
        const half = 2 ** (b - 1);
        for (let i = 0; i < w.length; i++) {
          const s = q.scales[Math.floor(i / 32)] as number;
          const x = w[i] as number;
          const limit = x / s > half - 0.5 ? Math.abs(s) : Math.abs(s) / 2;
          expect(Math.abs((back[i] as number) - x)).toBeLessThanOrEqual(limit * 1.0001);
        }
      }),
    );
  });

  it("is what dequantizing shows, and never larger with the mse scale", () => {
    fc.assert(
      fc.property(ordinaryFloats, bits, fc.boolean(), (w, b, symmetric) => {
        const plain = kernels.quantizeBlocks(w, 1, w.length, { bits: b, symmetric });
        const best = kernels.quantizeBlocks(w, 1, w.length, { bits: b, symmetric, scale: "mse" });
        const shown = kernels.compare(kernels.dequantizeBlocks(plain), w);
        expect(plain.squaredError).toBeCloseTo(shown.squaredDifference, 3);
        expect(plain.squaredNorm).toBeCloseTo(shown.squaredNormB, 3);
        expect(best.squaredError).toBeLessThanOrEqual(plain.squaredError * 1.00001);
      }),
    );
  });

  it("falls clearly with the mse scale on noise (a wrong scale does not pass)", () => {
    const w = noise(32 * 256);
    const error = (scale: "range" | "mse", bitCount: 2 | 4): number => {
      const q = kernels.quantizeBlocks(w, 1, w.length, { bits: bitCount, scale });
      return q.squaredError / q.squaredNorm;
    };
    expect(error("mse", 2)).toBeLessThan(0.9 * error("range", 2));
    expect(error("mse", 4)).toBeLessThan(0.95 * error("range", 4));
    const q = kernels.quantizeBlocks(w, 1, w.length, { bits: 4 });
    const wrong = kernels.dequantizeBlocks({ ...q, scales: q.scales.map((s) => s * 1.2) });
    expect(kernels.compare(wrong, w).squaredDifference).toBeGreaterThan(1.5 * q.squaredError);
  });
});

describe("dequantizeBlocks", () => {
  it.each(SPECS.filter((spec) => spec.scale === "range"))(
    "equals the reference: $bits bits, symmetric $symmetric",
    (spec) => {
      for (const [rows, cols] of [
        [1, 1],
        [3, 37],
        [4, 96],
        [300, 300],
      ] as const) {
        const q = plainKernels.quantizeBlocks(noise(rows * cols), rows, cols, spec);
        expectElements(kernels.dequantizeBlocks(q), plainKernels.dequantizeBlocks(q));
      }
    },
  );
});
