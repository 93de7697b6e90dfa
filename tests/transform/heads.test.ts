/** Heads of attention as units of pruning, in every form that attention comes in: cutting equals masking, and counts follow. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type Family, channelGroups } from "../../src/analyse/groups.ts";
import type { GroupedQueries } from "../../src/analyse/positions.ts";
import { Rng } from "../../src/base/rng.ts";
import type { AttributeInput } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { fidelity } from "../../src/evaluate/fidelity.node.ts";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Node, Value } from "../../src/ir/graph.ts";
import { noteKeptPorts } from "../../src/ir/kept-ports.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { freezeDefaults, liftConstants } from "../../src/transform/constants.ts";
import { settleSizes } from "../../src/transform/settle-sizes.ts";
import { sliceGroups } from "../../src/transform/slice-groups.ts";
import { maskGroups, someGroups } from "../support/mask-groups.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { sharedData } from "../support/shared-data.ts";

/** One rounding per sum of some eight terms. */
const TOLERANCE = 1e-5;
const [WIDTH, HEAD, TOKENS] = [16, 8, 5];
const MS = "com.microsoft";

class Net {
  readonly model = new Model();
  readonly b = new Builder(this.model.graph);
  readonly x: Value;

  constructor(opset = 17) {
    this.model.opsets.set("", opset);
    this.model.opsets.set(MS, 1);
    this.x = this.b.input("x", "float32", ["batch", TOKENS, WIDTH]);
  }

  weight(name: string, shape: readonly number[]): Value {
    const rng = new Rng(3).fork(name);
    const size = shape.reduce((a, b) => a * b, 1);
    return this.b.constant(
      name,
      Tensor.float32(
        shape,
        Float32Array.from({ length: size }, () => 0.4 * rng.normal()),
      ),
    );
  }

  project(name: string, width: number, from = this.x): Value {
    const inner = Number(from.shape?.at(-1) ?? WIDTH);
    return this.op("MatMul", [from, this.weight(`${name}.w`, [inner, width])], {}, name);
  }

  op(
    type: string,
    inputs: readonly (Value | undefined)[],
    attributes: Record<string, AttributeInput> = {},
    name = type,
  ): Value {
    const [output] = this.b.ops(type.split(":").at(-1) as string, inputs, {
      attributes,
      outputs: 1,
      name,
      ...(type.includes(":") ? { domain: MS } : {}),
    });
    return output as Value;
  }

  ints(values: readonly number[], dtype: "int64" | "int32" = "int64", shape = [values.length]): Value {
    const tensor = dtype === "int64" ? Tensor.int64(values, shape) : Tensor.of("int32", shape, Int32Array.from(values));
    return this.b.constant(`ints`, tensor);
  }

  finish(context: Value, width: number): Model {
    const y = this.op("MatMul", [context, this.weight("o.w", [width, WIDTH])], {}, "o");
    [y.dtype, y.shape] = ["float32", ["batch", TOKENS, WIDTH]];
    this.b.output(y, "y");
    return this.model;
  }
}

/** softmax(q kᵀ) v with heads spelled out; keys of fewer heads are repeated. */
function plain(heads: number, groups: number, repeat: "Expand" | "Tile" = "Expand"): Model {
  const net = new Net();
  const split = (name: string, count: number): Value =>
    net.op("Transpose", [net.op("Reshape", [net.project(name, count * HEAD), net.ints([0, 0, count, HEAD])])], {
      perm: [0, 2, 1, 3],
    });
  const shared = (value: Value): Value => {
    if (heads === groups) return value;
    const wide = net.op("Unsqueeze", [value, net.ints([2])]);
    const many = net.op(repeat, [wide, net.ints([1, 1, heads / groups, 1, 1])]);
    return net.op("Reshape", [many, net.ints([0, heads, TOKENS, HEAD])]);
  };
  const [q, k, v] = [split("q", heads), shared(split("k", groups)), shared(split("v", groups))];
  const scores = net.op("Softmax", [net.op("MatMul", [q, net.op("Transpose", [k], { perm: [0, 1, 3, 2] })])], {
    axis: -1,
  });
  const mixed = net.op("Transpose", [net.op("MatMul", [scores, v])], { perm: [0, 2, 1, 3] });
  return net.finish(net.op("Reshape", [mixed, net.ints([0, 0, heads * HEAD])]), heads * HEAD);
}

