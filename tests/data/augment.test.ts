import { describe, expect, it } from "vitest";
import { augment, type Draws } from "../../src/data/augment.ts";
import type { Batch } from "../../src/data/dataset.ts";

function images(count: number, shape: readonly [number, number, number] = [1, 3, 3]): Batch {
  const size = shape[0] * shape[1] * shape[2];
  const data = Float32Array.from({ length: count * size }, (_, i) => (i % size) + 1);
  return { size: count, fields: { image: { dtype: "float32", shape: [count, ...shape], data } } };
}

const draws = (seed: number, count = 300): Draws => ({
  seed,
  epoch: 0,
  indices: Array.from({ length: count }, (_, i) => i),
});

function rows(batch: Batch): string[] {
  const array = batch.fields["image"];
  const data = Array.from(array?.data as Float32Array);
  const size = data.length / batch.size;
  return Array.from({ length: batch.size }, (_, k) => data.slice(k * size, (k + 1) * size).join(" "));
}

describe("augmentation", () => {
  it("mirrors about half of the samples and leaves the given batch alone", () => {
    const batch = images(200);
    const seen = rows(augment(batch, { flip: true }, draws(1)));
    const mirrored = seen.filter((row) => row === "3 2 1 6 5 4 9 8 7").length;
    expect(seen.filter((row) => row === "1 2 3 4 5 6 7 8 9").length).toBe(200 - mirrored);
    expect(Math.abs(mirrored - 100)).toBeLessThan(40);
    expect(rows(batch)[0]).toBe("1 2 3 4 5 6 7 8 9");
  });

  it("shifts in every direction and fills with the given value", () => {
    const seen = new Set(rows(augment(images(300), { crop: 1, fill: -7 }, draws(2))));
    expect(seen.size).toBe(9);
    expect(seen).toContain("-7 -7 -7 -7 1 2 -7 4 5");
    expect(seen).toContain("5 6 -7 8 9 -7 -7 -7 -7");
  });

  it("does the same in both layouts", () => {
    const planes = images(8, [2, 3, 4]);
    const source = planes.fields["image"]?.data as Float32Array;
    const toRows = (data: Float32Array): Float32Array =>
      Float32Array.from({ length: data.length }, (_, i) => {
        const [k, y, x, c] = [Math.floor(i / 24), Math.floor((i % 24) / 8), Math.floor((i % 8) / 2), i % 2];
        return data[k * 24 + c * 12 + y * 4 + x] as number;
      });
    const interleaved: Batch = {
      size: 8,
      fields: { image: { dtype: "float32", shape: [8, 3, 4, 2], data: toRows(source) } },
    };
    const how = { flip: true, crop: 2, fill: [5, 6] };
    const a = augment(planes, how, draws(3)).fields["image"]?.data as Float32Array;
    const b = augment(interleaved, { ...how, layout: "nhwc" }, draws(3)).fields["image"]?.data as Float32Array;
    expect(b).toEqual(toRows(a));
    expect(a).not.toEqual(source);
  });

  it("draws by seed, epoch and sample alone, wherever the sample stands in a batch", () => {
    const how = { flip: true, crop: 1, cutout: 2, noise: 0.5 };
    const of = (indices: number[], seed = 4, epoch = 0): string[] =>
      rows(augment(images(indices.length), how, { seed, epoch, indices }));
    expect(of([0, 1, 2])).toEqual(of([2, 1, 0]).reverse());
    expect(of([0, 1, 2])).toEqual(of([0, 1, 2, 3, 4, 5]).slice(0, 3));
    expect(of([0, 1, 2])).not.toEqual(of([0, 1, 2], 5));
    expect(of([0, 1, 2])).not.toEqual(of([0, 1, 2], 4, 1));
  });

  it("erases a square of the given side, cut at the border", () => {
    const seen = rows(augment(images(300), { cutout: 2, fill: -7 }, draws(3)));
    const erased = seen.map((row) => row.split(" ").filter((value) => value === "-7").length);
    expect(new Set(erased)).toEqual(new Set([1, 2, 4]));
    expect(new Set(seen).size).toBe(9);
  });

  it("adds noise of the given deviation", () => {
    const noisy = augment(images(500), { noise: 0.5 }, draws(6, 500)).fields["image"]?.data as Float32Array;
    const clean = images(500).fields["image"]?.data as Float32Array;
    const squares = noisy.reduce((sum, value, i) => sum + (value - (clean[i] as number)) ** 2, 0);
    expect(Math.sqrt(squares / noisy.length)).toBeCloseTo(0.5, 1);
  });

  it("refuses what is not images", () => {
    const flat: Batch = { size: 1, fields: { x: { dtype: "float32", shape: [1, 4], data: new Float32Array(4) } } };
    expect(() => augment(flat, { flip: true }, draws(1))).toThrow(/rank 4/);
  });
});
