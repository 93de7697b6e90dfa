/** Every dtype and shape that pare claims about the reference models, against what ONNX Runtime computes. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { axesAgree, axesOf } from "../../src/ops/axes.ts";
import { specOf } from "../../src/ops/registry.ts";
import { type Bindings, evaluate } from "../../src/ops/symbolic.ts";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { Rng } from "../../src/base/rng.ts";
import { isConcrete } from "../../src/base/shape.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import type { Value } from "../../src/ir/graph.ts";
import type { Model } from "../../src/ir/model.ts";
import { type Computed, engineTensor, randomData, runInEngine } from "../support/engine.ts";
import { describeWithData } from "../support/shared-data.ts";

/** Models that the engine refuses, and why. */
const NOT_LOADABLE: Readonly<Record<string, string>> = {
  "qonnx-tfc-2w2a.onnx": "operators of a custom domain",
};

/** Sizes of symbols where they depend on each other or must be large. Two runs each: what is true of one may be chance. */
const SIZES: Readonly<Record<string, readonly Bindings[]>> = {
  "tiny-random-gpt2.onnx": [
    { batch_size: 2, seq_len: 3, past_seq_len: 4, total_seq_len: 7 },
    { batch_size: 1, seq_len: 5, past_seq_len: 0, total_seq_len: 5 },
  ],
  "tiny-random-llama-fp16/model.onnx": [
    // This export takes either a prompt without a past, or one token after one.
    { batch_size: 2, sequence_length: 3, past_sequence_length: 0, total_sequence_length: 3 },
    { batch_size: 1, sequence_length: 1, past_sequence_length: 4, total_sequence_length: 5 },
  ],
  "silero-vad.onnx": [
    { "input.d0": 1, "input.d1": 576, "state.d1": 1 },
    { "input.d0": 2, "input.d1": 576, "state.d1": 2 },
  ],
  "swift-f0.onnx": [{ audio_length: 4000 }, { audio_length: 2049 }],
  "punctuation-restorer.onnx": [{ unk__3070: 9 }, { unk__3070: 4 }],
};
const DEFAULT_SIZES = [2, 3, 5, 7, 11];

/** Values that some integer inputs must have. */
const FIXED: Readonly<Record<string, number>> = { sr: 16000, attention_mask: 1 };

/** Claims that do not hold, one line each; and how many values have a full shape under these sizes. */
function compare(
  model: Model,
  computed: ReadonlyMap<string, Computed>,
  sizes: Bindings,
): { wrong: string[]; known: number } {
  const wrong: string[] = [];
  let known = 0;
  for (const node of model.graph.nodes)
    for (const value of node.outputs) {
      const real = computed.get(value.name);
      if (!real) continue;
      const claimed = value.shape?.map((dim) => evaluate(dim, sizes));
      const agrees =
        (value.dtype === undefined || value.dtype === real.dtype) &&
        (claimed === undefined ||
          (claimed.length === real.shape.length && claimed.every((dim, i) => dim === null || dim === real.shape[i])));
      if (!agrees)
        wrong.push(
          `${node.opType} ${value.name}: claimed ${value.dtype} [${value.shape}] = [${claimed}], is ${real.dtype} [${real.shape}]`,
        );
      if (claimed?.every((dim) => dim !== null)) known++;
    }
  return { wrong, known };
}

/** Nodes whose axes tie sizes that differ; and how many have axes that can be looked at. */
function untied(
  model: Model,
  computed: ReadonlyMap<string, Computed>,
  sizes: Bindings,
): { wrong: string[]; tied: number } {
  const wrong: string[] = [];
  let tied = 0;
  const shapeOf = (value: Value | undefined): readonly number[] | undefined => {
    if (!value) return undefined;
    if (value.tensor) return value.tensor.shape;
    const real = computed.get(value.name)?.shape;
    if (real) return real;
    const fed = value.shape?.map((dim) => evaluate(dim, sizes));
    return isConcrete(fed) ? fed : undefined;
  };
  for (const node of model.graph.nodes) {
    const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
    const terms = spec && axesOf(node, spec);
    if (!terms) continue;
    tied++;
    if (!axesAgree(terms, node.inputs.map(shapeOf), node.outputs.map(shapeOf)))
      wrong.push(`${node.opType} ${node.name}: ${JSON.stringify(terms)}`);
  }
  return { wrong, tied };
}

