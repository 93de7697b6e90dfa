/** The cache of decoded pictures: what it keeps, and that it does not grow past its limit. */
import { describe, expect, it } from "vitest";
import { PixelCache } from "../../src/data/pixel-cache.ts";

const picture = (value: number): Uint8Array => new Uint8Array(4).fill(value);

describe("pixel cache", () => {
  it("gives back what was put, whatever the order", () => {
    const cache = new PixelCache(10, 4);
    for (const index of [7, 0, 3]) cache.put(index, picture(index + 1));
    for (const index of [0, 3, 7]) expect(cache.get(index)).toEqual(picture(index + 1));
    expect(cache.get(1)).toBeUndefined();
  });

  it("keeps the first pictures and no more than fit", () => {
    const cache = new PixelCache(10, 4, 9); // two pictures and a byte
    for (let index = 0; index < 10; index++) cache.put(index, picture(index));
    expect(cache.get(0)).toEqual(picture(0));
    expect(cache.get(1)).toEqual(picture(1));
    for (let index = 2; index < 10; index++) expect(cache.get(index)).toBeUndefined();
  });

  it("keeps nothing where one picture is too large", () => {
    const cache = new PixelCache(3, 1000, 999);
    cache.put(0, new Uint8Array(1000));
    expect(cache.get(0)).toBeUndefined();
  });
});
