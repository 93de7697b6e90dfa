/** Selection by magnitude: exact thresholds over many tensors, masks, n-of-m masks. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { type Kernels, loadKernels } from "../../src/kernels/kernels.ts";
import { magnitudeThreshold } from "../../src/kernels/magnitude.ts";
import { plainKernels } from "../../src/kernels/reference/plain-kernels.ts";
import { anyFloats, expectElements, gridded, noise, salted } from "./arrays.ts";

let kernels: Kernels;
beforeAll(async () => {
  kernels = await loadKernels();
});

/** How many a threshold keeps over several tensors, ties spent in order. */
function kept(tensors: readonly Float32Array[], threshold: number, ties: number): number {
  let left = ties;
  let count = 0;
  for (const tensor of tensors) {
    const mask = kernels.magnitudeMask(tensor, threshold, left);
    left -= mask.ties;
    for (const one of mask.mask) count += one;
  }
  return count;
}

describe("magnitudeThreshold", () => {
  it("keeps exactly as many as asked for, the largest, over several tensors with ties", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 200 }),
        fc.integer({ min: 0, max: 400 }),
        fc.boolean(),
        async (n, keep, tied) => {
          const tensors = [tied ? gridded(n) : noise(n), gridded(n, 2), noise(3)];
          const total = 2 * n + 3;
          const { threshold, ties } = await magnitudeThreshold(kernels, () => tensors, keep);
          expect(kept(tensors, threshold, ties)).toBe(Math.min(keep, total));
          const sorted = tensors.flatMap((tensor) => Array.from(tensor, Math.abs)).sort((a, b) => b - a);
          if (keep > 0 && keep <= total) expect(threshold).toBe(sorted[keep - 1]);
        },
      ),
      { numRuns: 50 },
    );
  });

  it("keeps all or none at the ends", async () => {
    const tensors = [Float32Array.of(0, -0, 1)];
    expect(await magnitudeThreshold(kernels, () => tensors, 0)).toEqual({ threshold: Infinity, ties: 0 });
    const all = await magnitudeThreshold(kernels, () => tensors, 3);
    expect(kept(tensors, all.threshold, all.ties)).toBe(3);
    const more = await magnitudeThreshold(kernels, () => tensors, 99);
    expect(kept(tensors, more.threshold, more.ties)).toBe(3);
  });

  it("is wrong by one tie if a tie is taken away (control)", async () => {
    const tensors = [Float32Array.of(1, 1, 1, 2)];
    const { threshold, ties } = await magnitudeThreshold(kernels, () => tensors, 3);
    expect([threshold, ties]).toEqual([1, 2]);
    expect(kept(tensors, threshold, ties - 1)).toBe(2);
  });
});

describe("masks", () => {
  it.each([0, 1, 3, 15, 16, 17, 40, 65537, 131100])("equal the reference for %i elements", (length) => {
    for (const make of [noise, gridded, salted])
      for (const [threshold, ties] of [
        [1, 0],
        [1, 3],
        [0.5, 1e9],
        [0, 2],
        [Infinity, 1],
        [-1, 0],
      ] as const) {
        const x = make(length, 9);
        const actual = kernels.magnitudeMask(x, threshold, ties);
        const expected = plainKernels.magnitudeMask(x, threshold, ties);
        expectElements(actual.mask, expected.mask);
        expect(actual.ties).toBe(expected.ties);
        expectElements(kernels.applyMask(x, actual.mask), plainKernels.applyMask(x, actual.mask));
      }
  });

  it("equal the reference for any float32", () => {
    fc.assert(
      fc.property(anyFloats, fc.float({ min: 0, noNaN: true }), fc.nat(5), (x, threshold, ties) => {
        expect(kernels.magnitudeMask(x, threshold, ties)).toEqual(plainKernels.magnitudeMask(x, threshold, ties));
      }),
    );
  });

  it("count magnitudes as the reference does", () => {
    for (const [shift, prefix, size] of [
      [20, 0, 2048],
      [9, 1016, 2048],
      [0, 2081587, 512],
    ] as const) {
      const x = salted(70000);
      x[5] = new Float32Array(Uint32Array.of(2081587 * 512 + 7).buffer)[0] as number;
      const [a, b] = [new Float64Array(size), new Float64Array(size)];
      kernels.countMagnitudes(x, shift, prefix, a);
      plainKernels.countMagnitudes(x, shift, prefix, b);
      expectElements(a, b);
      expect(a.reduce((sum, count) => sum + count)).toBeGreaterThan(0);
    }
  });
});

describe("groupMask", () => {
  it.each([
    [1, 8, 1],
    [3, 12, 1],
    [2, 10, 1],
    [2, 9, 5],
    [1, 16, 64],
    [70, 1000, 1],
    [1, 64, 1100],
    [3, 1, 1],
  ])("equals the reference: outer %i, axis %i, inner %i", (outer, channels, inner) => {
    for (const make of [noise, gridded, salted])
      for (const [keep, group] of [
        [2, 4],
        [1, 4],
        [4, 8],
        [1, 2],
        [0, 4],
        [3, 3],
      ] as const) {
        const layout = { outer, channels, inner };
        const x = make(outer * channels * inner, 11);
        expectElements(kernels.groupMask(x, layout, keep, group), plainKernels.groupMask(x, layout, keep, group));
      }
  });

  it("keeps the two largest of four, the lower index on ties", () => {
    const mask = kernels.groupMask(Float32Array.of(1, -3, 2, 0, 5, 5, 5, 5), { outer: 1, channels: 8, inner: 1 }, 2, 4);
    expect(Array.from(mask)).toEqual([0, 1, 1, 0, 1, 1, 0, 0]);
  });
});
