/** A data set's fingerprint follows its contents, not only its name. */
import { describe, expect, it } from "vitest";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { fingerprintData } from "../../src/data/fingerprint.ts";

const set = (changed?: number, { count = 40, length = 8, labels = 1 } = {}): Dataset => {
  const data = Float32Array.from({ length: count * length }, (_, i) => Math.sin(i) + (i === changed ? 1 : 0));
  return datasetOf({
    fields: { x: { dtype: "float32", shape: [count, length], data } },
    labels: { dtype: "int32", shape: [count], data: Int32Array.from({ length: count }, (_, i) => i % (labels + 1)) },
  });
};

describe("the fingerprint of a data set", () => {
  it("is that of equal contents", async () => {
    expect(await fingerprintData(set())).toBe(await fingerprintData(set()));
  });

  it("notices a change of any element of a small set, of its labels and of its size", async () => {
    const prints = [set(), set(0), set(161), set(319), set(undefined, { labels: 2 }), set(undefined, { count: 39 })];
    expect(new Set(await Promise.all(prints.map(fingerprintData))).size).toBe(prints.length);
  });

  it("reads a bounded part of a large set, from its first to its last sample", async () => {
    const read: number[] = [];
    const watched = (changed?: number): Dataset => {
      const data = set(changed, { count: 300, length: 1 });
      // Samples of 1 MiB, were they there
      const fields = data.fields.map((field) => ({ ...field, shape: [1 << 18] }));
      return { ...data, fields, take: async (indices) => (read.push(...indices), data.take(indices)) };
    };
    const print = await fingerprintData(watched());
    expect(read).toHaveLength(16);
    expect([read[0], read.at(-1)]).toEqual([0, 299]);
    expect(await fingerprintData(watched(299))).not.toBe(print);
    expect(await fingerprintData(watched(1))).toBe(print); // the price of a bounded part
  });
});