function packed(heads: number, sizes?: readonly [number, number, number]): Model {
  const net = new Net();
  const [q, k, v] = sizes ?? [heads * HEAD, heads * HEAD, heads * HEAD];
  const inputs = [net.x, net.weight("qkv.w", [WIDTH, q + k + v]), net.weight("qkv.b", [q + k + v])];
  const attributes = { num_heads: heads, ...(sizes ? { qkv_hidden_sizes: [...sizes] } : {}) };
  return net.finish(net.op("ms:Attention", inputs, attributes, "attention"), v);
}

function multiHead(heads: number): Model {
  const net = new Net();
  const width = heads * HEAD;
  const inputs = ["q", "k", "v"].map((name) => net.project(name, width));
  return net.finish(net.op("ms:MultiHeadAttention", inputs, { num_heads: heads }, "attention"), width);
}

function groupQuery(heads: number, groups: number, form: "apart" | "packed" | "rotary"): Model {
  const net = new Net();
  const [q, kv] = [heads * HEAD, groups * HEAD];
  const table = (name: string): Value => net.weight(name, [TOKENS, HEAD / 2]);
  const [cos, sin] = [table("cos"), table("sin")];
  const turned = (value: Value): Value =>
    form === "rotary" ? net.op("ms:RotaryEmbedding", [value, net.ints([0], "int64"), cos, sin]) : value;
  const data =
    form === "packed"
      ? [net.project("qkv", q + 2 * kv), undefined, undefined]
      : [turned(net.project("q", q)), turned(net.project("k", kv)), net.project("v", kv)];
  const lengths = [net.ints([TOKENS - 1], "int32"), net.ints([TOKENS], "int32", [])];
  const inputs = [...data, undefined, undefined, ...lengths];
  const attributes = { num_heads: heads, kv_num_heads: groups };
  return net.finish(net.op("ms:GroupQueryAttention", inputs, attributes, "attention"), q);
}

function standard(heads: number, groups: number): Model {
  const net = new Net(23);
  const inputs = [net.project("q", heads * HEAD), net.project("k", groups * HEAD), net.project("v", groups * HEAD)];
  return net.finish(
    net.op("Attention", inputs, { q_num_heads: heads, kv_num_heads: groups }, "attention"),
    heads * HEAD,
  );
}

/** Groups that can go: all heads of keys, or in `evenly` all queries of one head of keys. */
const FORMS: readonly (readonly [string, () => Model, together: number, evenly: number])[] = [
  ["plain", () => plain(4, 4), 4, 4],
  ["plain with grouped queries", () => plain(6, 2), 2, 3],
  ["plain with tiled keys", () => plain(6, 2, "Tile"), 2, 3],
  ["Attention of com.microsoft", () => packed(4), 4, 4],
  ["Attention with values of another width", () => packed(4, [32, 32, 16]), 4, 4],
  ["MultiHeadAttention", () => multiHead(4), 4, 4],
  ["GroupQueryAttention", () => groupQuery(6, 2, "apart"), 2, 3],
  ["GroupQueryAttention, packed", () => groupQuery(6, 2, "packed"), 2, 3],
  ["GroupQueryAttention behind rotary embeddings", () => groupQuery(6, 2, "rotary"), 2, 3],
  ["Attention of ONNX", () => standard(4, 4), 4, 4],
  ["Attention of ONNX with grouped queries", () => standard(6, 2), 2, 3],
];

const isHeads = ({ kind }: Family): boolean => kind === "heads";

