/** Statistics against hand-checked and scipy values, and intervals against how often they cover the truth. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import {
  StreamingMoments,
  bootstrapInterval,
  mean,
  meanInterval,
  pairedDifference,
  quantile,
  quantiles,
  studentT95,
  variance,
  wilsonInterval,
} from "../../src/base/statistics.ts";

const SAMPLE = [2.1, 1.9, 2.4, 2.0, 2.6];

describe("moments and quantiles", () => {
  it("equal hand-checked values", () => {
    expect(mean(SAMPLE)).toBeCloseTo(2.2, 12);
    expect(variance(SAMPLE)).toBeCloseTo(0.085, 12);
    expect(quantiles([3, 1, 2, 10], [0, 0.25, 0.5, 1])).toEqual([1, 1.75, 2.5, 10]);
    expect(quantile([3, 1, 2, 10], 0.9)).toBeCloseTo(7.9, 12);
    expect(quantile([7], 0.3)).toBe(7);
  });

  it("of too few samples are NaN", () => {
    expect(mean([])).toBeNaN();
    expect(variance([1])).toBeNaN();
    expect(quantile([], 0.5)).toBeNaN();
    expect(() => quantile([1], 1.5)).toThrow(/between 0 and 1/);
  });

  it("stream and merge to the same", () => {
    const values = fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 2, maxLength: 50 });
    fc.assert(
      fc.property(values, fc.nat(50), (all, cut) => {
        const [whole, left, right] = [new StreamingMoments(), new StreamingMoments(), new StreamingMoments()];
        whole.addAll(all);
        left.addAll(all.slice(0, cut));
        right.addAll(all.slice(cut));
        left.merge(right);
        expect(left.count).toBe(all.length);
        expect(left.mean).toBeCloseTo(whole.mean, 6);
        expect(Math.abs(left.variance - whole.variance)).toBeLessThanOrEqual(
          1e-9 * (1 + whole.variance + whole.mean ** 2),
        );
        expect([left.min, left.max]).toEqual([Math.min(...all), Math.max(...all)]);
      }),
    );
  });

  it("keep their precision far from zero, where the sum of squares would not", () => {
    const moments = new StreamingMoments();
    moments.addAll([1e9 + 1, 1e9 + 2, 1e9 + 3]);
    expect(moments.variance).toBeCloseTo(1, 9);
  });
});

describe("intervals", () => {
  it("of a proportion equal the formula's values", () => {
    const known: [number, number, number, number][] = [
      [8, 10, 0.4901624715, 0.9433178485],
      [0, 20, 0, 0.1611251581],
      [5, 5, 0.5655175352, 1],
      [9173, 10000, 0.9117401217, 0.9225393933],
    ];
    for (const [successes, count, low, high] of known) {
      const interval = wilsonInterval(successes, count);
      expect(interval.value).toBe(successes / count);
      expect(interval.low).toBeCloseTo(low, 9);
      expect(interval.high).toBeCloseTo(high, 9);
    }
    expect(wilsonInterval(0, 0)).toEqual({ value: Number.NaN, low: 0, high: 1 });
  });

  it("of a mean equal scipy's", () => {
    const interval = meanInterval(SAMPLE);
    expect(interval.low).toBeCloseTo(1.8379958, 4);
    expect(interval.high).toBeCloseTo(2.5620042, 4);
    expect(meanInterval([3])).toEqual({ value: 3, low: -Infinity, high: Infinity });
  });

  it("use Student's quantiles", () => {
    const known: [number, number][] = [
      [1, 12.7062],
      [10, 2.2281],
      [11, 2.200985],
      [20, 2.085963],
      [30, 2.042272],
      [100, 1.983972],
    ];
    for (const [degrees, t] of known) expect(Math.abs(studentT95(degrees) - t)).toBeLessThan(2e-4);
  });

  it("cover the truth about 95 times in 100, and a bare proportion's band at the edge does not (control)", () => {
    const rng = new Rng(5);
    let [wilson, wald, student, bootstrap] = [0, 0, 0, 0];
    const trials = 400;
    for (let t = 0; t < trials; t++) {
      let hits = 0;
      for (let i = 0; i < 40; i++) if (rng.uniform() < 0.95) hits++;
      const interval = wilsonInterval(hits, 40);
      if (interval.low <= 0.95 && 0.95 <= interval.high) wilson++;
      const half = 1.96 * Math.sqrt(((hits / 40) * (1 - hits / 40)) / 40);
      if (Math.abs(hits / 40 - 0.95) <= half) wald++;
      const values = Float64Array.from({ length: 15 }, () => rng.normal(3, 2));
      const band = meanInterval(values);
      if (band.low <= 3 && 3 <= band.high) student++;
      const resampled = bootstrapInterval(15, (at) => mean(Array.from(at, (i) => values[i] as number)), {
        seed: t,
        resamples: 200,
      });
      if (resampled.low <= 3 && 3 <= resampled.high) bootstrap++;
    }
    // 0.95 ± 3 standard errors of 400 trials; the percentile bootstrap of 15 samples is known to cover less
    expect(wilson / trials).toBeGreaterThan(0.91);
    expect(student / trials).toBeGreaterThan(0.917);
    expect(student / trials).toBeLessThan(0.983);
    expect(bootstrap / trials).toBeGreaterThan(0.86);
    expect(wald / trials).toBeLessThan(0.9);
  });

  it("by bootstrap are the same for the same seed and shrink with the sample", () => {
    const rng = new Rng(2);
    const values = Float64Array.from({ length: 1000 }, () => rng.normal());
    const meanOf = (at: Uint32Array): number => at.reduce((sum, i) => sum + (values[i] as number), 0) / at.length;
    const large = bootstrapInterval(1000, meanOf, { seed: 3 });
    expect(bootstrapInterval(1000, meanOf, { seed: 3 })).toEqual(large);
    expect(large.value).toBeCloseTo(mean(values), 12);
    expect(large.high - large.low).toBeGreaterThan(0.11);
    expect(large.high - large.low).toBeLessThan(0.14); // 2·1.96/√1000 = 0.124
    const small = bootstrapInterval(100, meanOf, { seed: 3 });
    expect(small.high - small.low).toBeGreaterThan(2 * (large.high - large.low));
  });

  it("of paired differences see through what pairs share", () => {
    const rng = new Rng(4);
    const a = Float64Array.from({ length: 100 }, () => rng.normal(0, 10));
    const b = a.map((x) => x - 0.5 + rng.normal(0, 0.1));
    const paired = pairedDifference(a, b);
    expect(paired.low).toBeGreaterThan(0.4);
    expect(paired.high).toBeLessThan(0.6);
    expect(pairedDifference(a, b.toReversed()).low).toBeLessThan(0); // control: the pairs broken
    expect(() => pairedDifference([1], [1, 2])).toThrow(/differ in number/);
  });
});
