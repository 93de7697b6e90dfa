import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bytePairs } from "../../src/data/bpe.ts";
import { openDataset } from "../../src/data/open.node.ts";
import { parseTokenizer } from "../../src/data/tokenizer.ts";
import { describeWithData } from "../support/shared-data.ts";
import { errorOf, labelsOf, temporaryFolder, valuesOf } from "./fixtures.ts";

const root = temporaryFolder();

function write(name: string, content: string | Uint8Array): string {
  writeFileSync(join(root, name), content);
  return join(root, name);
}

describe("text", () => {
  const abc = write("abc.txt", "abcabdcab");

  it("cuts windows whose labels are the next tokens", async () => {
    const set = await openDataset(`text:${abc}?vocab=chars&length=4`);
    expect(set.size).toBe(2);
    expect(set.fields).toEqual([{ name: "input_ids", dtype: "int64", shape: [4], vocabulary: 4 }]);
    expect(set.classes).toEqual(["a", "b", "c", "d"]);
    expect(await valuesOf(set, [1])).toEqual([1, 3, 2, 0]);
    expect(await labelsOf(set, [1])).toEqual([3, 2, 0, 1]);
    expect((await set.take([0, 1])).labels?.shape).toEqual([2, 4]);
    const overlapping = await openDataset(`text:${abc}?vocab=bytes&length=4&stride=1&dtype=int32`);
    expect(overlapping.size).toBe(5);
    expect(await valuesOf(overlapping, [0])).toEqual([97, 98, 99, 97]);
  });

  it("puts a start token before each window", async () => {
    const set = await openDataset(`text:${abc}?vocab=chars&length=3&start=3`);
    expect(set.size).toBe(3);
    expect(await valuesOf(set, [1])).toEqual([3, 0, 1]);
    expect(await labelsOf(set, [1])).toEqual([0, 1, 3]);
  });

  it("pads documents and leaves padding out of the labels", async () => {
    const lines = write("lines.txt", "ab\n\ncabc\n");
    const set = await openDataset(`text:${lines}?format=documents&vocab=chars&length=3&pad=2&start=0`);
    expect(set.size).toBe(2);
    expect(await valuesOf(set, [0, 1])).toEqual([0, 1, 2, 0, 3, 1]);
    expect(await valuesOf(set, [0, 1], "attention_mask")).toEqual([1, 1, 1, 1, 1, 1]);
    expect(await labelsOf(set, [0, 1])).toEqual([1, 2, -100, 3, 1, 2]);
    const short = await openDataset(`text:${lines}?format=documents&vocab=chars&length=4`);
    expect(await valuesOf(short, [0], "attention_mask")).toEqual([1, 1, 0, 0]);
    const separated = await openDataset(`text:${abc}?format=documents&separator=d&vocab=bytes&length=9`);
    expect(separated.size).toBe(2);
  });

  it("reads sentences with classes", async () => {
    const tsv = write("s.tsv", "ab\t1\nba\t0\n");
    const set = await openDataset(`text:${tsv}?format=tsv&vocab=bytes&length=3`);
    expect(await valuesOf(set, [0, 1])).toEqual([97, 98, 0, 98, 97, 0]);
    expect(await labelsOf(set, [0, 1])).toEqual([1, 0]);
    const bad = write("bad.tsv", "ab\tgood\n");
    expect((await errorOf(openDataset(`text:${bad}?format=tsv&vocab=bytes`), "bad-data")).message).toContain("Line 1");
  });

  it("says what is wrong", async () => {
    expect((await errorOf(openDataset(`text:${abc}`), "bad-data")).expected).toContain("vocab=chars");
    await errorOf(openDataset(`text:${abc}?vocab=none.json`), "missing-file");
    await errorOf(openDataset(`text:${abc}?vocab=bytes&length=9`), "bad-data");
    await errorOf(openDataset(`text:${abc}?vocab=chars&length=2&start=4`), "bad-data");
    await errorOf(
      openDataset(`text:${write("latin.txt", Uint8Array.of(0xe4, 0x20))}?vocab=bytes&length=1`),
      "bad-data",
    );
    const vocab = write("vocab.json", '{"a": 0, "b": 1, "c": 2}');
    const lacking = await errorOf(openDataset(`text:${abc}?vocab=${vocab}&length=2`), "bad-data");
    expect(lacking.found).toContain('"d"');
    write("odd.json", '{"model": {"type": "Unigram", "vocab": {"a": 0}}}');
    expect((await errorOf(openDataset(`text:${abc}?vocab=odd.json`), "bad-data")).found).toBe("Unigram");
  });
});

