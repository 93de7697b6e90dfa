/** Tokens that texts never need are gone: scores of the others are what they were, and the tokenizer follows. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { neededTokens, pruneTokenizer } from "../../src/data/prune-tokenizer.ts";
import { parseTokenizer } from "../../src/data/tokenizer.ts";
import { fidelity } from "../../src/evaluate/fidelity.node.ts";
import { datasetOf } from "../../src/index.ts";
import { Builder } from "../../src/ir/builder.ts";
import { checkModel } from "../../src/ir/check.ts";
import { keptPorts } from "../../src/ir/kept-ports.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { NdArray } from "../../src/run/session.ts";
import { compress } from "../../src/techniques/pipeline.node.ts";
import { pruneVocabulary } from "../../src/techniques/prune/vocabulary/prune-vocabulary.ts";
import { runTechnique } from "../support/run-technique.ts";
import { sharedData } from "../support/shared-data.ts";

/** The same products, summed in another order where a matrix has fewer columns. */
const TOLERANCE = 2e-5;
const VOCABULARY = 10;

function tokens(ids: readonly number[]): NdArray {
  return { dtype: "int64", shape: [1, ids.length], data: BigInt64Array.from(ids, BigInt) };
}

/** Scores of the next token: an embedding whose transpose, or a matrix of its own, is the head; `pad` is compared with the tokens. */
function languageModel(options: { tied?: boolean; pad?: number } = {}): Model {
  const model = new Model();
  const b = new Builder(model.graph);
  const numbers = (size: number, step: number): Float32Array =>
    Float32Array.from({ length: size }, (_, i) => Math.sin(step * (i + 1)));
  const ids = b.input("input_ids", "int64", ["batch", "length"]);
  const table = b.constant("table", Tensor.float32([VOCABULARY, 4], numbers(4 * VOCABULARY, 1)));
  let x = b.op("Gather", [table, ids], { name: "embed" });
  if (options.pad !== undefined) {
    const isPad = b.op("Equal", [ids, b.constant("pad", Tensor.int64([options.pad], []))], { name: "is-pad" });
    const mask = b.op("Cast", [b.op("Not", [isPad])], { attributes: { to: 1 } });
    x = b.op("Mul", [x, b.op("Unsqueeze", [mask, b.constant("axes", Tensor.int64([2]))])]);
  }
  const head = options.tied
    ? b.op("Transpose", [table], { attributes: { perm: [1, 0] } })
    : b.constant("head", Tensor.float32([4, VOCABULARY], numbers(4 * VOCABULARY, 2)));
  const y = b.op("MatMul", [b.op("Tanh", [x]), head], { name: "scores" });
  [y.dtype, y.shape] = ["float32", ["batch", "length", VOCABULARY]];
  b.output(y, "logits");
  return model;
}

async function scores(model: Model, ids: readonly number[], name = "logits"): Promise<Float32Array> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  try {
    return ((await session.run({ input_ids: tokens(ids) }))[name] as NdArray).data as Float32Array;
  } finally {
    await session.close();
  }
}

/** Largest distance of kept scores on these tokens, by their old numbers. */
async function distance(original: Model, cut: Model, ids: readonly number[], size: number): Promise<number> {
  const kept = keptPorts(cut)?.tokens["input_ids"] ?? [];
  const [a, b] = [
    await scores(original, ids),
    await scores(
      cut,
      ids.map((id) => kept.indexOf(id)),
    ),
  ];
  expect(b.length).toBe(ids.length * kept.length);
  let worst = 0;
  for (const at of ids.keys())
    for (const [i, id] of kept.entries())
      worst = Math.max(worst, Math.abs((a[at * size + id] as number) - (b[at * kept.length + i] as number)));
  return worst;
}

