import { describe, expect, it } from "vitest";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Batch, Dataset } from "../../src/data/dataset.ts";
import { openDataset } from "../../src/data/open.node.ts";
import { errorOf, valuesOf } from "./fixtures.ts";

const numbers = datasetOf({
  fields: { x: { dtype: "float32", shape: [10, 1], data: Float32Array.from({ length: 10 }, (_, i) => i) } },
  labels: { dtype: "int64", shape: [10], data: BigInt64Array.from({ length: 10 }, (_, i) => BigInt(i % 3)) },
});

async function collect(batches: AsyncIterable<Batch>): Promise<number[][]> {
  const rows: number[][] = [];
  for await (const batch of batches) rows.push(Array.from(batch.fields["x"]?.data as Float32Array));
  return rows;
}

async function order(dataset: Dataset, seed: number, size: number): Promise<number[]> {
  return (await collect(dataset.batches({ size, seed }))).flat();
}

describe("batches", () => {
  it("come in file order, the last one smaller unless dropped", async () => {
    expect(await collect(numbers.batches({ size: 4 }))).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [8, 9],
    ]);
    expect(await collect(numbers.batches({ size: 4, dropLast: true }))).toHaveLength(2);
    expect(await collect(numbers.batches({ size: 4, limit: 5 }))).toEqual([[0, 1, 2, 3], [4]]);
  });

  it("shuffle by seed alone: batch size does not matter, the seed does", async () => {
    const one = await order(numbers, 7, 3);
    expect(one).toEqual(await order(numbers, 7, 10));
    expect(one).not.toEqual(await order(numbers, 8, 3));
    expect(one.toSorted((a, b) => a - b)).toEqual(await order(numbers, 9, 4).then((o) => o.toSorted((a, b) => a - b)));
  });

  it("carry labels of the same samples", async () => {
    for await (const batch of numbers.batches({ size: 3, seed: 1 })) {
      const x = Array.from(batch.fields["x"]?.data as Float32Array);
      expect(Array.from(batch.labels?.data as Int32Array)).toEqual(x.map((value) => value % 3));
    }
  });

  it("stop between batches when aborted", async () => {
    const stop = new AbortController();
    const run = async (): Promise<void> => {
      for await (const batch of numbers.batches({ size: 2, signal: stop.signal })) if (batch.size > 0) stop.abort();
    };
    await errorOf(run(), "aborted");
  });

  it("report an error of the source to the consumer once it gets there", async () => {
    const set = await openDataset("glyphs:?count=3");
    await errorOf(set.take([3]), "bad-data");
    await errorOf(set.take([-1]), "bad-data");
  });
});

describe("parts", () => {
  it("of one seeded permutation do not overlap and cover everything", async () => {
    const parts = [
      numbers.subset({ part: [0, 0.5], seed: 3 }),
      numbers.subset({ part: [0.5, 0.8], seed: 3 }),
      numbers.subset({ part: [0.8, 1], seed: 3 }),
    ];
    expect(parts.map((part) => part.size)).toEqual([5, 3, 2]);
    const all = (await Promise.all(parts.map((part) => order(part, 1, 2)))).flat();
    expect(all.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it("are refused when empty or backwards", () => {
    expect(() => numbers.subset({ part: [0.5, 0.5] })).toThrow(/part/i);
    expect(() => numbers.subset({ part: [0, 2] })).toThrow(/part/i);
    expect(() => numbers.subset({ part: [0, 0.01] })).toThrow(/empty/);
  });

  it("have a name that opens them again, also a part of a part", async () => {
    const set = await openDataset("glyphs:?count=40&shuffle=5&offset=4&limit=30&size=8");
    const part = set.subset({ part: [0, 0.5], seed: 3 }).subset({ part: [0.5, 1] });
    const again = await openDataset(part.name);
    expect(again.size).toBe(part.size);
    const indices = Array.from({ length: part.size }, (_, i) => i);
    expect(await valuesOf(again, indices)).toEqual(await valuesOf(part, indices));
    expect(await valuesOf(again, indices)).not.toEqual(await valuesOf(set, indices));
  });

  it("check offset and limit", async () => {
    expect((await openDataset("glyphs:?count=5&limit=9")).size).toBe(5);
    expect((await errorOf(openDataset("glyphs:?count=5&offset=5"), "bad-data")).expected).toContain("less than 5");
    await errorOf(openDataset("glyphs:?count=5&limit=0"), "bad-data");
    await errorOf(openDataset("glyphs:?count=5&part=0"), "bad-data");
  });
});

describe("arrays in memory", () => {
  const field = { dtype: "float32", shape: [2, 1], data: new Float32Array(2) } as const;
  it("must have as many labels as samples, in range", () => {
    const labels = (values: number[]) =>
      ({ dtype: "int32", shape: [values.length], data: Int32Array.from(values) }) as const;
    expect(() => datasetOf({ fields: { x: field }, labels: labels([0, 1, 0]) })).toThrow(/number of samples/);
    expect(() => datasetOf({ fields: { x: field }, labels: labels([0, -1]) })).toThrow(/out of range/);
    expect(() => datasetOf({ fields: { x: field }, labels: labels([0, 2]), classes: ["a", "b"] })).toThrow(
      /out of range/,
    );
    expect(datasetOf({ fields: { x: field }, labels: labels([0, 2]) }).classes).toEqual(["0", "1", "2"]);
  });
});
