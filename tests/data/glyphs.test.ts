import { describe, expect, it } from "vitest";
import { openDataset } from "../../src/data/open.node.ts";
import { errorOf, labelsOf, valuesOf } from "./fixtures.ts";

const pixelsOf = valuesOf;

describe("glyphs", () => {
  it("are a function of seed, split and index: not of batch, order, count or other sets", async () => {
    const set = await openDataset("glyphs:?count=50&seed=9");
    const other = await openDataset("glyphs:?count=50&seed=10");
    const alone = await pixelsOf(set, [17]);
    await pixelsOf(other, [1, 2, 3]);
    const together = await pixelsOf(set, [3, 17, 4]);
    expect(together.slice(784, 1568)).toEqual(alone);
    expect(await pixelsOf(await openDataset("glyphs:?count=18&seed=9"), [17])).toEqual(alone);
    expect(await pixelsOf(other, [17])).not.toEqual(alone);
    expect(await pixelsOf(await openDataset("glyphs:?count=50&seed=9&split=test"), [17])).not.toEqual(alone);
  });

  it("keep their bytes from release to release", async () => {
    const set = await openDataset("glyphs:?count=64&seed=1");
    const indices = Array.from({ length: 64 }, (_, i) => i);
    let hash = 0x811c9dc5;
    for (const value of [...(await pixelsOf(set, indices)), ...(await labelsOf(set, indices))])
      hash = Math.imul(hash ^ value, 0x01000193) >>> 0;
    expect(hash).toBe(HASH);
  });

  it("have every class about equally often, with a name each", async () => {
    const set = await openDataset("glyphs:?count=4000&size=8");
    expect(set.classes).toHaveLength(10);
    const labels = await labelsOf(
      set,
      Array.from({ length: 4000 }, (_, i) => i),
    );
    const counts = Array.from({ length: 10 }, (_, c) => labels.filter((label) => label === c).length);
    // Binomial deviation is 19; six of them.
    for (const count of counts) expect(Math.abs(count - 400)).toBeLessThan(114);
    expect((await openDataset("glyphs:?classes=20")).classes).toHaveLength(20);
  });

  it("are 8-bit pixels under the preprocessing of the name", async () => {
    const raw = await pixelsOf(await openDataset("glyphs:?count=4"), [2]);
    expect(raw.every((value) => Number.isInteger(value) && value >= 0 && value <= 255)).toBe(true);
    const scaled = await pixelsOf(await openDataset("glyphs:?count=4&scale=255&mean=0.5&std=0.25"), [2]);
    for (const [i, value] of scaled.entries()) expect(value).toBeCloseTo(((raw[i] as number) / 255 - 0.5) / 0.25, 5);
    const set = await openDataset("glyphs:?count=4&size=16&layout=flat");
    expect(set.fields[0]?.shape).toEqual([256]);
  });

  it("are told apart by their shapes: the nearest plain glyph is right far more often than chance", async () => {
    const plain = await openDataset("glyphs:?count=200&difficulty=0&scale=255");
    const templates = new Map<number, number[]>();
    const labels = await labelsOf(
      plain,
      Array.from({ length: 200 }, (_, i) => i),
    );
    for (const [i, label] of labels.entries())
      if (!templates.has(label)) templates.set(label, await pixelsOf(plain, [i]));
    const accuracy = async (difficulty: number): Promise<number> => {
      const set = await openDataset(`glyphs:?count=300&difficulty=${difficulty}&scale=255`);
      const truth = await labelsOf(
        set,
        Array.from({ length: 300 }, (_, i) => i),
      );
      let right = 0;
      for (const [i, label] of truth.entries()) {
        const pixels = await pixelsOf(set, [i]);
        const score = (c: number): number => cosine(pixels, templates.get(c) as number[]);
        const best = [...templates.keys()].reduce((a, b) => (score(b) > score(a) ? b : a));
        if (best === label) right++;
      }
      return right / 300;
    };
    expect(templates.size).toBe(10);
    expect(await accuracy(0)).toBe(1);
    const hard = await accuracy(1);
    expect(hard).toBeGreaterThan(0.2);
    expect(hard).toBeLessThan(0.9);
  });

  it("refuse options that do not fit", async () => {
    await errorOf(openDataset("glyphs:?classes=99"), "bad-data");
    await errorOf(openDataset("glyphs:?difficulty=x"), "bad-data");
    await errorOf(openDataset("glyphs:?split=valid"), "bad-data");
    await errorOf(openDataset("glyphs:folder"), "bad-data");
    await errorOf(openDataset("glyphs:?std=0"), "bad-data");
  });
});

/** FNV-1a of the first 64 samples and labels of seed 1. */
const HASH = 2_879_602_241;

function cosine(a: readonly number[], b: readonly number[]): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (const [i, x] of a.entries()) {
    const y = b[i] as number;
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return ab / Math.sqrt(aa * bb);
}