describe("prune-vocabulary", () => {
  it.each([{ tied: true }, { tied: false }, { tied: true, pad: 0 }, { tied: false, pad: 7 }])(
    "leaves the scores of kept tokens what they were: %o",
    async (options) => {
      const original = languageModel(options);
      const { model, journal } = await runTechnique(pruneVocabulary, original, { tokens: "0,2-3,7,9" });
      expect(checkModel(model)).toEqual([]);
      expect(model.graph.initializers.get("table")?.tensor?.shape).toEqual([5, 4]);
      expect(model.graph.outputs[0]?.shape).toEqual(["batch", "length", 5]);
      expect(await distance(original, model, [0, 9, 3, 7, 2], VOCABULARY)).toBeLessThan(TOLERANCE);
      expect(journal.changed.map(({ how }) => how)).toContain("10 -> 5 tokens");
      // The control: other tokens have other scores.
      const other = await runTechnique(pruneVocabulary, original, { tokens: "0,1,3,7,9" });
      const [a, b] = [await scores(model, [1]), await scores(other.model, [1])];
      expect(Math.max(...a.map((x, i) => Math.abs(x - (b[i] as number))))).toBeGreaterThan(1e-3);
    },
  );

  it("counts the tokens of the data, what is to be predicted included", async () => {
    const data = datasetOf({
      fields: { input_ids: { dtype: "int64", shape: [2, 3], data: BigInt64Array.of(1n, 4n, 4n, 1n, 4n, 8n) } },
      labels: { dtype: "int32", shape: [2, 3], data: Int32Array.of(4, 4, 5, 4, 8, -100) },
      kind: "tokens",
    });
    const cut = async (options: Record<string, unknown>): Promise<readonly number[] | undefined> =>
      keptPorts((await runTechnique(pruneVocabulary, languageModel(), options, data)).model)?.tokens["input_ids"];
    expect(await cut({})).toEqual([1, 4, 5, 8]);
    expect(await cut({ least: 3 })).toEqual([4]);
    expect(await cut({ least: 3, tokens: "9", multipleOf: 4 })).toEqual([0, 1, 4, 9]);
  });

  it("is proven on the tokens that both have, also after a second cut and from a cut model on", async () => {
    const original = languageModel({ tied: true });
    const once = await compress(original, [pruneVocabulary({ tokens: "0,2-6,9" })], { threads: 1 });
    expect(once.report.verified.maxAbsError).toBeLessThan(TOLERANCE);
    const twice = await compress(once.model, [pruneVocabulary({ tokens: "1,3" })], { threads: 1 });
    expect(keptPorts(twice.model)?.tokens["input_ids"]).toEqual([2, 4]);
    expect(twice.report.verified.maxAbsError).toBeLessThan(TOLERANCE);
    expect((await fidelity(original, twice.model, { threads: 1 })).maxAbsError).toBeLessThan(TOLERANCE);
  });

  it("names what is in the way", async () => {
    await expect(runTechnique(pruneVocabulary, languageModel())).rejects.toThrow(
      "Nothing says which tokens are needed",
    );
    await expect(runTechnique(pruneVocabulary, languageModel(), { tokens: "3,10" })).rejects.toThrow(
      "not in the model's vocabulary",
    );
    await expect(runTechnique(pruneVocabulary, languageModel({ pad: 7 }), { tokens: "3" })).rejects.toThrow(
      "computes with the numbers of tokens",
    );
  });
});

const root = sharedData("models");

describe.skipIf(root === undefined)("a real language model (needs shared/data/models)", () => {
  it("stories260k, tied through a transpose: a text's own tokens, and its tokenizer", async () => {
    const folder = join(root as string, "stories260k");
    const json = JSON.parse(readFileSync(join(folder, "tokenizer.json"), "utf8")) as unknown;
    const text = "Once upon a time, there was a little girl named Lily. She had a red ball.";
    const before = parseTokenizer(json, "tokenizer.json");
    const ids = [1, ...Array.from(before.encode(text))];
    const original = await loadFile(join(folder, "model.onnx"));
    const options = { tokens: [...new Set(ids)].join(), tokenizer: json as object };
    const { model } = await runTechnique(pruneVocabulary, original, options);
    const kept = keptPorts(model)?.tokens["input_ids"] ?? [];
    expect(kept.length).toBeLessThan(512);
    expect(await distance(original, model, ids, 512)).toBeLessThan(TOLERANCE * 10);
    const after = parseTokenizer(pruneTokenizer(json, kept, "tokenizer.json"), "pruned");
    expect(after.size).toBe(kept.length);
    expect(Array.from(after.encode(text), (id) => kept[id])).toEqual(ids.slice(1));
    // Any other text can still be read, in smaller pieces.
    expect(after.encode("Zebras quarrel; 12 xylophones?").length).toBeGreaterThan(0);
  });
});

describe("tokenizers", () => {
  const json = {
    added_tokens: [{ id: 6, content: "<s>", special: true }],
    post_processor: { type: "RobertaProcessing", sep: ["<s>", 6], cls: ["<s>", 6] },
    model: {
      type: "BPE",
      vocab: { a: 0, b: 1, c: 2, ab: 3, abc: 4, bc: 5 },
      merges: ["a b", "ab c", "b c"],
      unk_token: null,
    },
  };

  it("keep what a kept token is merged from, whatever the way", () => {
    const options = { where: "tokenizer.json", alphabet: false };
    expect([...neededTokens(json, [4], options)].sort()).toEqual([0, 1, 2, 3, 4, 6]);
    expect([...neededTokens(json, [5], options)].sort()).toEqual([1, 2, 5, 6]);
    expect([...neededTokens(json, [], { ...options, alphabet: true })].sort()).toEqual([0, 1, 2, 6]);
  });

  it("have new numbers everywhere", () => {
    expect(pruneTokenizer(json, [1, 2, 5, 6], "tokenizer.json")).toEqual({
      added_tokens: [{ id: 3, content: "<s>", special: true }],
      post_processor: { type: "RobertaProcessing", sep: ["<s>", 3], cls: ["<s>", 3] },
      model: { type: "BPE", vocab: { b: 0, c: 1, bc: 2 }, merges: ["b c"], unk_token: null },
    });
    expect(pruneTokenizer(["x", "y", "z"], [0, 2], "characters")).toEqual(["x", "z"]);
    expect(pruneTokenizer({ x: 0, y: 1, z: 2 }, [1, 2], "characters")).toEqual({ y: 0, z: 1 });
    expect(() => pruneTokenizer(3, [0], "characters")).toThrow("neither a tokenizer.json nor");
  });
});