async function distance(original: Model, queries: GroupedQueries, seed: number, other = seed): Promise<number> {
  const [masked, sliced] = [cloneModel(original), cloneModel(original)];
  await maskGroups(someGroups(channelGroups(masked, { queries }), seed, 0.5, isHeads));
  const groups = channelGroups(sliced, { queries });
  sliceGroups(sliced, groups, someGroups(groups, other, 0.5, isHeads));
  expect(checkModel(sliced)).toEqual([]);
  return worstError(await runOnSynthetic(masked), await runOnSynthetic(sliced));
}

describe.each(["together", "evenly"] as const)("heads that go %s", (queries) => {
  it.each(FORMS)("%s: cutting equals masking", async (_, make, together, evenly) => {
    const families = channelGroups(make(), { queries }).families.filter(isHeads);
    expect(families.map(({ groups }) => groups.length)).toEqual([queries === "together" ? together : evenly]);
    for (const seed of [1, 2, 3]) expect(await distance(make(), queries, seed)).toBeLessThan(TOLERANCE);
    // The control: other heads are not the same network.
    const others = await Promise.all([4, 5, 6, 7, 8].map((seed) => distance(make(), queries, 1, seed)));
    expect(Math.max(...others)).toBeGreaterThan(1e-3);
  });
});

const root = sharedData("models");

describe.skipIf(root === undefined)("caches of the caller (needs shared/data/models)", () => {
  it.each([
    ["stories260k/decoder_with_past.onnx", 5, 20, 1e-4],
    ["tiny-random-gpt2.onnx", 1, 4, 1e-4],
  ])("%s: keys and values that are kept between runs shrink, too", async (file, families, heads, tolerance) => {
    const original = await loadFile(join(root as string, file));
    freezeDefaults(original);
    liftConstants(original);
    settleSizes(original);
    const options = { caches: true };
    const found = channelGroups(original, options).families.filter(isHeads);
    expect([found.length, found.reduce((sum, { groups }) => sum + groups.length, 0)]).toEqual([families, heads]);
    const cut = async (seed: number): Promise<number> => {
      const [masked, sliced] = [cloneModel(original), cloneModel(original)];
      await maskGroups(someGroups(channelGroups(masked, options), 1, 0.5, isHeads));
      const groups = channelGroups(sliced, options);
      const sides = sliceGroups(sliced, groups, someGroups(groups, seed, 0.5, isHeads));
      noteKeptPorts(sliced, sides);
      const past = Object.keys(sides.inputs);
      expect(past.length).toBeGreaterThan(0);
      expect(Object.keys(sides.outputs).length).toBe(past.length);
      const dims = { past: 3, past_seq_len: 3, total_seq_len: 19 };
      const compared = await fidelity(masked, sliced, { threads: 1, samples: 2, dims });
      return compared.maxAbsError;
    };
    expect(await cut(1)).toBeLessThan(tolerance);
    const others = await Promise.all([2, 3, 4].map(cut));
    expect(Math.max(...others)).toBeGreaterThan(10 * tolerance);
  });
});

describe("counts of heads", () => {
  const attributesAfter = (model: Model, queries: GroupedQueries): Record<string, unknown> => {
    const groups = channelGroups(model, { queries });
    sliceGroups(model, groups, someGroups(groups, 1, 0.5, isHeads));
    const node = model.graph.nodes.find(({ name }) => name === "attention") as Node;
    return Object.fromEntries([...node.attributes.keys()].map((name) => [name, node.ints(name) ?? node.int(name)]));
  };

  it("follow those of keys, and of queries alone", () => {
    expect(attributesAfter(groupQuery(6, 2, "packed"), "together")).toEqual({ num_heads: 3, kv_num_heads: 1 });
    expect(attributesAfter(groupQuery(6, 2, "packed"), "evenly")).toEqual({ num_heads: 2, kv_num_heads: 2 });
    expect(attributesAfter(standard(6, 2), "evenly")).toEqual({ q_num_heads: 2, kv_num_heads: 2 });
    expect(attributesAfter(packed(4, [32, 32, 16]), "together")).toEqual({
      num_heads: 2,
      qkv_hidden_sizes: [16, 16, 8],
    });
  });
});
