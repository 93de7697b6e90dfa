import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { formatName, parseName } from "../../src/data/name.ts";
import { openDataset } from "../../src/data/open.node.ts";
import { READERS } from "../../src/data/readers.ts";
import { errorOf } from "./fixtures.ts";

describe("names of data sets", () => {
  it("reads reader, path and options", () => {
    expect(parseName("idx:data/mnist?split=test&mean=0.1,0.2")).toEqual({
      scheme: "idx",
      path: "data/mnist",
      options: { split: "test", mean: "0.1,0.2" },
    });
    expect(parseName("C:\\data\\sets.yaml").scheme).toBe("");
    expect(parseName("images:/a?b/c?size=4").path).toBe("/a?b/c");
    expect(parseName("text:a?separator=%26%3F").options["separator"]).toBe("&?");
  });

  it("prints what it reads back, whatever path and values hold", () => {
    const text = fc.string({ unit: "grapheme" });
    const word = fc.stringMatching(/^[a-z][a-zA-Z]{0,8}$/);
    fc.assert(
      fc.property(text, fc.dictionary(word, text, { noNullPrototype: true }), (path, options) => {
        const name = { scheme: "idx", path, options };
        expect(parseName(formatName(name))).toEqual(name);
      }),
    );
  });

  it("refuses what is not a name", async () => {
    expect(() => parseName("idx:a?split")).toThrow(/has no value/);
    expect(() => parseName("idx:a?limit=1&limit=2")).toThrow(/twice/);
    expect(() => parseName("idx:a?limit=%zz")).toThrow(/percent/);
    const unknown = await errorOf(openDataset("glyph:?count=3"), "bad-data");
    expect(unknown.help).toContain("Did you mean glyphs");
    const bare = await errorOf(openDataset("some/folder"), "bad-data");
    expect(bare.message).toContain("has no reader");
    const option = await errorOf(openDataset("glyphs:?limits=3"), "bad-data");
    expect(option.help).toContain("Did you mean limit?");
  });

  it("gives every reader options with their meaning and a distinct scheme", () => {
    expect(new Set(READERS.map((reader) => reader.scheme)).size).toBe(READERS.length);
    for (const reader of READERS)
      for (const [option, meaning] of Object.entries(reader.options)) expect(meaning, option).toMatch(/\w{3}/);
  });
});
