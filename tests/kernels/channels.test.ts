/** Per-channel quantization and statistics: the SIMD kernels against their plain references and hand-made cases. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { type AxisLayout, type ChannelSpec, type Kernels, loadKernels } from "../../src/kernels/kernels.ts";
import { plainKernels } from "../../src/kernels/reference/plain-kernels.ts";
import { expectElements, gridded, noise, ordinaryFloats, salted } from "./arrays.ts";

let kernels: Kernels;
beforeAll(async () => {
  kernels = await loadKernels();
});

const LAYOUTS: AxisLayout[] = [
  { outer: 1, channels: 1, inner: 1 },
  { outer: 1, channels: 5, inner: 27 },
  { outer: 7, channels: 6, inner: 1 },
  { outer: 3, channels: 4, inner: 9 },
  { outer: 290, channels: 250, inner: 1 },
  { outer: 1, channels: 2, inner: 70000 },
  { outer: 2, channels: 1, inner: 300 },
];

const SPECS: ChannelSpec[] = [
  {},
  { low: -128, high: 127, symmetric: false },
  { low: 0, high: 255, symmetric: false, scale: "mse" },
  { low: 0, high: 255 },
  { low: -64, high: 64, scaleType: "float16" },
  { balance: 9 },
  { low: 0, high: 255, symmetric: false, scale: "mse", balance: 1 },
  { low: 0, high: 15, balance: 4 },
  { low: -8, high: 7, scale: "mse" },
  { low: -2, high: 1, scale: "mse", scaleType: "float16" },
];

/** Sums differ in the order of additions only. */
function expectClose(actual: number, expected: number): void {
  if (actual !== expected) expect(Math.abs(actual - expected) / Math.abs(expected)).toBeLessThan(1e-11);
}

describe.each(LAYOUTS)("outer $outer, channels $channels, inner $inner", (layout) => {
  const length = layout.outer * layout.channels * layout.inner;

  it.each(SPECS)("quantizeChannels equals the reference: %o", (spec) => {
    for (const make of [noise, gridded, salted]) {
      if (length > 60000 && make !== noise) continue;
      const w = make(length);
      const actual = kernels.quantizeChannels(w, layout, spec);
      const expected = plainKernels.quantizeChannels(w, layout, spec);
      expect(actual.scales).toEqual(expected.scales);
      expect(actual.zeroPoints).toEqual(expected.zeroPoints);
      expectElements(actual.codes, expected.codes);
      expect(actual.notFinite).toBe(expected.notFinite);
      expect(actual.maxError).toBe(expected.maxError);
      expectClose(actual.squaredError, expected.squaredError);
      expectClose(actual.squaredNorm, expected.squaredNorm);
      expectElements(kernels.dequantizeChannels(actual, layout), plainKernels.dequantizeChannels(expected, layout));
    }
  });

  it("summarizeChannels and maxAbsPerChannel equal the reference", () => {
    for (const make of [noise, salted]) {
      const x = make(length);
      const actual = kernels.summarizeChannels(x, layout);
      const expected = plainKernels.summarizeChannels(x, layout);
      expect(actual.min).toEqual(expected.min);
      expect(actual.max).toEqual(expected.max);
      const scale = make === noise ? length : 1e80; // sums of both signs cancel: compare against the size of the terms
      for (let c = 0; c < layout.channels; c++) {
        expect(Math.abs((actual.sum[c] as number) - (expected.sum[c] as number))).toBeLessThan(1e-13 * scale);
        expectClose(actual.sumSquares[c] as number, expected.sumSquares[c] as number);
      }
      expect(kernels.maxAbsPerChannel(x, layout)).toEqual(plainKernels.maxAbsPerChannel(x, layout));
    }
  });
});

