/** Conversions and reductions: the SIMD kernels against their plain references and hand-made cases. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { type HalfConverted, type Kernels, loadKernels } from "../../src/kernels/kernels.ts";
import { plainKernels } from "../../src/kernels/reference/plain-kernels.ts";
import { anyFloats, expectElements, noise, salted } from "./arrays.ts";

let kernels: Kernels;
beforeAll(async () => {
  kernels = await loadKernels();
});

/** Relative to the size of the terms: only the order of additions in double precision differs. */
function expectClose(actual: number, expected: number, terms: number): void {
  if (actual !== expected) expect(Math.abs(actual - expected)).toBeLessThanOrEqual(1e-12 * terms);
}

/** The same bits and counts. */
function expectHalf(
  { bits, ...counts }: HalfConverted,
  { bits: expectedBits, ...expectedCounts }: HalfConverted,
): void {
  expectElements(bits, expectedBits);
  expect(counts).toEqual(expectedCounts);
}

const LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65535, 65537, 131077];

describe("16-bit floats", () => {
  it.each(LENGTHS)("equal the reference for %i elements", (length) => {
    for (const make of [noise, salted])
      for (const saturate of [false, true]) {
        const x = make(length, length + 1);
        expectHalf(kernels.toFloat16(x, saturate), plainKernels.toFloat16(x, saturate));
        expectHalf(kernels.toBfloat16(x, saturate), plainKernels.toBfloat16(x, saturate));
      }
  });

  it("equal the reference for any float32", () => {
    fc.assert(
      fc.property(anyFloats, fc.boolean(), (x, saturate) => {
        expectHalf(kernels.toFloat16(x, saturate), plainKernels.toFloat16(x, saturate));
        expectHalf(kernels.toBfloat16(x, saturate), plainKernels.toBfloat16(x, saturate));
      }),
    );
  });

  it("equal the reference next to every half: each value, its neighbours and the ties between", () => {
    const words = new Uint32Array(2 * 31744);
    for (let i = 0; i < 31744; i++) {
      const [low = 0] = new Uint32Array(plainKernels.fromFloat16(Uint16Array.of(i)).buffer);
      const [high = 0] = new Uint32Array(plainKernels.fromFloat16(Uint16Array.of(i + 1)).buffer);
      words[2 * i] = low + Math.floor((high - low) / 2);
      words[2 * i + 1] = (words[2 * i] as number) + 1;
    }
    const x = new Float32Array(words.buffer);
    expectHalf(kernels.toFloat16(x), plainKernels.toFloat16(x));
  });

  it("convert back exactly: all 65536 patterns, and odd lengths", () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    for (const bits of [all, all.subarray(15355, 15362), all.subarray(0, 1)]) {
      expectElements(kernels.fromFloat16(bits), plainKernels.fromFloat16(bits));
      expectElements(kernels.fromBfloat16(bits), plainKernels.fromBfloat16(bits));
    }
  });

  it("count what is lost", () => {
    const x = Float32Array.of(1, 65519, 65520, -1e9, 1e-9, 2 ** -25, 2 ** -24, 0, NaN, -Infinity);
    const { bits, ...counts } = kernels.toFloat16(x);
    expect(counts).toEqual({ overflow: 2, underflow: 2, notFinite: 2 });
    expect(Array.from(bits)).toEqual([0x3c00, 0x7bff, 0x7c00, 0xfc00, 0, 0, 1, 0, 0x7e00, 0xfc00]);
    expect(Array.from(kernels.toFloat16(x, true).bits.subarray(2, 4))).toEqual([0x7bff, 0xfbff]);
  });
});

describe("extent", () => {
  it("equals the reference at any length, and is unknown where one element is not finite", () => {
    for (const length of [0, 1, 3, 4, 7, 64, 65_537]) {
      const x = noise(length);
      expect(kernels.extent(x)).toEqual(plainKernels.extent(x));
      for (const odd of [Number.NaN, Infinity, -Infinity])
        for (const at of [0, length >> 1, length - 1].filter((i) => i >= 0 && i < length)) {
          const salted = x.slice();
          salted[at] = odd;
          expect(kernels.extent(salted)).toBeUndefined();
          expect(plainKernels.extent(salted)).toBeUndefined();
        }
    }
    expect(kernels.extent(Float32Array.of(-0, 5, 3e38, -3e38))).toEqual({
      min: Math.fround(-3e38),
      max: Math.fround(3e38),
    });
  });
});