/** Runs with every value exposed as an output. */
async function computeAll(model: Model, sizes: Bindings, seed: number): Promise<Map<string, Computed>> {
  const { graph } = model;
  const before = graph.outputs.length;
  for (const node of graph.nodes)
    for (const output of node.outputs)
      if (output.name !== "" && output.dtype !== undefined && !graph.outputs.includes(output))
        graph.outputs.push(output);
  const bytes = await encodeModel(model);
  graph.outputs.length = before;
  const rng = new Rng(seed);
  const feeds = Object.fromEntries(
    graph.inputs
      .filter((input) => !input.tensor)
      .map((input) => {
        const dtype = input.dtype ?? "float32";
        const shape = (input.shape ?? []).map((dim, axis) => evaluate(dim ?? `${input.name}.d${axis}`, sizes) ?? 1);
        const data = randomData(dtype, shape, rng);
        const fixed = FIXED[input.name];
        if (fixed !== undefined && !Array.isArray(data))
          data.fill((data instanceof BigInt64Array ? BigInt(fixed) : fixed) as never);
        return [input.name, engineTensor(dtype, shape, data)];
      }),
  );
  return runInEngine(bytes, feeds);
}

/** Symbols of the inputs get sizes in order of appearance. */
function defaultSizes(model: Model, run: number): Bindings {
  const symbols = new Set(
    model.graph.inputs.flatMap((input) => input.shape ?? []).filter((dim) => typeof dim === "string"),
  );
  return Object.fromEntries(
    [...symbols].map((name, i) => [name, DEFAULT_SIZES[(i + run) % DEFAULT_SIZES.length] ?? 1]),
  );
}

describeWithData("shapes agree with the engine", "models", (root) => {
  const files = readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".onnx"))
    .sort();

  it("finds the models", () => expect(files.length).toBeGreaterThan(0));

  describe.each(files)("%s", (file) => {
    it("claims nothing that the engine does not compute", async ({ skip }) => {
      if (NOT_LOADABLE[file] !== undefined) skip(`ONNX Runtime does not load it: ${NOT_LOADABLE[file]}`);
      for (const [run, given] of (SIZES[file] ?? [undefined, undefined]).entries()) {
        const model = await loadFile(join(root, file));
        const problems = inferShapes(model, { fresh: true });
        expect(problems).toEqual([]);
        const sizes = given ?? defaultSizes(model, run);
        const computed = await computeAll(model, sizes, run + 1);
        const { wrong, known } = compare(model, computed, sizes);
        if (process.env["PARE_COVERAGE"])
          console.log(
            `${file}: ${known} of ${computed.size} shapes known (${((100 * known) / computed.size).toFixed(1)} %)`,
          );
        expect(wrong).toEqual([]);
        const axes = untied(model, computed, sizes);
        expect(axes.wrong).toEqual([]);
        expect(axes.tied).toBeGreaterThan(model.graph.nodes.length / 4);
        expect(known / computed.size).toBeGreaterThanOrEqual(COVERAGE[file] ?? 1);
      }
    });
  });

  it("would notice a wrong claim", async () => {
    const file = files.find((name) => name.startsWith("lenet5")) ?? "";
    const model = await loadFile(join(root, file));
    inferShapes(model);
    const sizes = defaultSizes(model, 0);
    const computed = await computeAll(model, sizes, 1);
    const value = model.graph.nodes[1]?.outputs[0];
    if (!value?.shape) throw new Error("the second node has no shape");
    value.shape = [...value.shape.slice(0, -1), 999];
    expect(compare(model, computed, sizes).wrong).toHaveLength(1);
  });
});

/** The least part of values whose shape is known in full, where data decides some: loops that end early, branches. */
const COVERAGE: Readonly<Record<string, number>> = {
  "punctuation-restorer.onnx": 0.9,
  "silero-vad.onnx": 0.3,
};