describe("quantizeChannels", () => {
  it("gives the usual int8 codes", () => {
    const w = Float32Array.of(-1.27, 0, 0.5, 1, 254, -127);
    const q = kernels.quantizeChannels(w, { outer: 1, channels: 2, inner: 3 });
    expect(Array.from(q.codes)).toEqual([-127, 0, 50, 0, 127, -64]); // 0.5 and −63.5 round to even
    expect(q.scales[0]).toBeCloseTo(0.01, 8);
    expect(q.scales[1]).toBe(2);
    expect(Array.from(q.zeroPoints)).toEqual([0, 0]);
  });

  it("gives the usual uint8 codes, with zero exactly represented", () => {
    const q = kernels.quantizeChannels(
      Float32Array.of(-1, 0, 1.55, 1),
      { outer: 1, channels: 1, inner: 4 },
      { low: 0, high: 255, symmetric: false },
    );
    expect(q.scales[0]).toBeCloseTo(0.01, 8);
    expect(q.zeroPoints[0]).toBe(100);
    expect(Array.from(q.codes)).toEqual([0, 100, 255, 200]);
  });

  it("errs by at most half a scale, and by no more with the mse scale", () => {
    fc.assert(
      fc.property(ordinaryFloats, (w) => {
        const layout = { outer: 1, channels: 1, inner: w.length };
        const q = kernels.quantizeChannels(w, layout);
        expect(q.maxError).toBeLessThanOrEqual((q.scales[0] as number) * 0.5001);
        const best = kernels.quantizeChannels(w, layout, { scale: "mse" });
        expect(best.squaredError).toBeLessThanOrEqual(q.squaredError * 1.00001);
      }),
    );
  });

  it("gains from clipping where one outlier spoils the range, and a scale of another channel does not pass", () => {
    const w = noise(2000);
    w[7] = 8;
    const layout = { outer: 1, channels: 2, inner: 1000 };
    const spec: ChannelSpec = { low: -8, high: 7 };
    const range = kernels.quantizeChannels(w, layout, spec);
    const best = kernels.quantizeChannels(w, layout, { ...spec, scale: "mse" });
    expect(best.squaredError).toBeLessThan(0.8 * range.squaredError);
    const swapped = kernels.dequantizeChannels({ ...range, scales: range.scales.slice().reverse() }, layout);
    expect(kernels.compare(swapped, w).squaredDifference).toBeGreaterThan(1.2 * range.squaredError);
  });
});

describe("balanced rounding", () => {
  const [channels, kernel, length] = [6, 9, 288];
  const layout: AxisLayout = { outer: 1, channels, inner: length };
  /** Largest and mean |Σ (q − w/s)| over runs of `run` elements. */
  const sums = (w: Float32Array, spec: ChannelSpec, run: number): { largest: number; mean: number } => {
    const { codes, scales, zeroPoints } = kernels.quantizeChannels(w, layout, spec);
    let [largest, all] = [0, 0];
    for (let from = 0; from < w.length; from += run) {
      const channel = Math.floor(from / length);
      let sum = 0;
      for (let i = from; i < from + run; i++)
        sum += (codes[i] as number) - (zeroPoints[channel] as number) - (w[i] as number) / (scales[channel] as number);
      largest = Math.max(largest, Math.abs(sum));
      all += Math.abs(sum);
    }
    return { largest, mean: (all * run) / w.length };
  };

  it("makes the errors of every channel cancel, and those of a kernel mostly; rounding to nearest does not", () => {
    const w = noise(channels * length);
    for (const spec of [
      { low: 0, high: 15 },
      { low: -127, high: 127 },
      { low: 0, high: 255, symmetric: false },
    ]) {
      const balanced = { ...spec, balance: kernel };
      expect(sums(w, balanced, length).largest).toBeLessThan(0.501);
      expect(sums(w, spec, length).largest).toBeGreaterThan(1.5);
      expect(sums(w, balanced, kernel).mean).toBeLessThan(0.6 * sums(w, spec, kernel).mean);
    }
  });

  it("moves no code by more than a step, and stays within the codes", () => {
    fc.assert(
      fc.property(fc.array(fc.float({ min: -1, max: 1, noNaN: true }), { minLength: 1, maxLength: 60 }), (list) => {
        const w = Float32Array.from(list);
        const one = { outer: 1, channels: 1, inner: w.length };
        const spec = { low: 0, high: 15, scale: "mse" } as const;
        const near = kernels.quantizeChannels(w, one, spec).codes;
        const balanced = kernels.quantizeChannels(w, one, { ...spec, balance: 4 }).codes;
        for (const [i, code] of balanced.entries()) {
          expect(Math.abs(code - (near[i] as number))).toBeLessThanOrEqual(1);
          expect(code).toBeLessThanOrEqual(15);
        }
      }),
    );
  });
});