describe("summarize and compare", () => {
  it.each(LENGTHS)("equal the reference for %i elements", (length) => {
    for (const make of [noise, salted]) {
      const x = make(length, 3);
      const y = make(length, 4);
      const a = kernels.summarize(x);
      const b = plainKernels.summarize(x);
      expect([a.count, a.min, a.max, a.zeros, a.nan, a.infinite]).toEqual([
        b.count,
        b.min,
        b.max,
        b.zeros,
        b.nan,
        b.infinite,
      ]);
      expectClose(a.sum, b.sum, b.sumAbs);
      expectClose(a.sumSquares, b.sumSquares, b.sumSquares);
      expectClose(a.sumAbs, b.sumAbs, b.sumAbs);
      const c = kernels.compare(x, y);
      const d = plainKernels.compare(x, y);
      expect([c.count, c.maxAbsDifference, c.notFinite]).toEqual([d.count, d.maxAbsDifference, d.notFinite]);
      expectClose(c.squaredDifference, d.squaredDifference, d.squaredDifference);
      expectClose(c.dot, d.dot, d.squaredNormA + d.squaredNormB);
      expectClose(c.squaredNormA, d.squaredNormA, d.squaredNormA);
      expectClose(c.squaredNormB, d.squaredNormB, d.squaredNormB);
      expectClose(c.sumAbsDifference, d.sumAbsDifference, d.sumAbsDifference);
      expect(kernels.countNonZero(x)).toBe(plainKernels.countNonZero(x));
    }
  });

  it("give hand-checked sums", () => {
    const x = Float32Array.of(3, -4, 0, NaN, Infinity);
    expect(kernels.summarize(x)).toEqual({
      count: 3,
      min: -4,
      max: 3,
      sum: -1,
      sumSquares: 25,
      sumAbs: 7,
      zeros: 1,
      nan: 1,
      infinite: 1,
    });
    expect(kernels.countNonZero(x)).toBe(4);
    const c = kernels.compare(x, Float32Array.of(1, -4, 2, 0, 0));
    expect(c).toEqual({
      count: 3,
      squaredDifference: 8,
      dot: 19,
      squaredNormA: 25,
      squaredNormB: 21,
      maxAbsDifference: 2,
      sumAbsDifference: 4,
      notFinite: 2,
    });
  });

  it("say so when nothing is finite", () => {
    const s = kernels.summarize(Float32Array.of(NaN));
    expect([s.count, s.min, s.max]).toEqual([0, Infinity, -Infinity]);
  });
});

describe("histogram", () => {
  it.each(LENGTHS)("equals the reference for %i elements", (length) => {
    for (const make of [noise, salted])
      for (const [low, high, bins] of [
        [-2, 2, 2048],
        [0, 1, 7],
        [-3.4e38, 3.4e38, 10],
        [1, 1, 4],
        [0, 1e-44, 5],
      ] as const) {
        const x = make(length, 5);
        const [a, b] = [new Float64Array(bins), new Float64Array(bins)];
        expect(kernels.histogram(x, low, high, a)).toEqual(plainKernels.histogram(x, low, high, b));
        expectElements(a, b);
        if (low < 0) continue;
        expect(kernels.histogramAbs(x, high, a)).toEqual(plainKernels.histogramAbs(x, high, b));
        expectElements(a, b);
      }
  });

  it("counts hand-checked bins, the top edge inside, and adds to what is there", () => {
    const counts = Float64Array.of(10, 0, 0, 0);
    const rest = kernels.histogram(Float32Array.of(0, 0.99, 1, 2.5, 4, 4.01, -1, NaN), 0, 4, counts);
    expect(Array.from(counts)).toEqual([12, 1, 1, 1]);
    expect(rest).toEqual({ below: 1, above: 1, notFinite: 1 });
    const absolute = new Float64Array(2);
    kernels.histogramAbs(Float32Array.of(-1, 3, -3), 4, absolute);
    expect(Array.from(absolute)).toEqual([1, 2]);
  });
});

describe("effects of grids", () => {
  const grids = Float32Array.of(0.01, -128, 127, 0.25, 0, 255, 3, -1, 1);

  it.each(LENGTHS)("equal the reference for %i elements", (length) => {
    const [x, g] = [noise(length, 7), noise(length, 8)];
    const [actual, expected] = [kernels.gridEffects(x, g, grids), plainKernels.gridEffects(x, g, grids)];
    // Single precision in runs of 256: 2^-24 of the terms' size each
    for (const [i, value] of expected.entries())
      expect(Math.abs((actual[i] as number) - value)).toBeLessThanOrEqual(2e-5 * Math.max(1, length));
    if (length > 100) {
      const turned = kernels.gridEffects(x, g.toReversed(), grids);
      expect(Math.abs((turned[2] as number) - (expected[2] as number))).toBeGreaterThan(2e-5 * length);
    }
  });

  it("give hand-checked sums: rounding to even, and what is cut off", () => {
    // 0.3 -> 0.25, 0.375 -> 0.5 (1.5 is rounded to even), 100 -> 63.75, -1 -> 0
    const effects = kernels.gridEffects(
      Float32Array.of(0.3, 0.375, 100, -1),
      Float32Array.of(2, 10, 1, 3),
      Float32Array.of(0.25, 0, 255),
    );
    expect(effects[0]).toBeCloseTo(-0.1 + 1.25 - 36.25 + 3, 5);
  });
});

describe("transpose", () => {
  it.each([
    [1, 1],
    [3, 5],
    [4, 4],
    [37, 66],
    [600, 500],
    [0, 3],
  ])("equals the reference for %i × %i", (rows, cols) => {
    const x = noise(rows * cols);
    expectElements(kernels.transpose(x, rows, cols), plainKernels.transpose(x, rows, cols));
  });
});

describe("the kernels' memory", () => {
  it("stays at 64 MiB, whatever the size of the tensor", () => {
    const x = new Float32Array(20_000_000).fill(1);
    expect(kernels.summarize(x).sum).toBe(20_000_000);
    expect(kernels.toFloat16(x).bits.length).toBe(x.length);
    expect(kernels.quantizeBlocks(x, 2, x.length / 2, { bits: 2, block: 512 }).scales[0]).toBe(-0.5);
    expect(kernels.scratch(16).buffer.byteLength).toBe(64 * 2 ** 20);
  });
});
