/** Mixed samples: shares of pictures and of labels are the same. */
import { describe, expect, test } from "vitest";
import type { Batch } from "../../src/data/dataset.ts";
import { distributions, mixSamples } from "../../src/data/mix.ts";

/** Sample k is filled with k, its class is k; two channels of 6 × 6. */
function batch(size = 8, layout: "nchw" | "nhwc" = "nchw"): Batch {
  const width = 72;
  const data = Float32Array.from({ length: size * width }, (_, i) => Math.floor(i / width));
  return {
    size,
    fields: { x: { dtype: "float32", shape: layout === "nchw" ? [size, 2, 6, 6] : [size, 6, 6, 2], data } },
    labels: { dtype: "int32", shape: [size], data: Int32Array.from({ length: size }, (_, k) => k) },
  };
}

const draws = { seed: 3, epoch: 1, step: 2 };

describe("mixing", () => {
  for (const how of [{ mixup: 0.4 }, { cutmix: 1 }, { cutmix: 1, layout: "nhwc" }, { mixup: 1, cutmix: 0.5 }] as const)
    test(`${JSON.stringify(how)}: a sample's mean is its label's`, () => {
      let blends = 0;
      for (let step = 0; step < 20; step++) {
        const mixed = mixSamples(batch(8, "layout" in how ? how.layout : "nchw"), how, { ...draws, step }, 8);
        expect(mixed.labels?.shape).toEqual([8, 8]);
        const labels = mixed.labels?.data as Float32Array;
        const data = mixed.fields["x"]?.data as Float32Array;
        for (let k = 0; k < 8; k++) {
          const label = labels.subarray(8 * k, 8 * (k + 1));
          expect(label.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
          const mean = data.subarray(72 * k, 72 * (k + 1)).reduce((a, b) => a + b, 0) / 72;
          expect(mean).toBeCloseTo(
            label.reduce((sum, share, c) => sum + share * c, 0),
            4,
          );
          if (label.filter((share) => share > 0).length === 2) blends++;
        }
      }
      expect(blends).toBeGreaterThan(40);
    });

  test("draws by seed, epoch and step; the given batch stays as it is", () => {
    const given = batch();
    const once = mixSamples(given, { mixup: 1 }, draws, 8);
    expect(mixSamples(given, { mixup: 1 }, draws, 8)).toEqual(once);
    for (const other of [{ seed: 4 }, { epoch: 2 }, { step: 3 }])
      expect(mixSamples(given, { mixup: 1 }, { ...draws, ...other }, 8)).not.toEqual(once);
    expect(given).toEqual(batch());
  });

  test("Beta(α, α): half on average, near the ends for a small α", () => {
    const shares = (alpha: number): number[] =>
      Array.from({ length: 400 }, (_, step) => {
        const labels = mixSamples(batch(2), { mixup: alpha }, { ...draws, step }, 2).labels?.data as Float32Array;
        return labels[0] ?? Number.NaN;
      }).filter((share) => share !== 1); // paired with itself
    for (const alpha of [0.2, 1, 4]) {
      const drawn = shares(alpha);
      const mean = drawn.reduce((a, b) => a + b, 0) / drawn.length;
      const variance = drawn.reduce((a, b) => a + (b - mean) ** 2, 0) / drawn.length;
      expect(Math.abs(mean - 0.5)).toBeLessThan(0.1);
      // Variance of Beta(α, α): 1/(4(2α + 1)); a tenth of slack and more for 200 draws
      expect(Math.abs(variance - 1 / (4 * (2 * alpha + 1)))).toBeLessThan(0.04);
    }
  });

  test("values are blended as they are, classes out of range are refused, pictures are needed to cut", () => {
    const values = { dtype: "float32" as const, shape: [2, 1], data: Float32Array.of(0, 10) };
    expect(distributions(values, undefined)).toEqual(values);
    expect(() => distributions({ dtype: "int32", shape: [1], data: Int32Array.of(9) }, 3)).toThrow(/label 9.*0 to 2/);
    const flat = {
      ...batch(2),
      fields: { x: { dtype: "float32" as const, shape: [2, 3], data: new Float32Array(6) } },
    };
    expect(() => mixSamples(flat, { cutmix: 1 }, draws, 8)).toThrow(/rank 4/);
  });
});