describe("tokenizers", () => {
  it("merge like the plain definition of byte-pair encoding", () => {
    const pairs = [
      ["a", "b"],
      ["ab", "a"],
      ["b", "b"],
      ["c", "ab"],
      ["ab", "ab"],
    ] as const;
    const ranks = new Map<string, Map<string, number>>();
    for (const [rank, [a, b]] of pairs.entries())
      ranks.set(a, (ranks.get(a) ?? new Map<string, number>()).set(b, rank));
    const plain = (word: string): string[] => {
      let symbols = [...word];
      for (;;) {
        const best = symbols.slice(0, -1).map((s, i) => ranks.get(s)?.get(symbols[i + 1] as string) ?? Infinity);
        const lowest = Math.min(...best);
        if (!Number.isFinite(lowest)) return symbols;
        const at = best.indexOf(lowest);
        symbols = [...symbols.slice(0, at), `${symbols[at]}${symbols[at + 1]}`, ...symbols.slice(at + 2)];
      }
    };
    fc.assert(
      fc.property(fc.stringMatching(/^[abc]{0,30}$/), (word) => {
        expect(bytePairs([...word], ranks)).toEqual(plain(word));
      }),
    );
  });

  it("cover words with WordPiece, longest match first", () => {
    const tokenizer = parseTokenizer(
      {
        normalizer: { type: "BertNormalizer", lowercase: true },
        pre_tokenizer: { type: "BertPreTokenizer" },
        model: {
          type: "WordPiece",
          unk_token: "[UNK]",
          vocab: { "[UNK]": 0, un: 1, "##aff": 2, "##able": 3, "##a": 4, ",": 5 },
        },
      },
      "test",
    );
    expect(tokenizer.encode("Unaffable, únaff unx")).toEqual([1, 2, 3, 5, 1, 2, 0]);
    expect(tokenizer.size).toBe(6);
  });

  it("read GPT-2's byte level", () => {
    const tokenizer = parseTokenizer(
      {
        pre_tokenizer: { type: "ByteLevel", add_prefix_space: false },
        model: { type: "BPE", vocab: { a: 0, Ġ: 1, Ġa: 2, Ã: 3, "¤": 4 }, merges: ["Ġ a"] },
      },
      "test",
    );
    expect(tokenizer.encode("a aä")).toEqual([0, 2, 3, 4]);
  });
});

describeWithData("stories tokenizer", "models/stories260k/tokenizer.json", (path) => {
  it("is read: ids decode to the text again", () => {
    const json = JSON.parse(readFileSync(path, "utf8")) as { model: { vocab: Record<string, number> } };
    const tokenizer = parseTokenizer(json, path);
    const names = new Map(Object.entries(json.model.vocab).map(([name, id]) => [id, name]));
    const ids = Array.from(tokenizer.encode("Once upon a time there was a cat."));
    expect(ids.map((id) => names.get(id)).join("")).toBe("▁Once▁upon▁a▁time▁there▁was▁a▁cat.");
    expect(ids.length).toBeLessThan(20);
    expect(Array.from(tokenizer.encode("é")).length).toBeGreaterThan(1);
  });
});

describeWithData("tinyshakespeare", "text/tinyshakespeare.txt", (path) => {
  it("has 65 characters", async () => {
    const set = await openDataset(`text:${path}?vocab=chars&length=128`);
    expect([set.classes?.length, set.size]).toEqual([65, 8714]);
  });
});
