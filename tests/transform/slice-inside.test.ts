/** Channels through what used to stop them: loops that carry them, quantized layers down to 4 bits; and what still does, by name. */
import { describe, expect, it } from "vitest";
import { type ChannelGroups, channelGroups } from "../../src/analyse/groups.ts";
import { Rng } from "../../src/base/rng.ts";
import { packBits } from "../../src/base/packed.ts";
import { Builder } from "../../src/ir/builder.ts";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { Graph, type Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { sliceGroups } from "../../src/transform/slice-groups.ts";
import { sliceTensor } from "../../src/transform/slice-tensor.ts";
import { maskGroups, someGroups } from "../support/mask-groups.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";

/** Sums of eight products in another order. */
const TOLERANCE = 1e-5;
const bool = (value: number): Tensor => Tensor.of("bool", [], Uint8Array.of(value));

function weight(b: Builder, name: string, shape: readonly number[]): Value {
  const rng = new Rng(7).fork(name);
  const size = shape.reduce((x, y) => x * y, 1);
  return b.constant(
    name,
    Tensor.float32(
      shape,
      Float32Array.from({ length: size }, () => 0.5 * rng.normal()),
    ),
  );
}

function finish(b: Builder, hidden: Value, width: number): void {
  const y = b.op("MatMul", [hidden, weight(b, "out", [width, 3])], { name: "out" });
  [y.dtype, y.shape] = ["float32", [2, 3]];
  b.output(y, "y");
}

/** h ← tanh(h U + x) three times, around a Loop or a Scan, then read out. */
function recurrence(kind: "Loop" | "Scan"): Model {
  const model = new Model(new Graph(), 21);
  const { graph } = model;
  const b = new Builder(graph);
  const x = b.op("MatMul", [b.input("x", "float32", [2, 4]), weight(b, "in", [4, 8])], { name: "in" });
  const u = weight(b, "recurrent", [8, 8]);
  const body = new Graph("body", graph);
  const t = new Builder(body, { prefix: "body_" });
  const step = (state: Value, more: Value): Value =>
    t.op("Tanh", [t.op("Add", [t.op("MatMul", [state, u], { name: "turn" }), more])]);
  if (kind === "Loop") {
    t.input("i", "int64", []);
    const go = t.input("go", "bool", []);
    const state = t.input("state", "float32", [2, 8]);
    const next = step(state, x);
    body.outputs.push(t.op("Identity", [go]), next, t.op("Identity", [next]));
    const inputs = [b.constant("trips", Tensor.scalar("int64", 3)), b.constant("yes", bool(1)), x];
    const [last, all] = b.ops("Loop", inputs, { outputs: 2, attributes: { body: { type: "graph", value: body } } });
    const sum = b.op("ReduceSum", [all as Value, b.constant("axes", Tensor.int64([0]))], {
      attributes: { keepdims: 0 },
    });
    finish(b, b.op("Add", [last as Value, sum]), 8);
    return model;
  }
  const state = t.input("state", "float32", [2, 8]);
  const element = t.input("element", "float32", [2, 8]);
  const next = step(state, element);
  body.outputs.push(next, t.op("Identity", [next]));
  const stacked = b.op(
    "Concat",
    [x, x].map((each) => b.op("Unsqueeze", [each, b.constant("one", Tensor.int64([1]))])),
    {
      attributes: { axis: 1 },
    },
  );
  const [last, all] = b.ops("Scan", [x, stacked], {
    outputs: 2,
    attributes: {
      body: { type: "graph", value: body },
      num_scan_inputs: 1,
      scan_input_axes: [1],
      scan_output_axes: [-2],
    },
  });
  const sum = b.op("ReduceSum", [all as Value, b.constant("axes", Tensor.int64([1]))], { attributes: { keepdims: 0 } });
  finish(b, b.op("Add", [last as Value, sum]), 8);
  return model;
}

/** x · dequantized(W) read out, with codes of so many bits and a scale for each column, behind quantized activations. */
function quantized(bits: 4 | 8): Model {
  const model = new Model(new Graph(), 21);
  const b = new Builder(model.graph);
  const rng = new Rng(5);
  const codes = Array.from({ length: 5 * 8 }, () => rng.below(2 ** bits) - 2 ** (bits - 1));
  const packed = bits === 4 ? packBits(codes, 4) : new Uint8Array(Int8Array.from(codes).buffer);
  const tensor = new Tensor(bits === 4 ? "int4" : "int8", [5, 8], {
    byteLength: packed.length,
    resident: packed,
    read: (offset = 0, length = packed.length - offset) => Promise.resolve(packed.subarray(offset, offset + length)),
  });
  const scale = b.constant(
    "scale",
    Tensor.float32(
      [8],
      Float32Array.from({ length: 8 }, () => rng.uniform(0.01, 0.1)),
    ),
  );
  const w = b.op("DequantizeLinear", [b.constant("codes", tensor), scale], { attributes: { axis: 1 } });
  const x = b.input("x", "float32", [2, 5]);
  const unit = b.constant("unit", Tensor.float32([], Float32Array.of(0.05)));
  const zero = b.constant("zero", Tensor.of("uint8", [], Uint8Array.of(128)));
  const hidden = b.op("Relu", [b.op("MatMul", [x, w], { name: "hidden" })]);
  const rounded = b.op("DequantizeLinear", [b.op("QuantizeLinear", [hidden, unit, zero]), unit, zero]);
  finish(b, rounded, 8);
  return model;
}

async function distance(original: Model, seed: number, other = seed): Promise<number> {
  const [masked, sliced] = [cloneModel(original), cloneModel(original)];
  await maskGroups(someGroups(channelGroups(masked), seed));
  const groups = channelGroups(sliced);
  sliceGroups(sliced, groups, someGroups(groups, other));
  expect(checkModel(sliced)).toEqual([]);
  return worstError(await runOnSynthetic(masked), await runOnSynthetic(sliced));
}

describe("cutting equals masking", () => {
  it.each([
    ["around a Loop", () => recurrence("Loop")],
    ["around a Scan", () => recurrence("Scan")],
    ["in 8-bit codes with scales", () => quantized(8)],
    ["in 4-bit codes with scales", () => quantized(4)],
  ])("%s", async (_, make) => {
    const { families } = channelGroups(make());
    expect(families.map(({ groups }) => groups.length)).toEqual([8]);
    for (const seed of [1, 2, 3]) expect(await distance(make(), seed)).toBeLessThan(TOLERANCE);
    expect(await distance(make(), 1, 2)).toBeGreaterThan(1e-3);
  });

  it("of packed tensors, along any axis and to odd numbers", async () => {
    const codes = Array.from({ length: 15 }, (_, i) => i);
    const packed = packBits(codes, 4);
    const tensor = Tensor.lazy("uint4", [3, 5], () => Promise.resolve(packed));
    const part = sliceTensor(
      tensor,
      new Map([
        [0, [0, 2]],
        [1, [1, 2, 4]],
      ]),
    );
    expect(part.shape).toEqual([2, 3]);
    expect([...(await part.bytes())]).toEqual([...packBits([1, 2, 4, 11, 12, 14], 4)]);
  });
});

describe("what stays, with the reason", () => {
  const reasons = ({ frozen }: ChannelGroups): string =>
    frozen.map(({ name, reason }) => `${name}: ${reason}`).join("\n");

  it("names functions of the model", () => {
    const model = new Model(new Graph(), 21);
    model.opsets.set("local", 1);
    const b = new Builder(model.graph);
    const hidden = b.op("MatMul", [b.input("x", "float32", [2, 4]), weight(b, "in", [4, 8])], { name: "in" });
    const made = b.op("Double", [hidden], { domain: "local", name: "double" });
    finish(b, made, 8);
    const body = new Graph("Double");
    const t = new Builder(body);
    const input = t.input("value", "float32");
    body.outputs.push(t.op("Add", [input, input]));
    const opsets = new Map([["", 21]]);
    model.functions.push({ name: "Double", domain: "local", overload: "", opsets, attributes: [], body });
    expect(reasons(channelGroups(model))).toContain(
      "Double 'double' is a function of the model, whose inside is not followed",
    );
  });

  it("names loops whose body gives another number of channels", () => {
    const model = recurrence("Loop");
    const loop = model.graph.nodes.find(({ opType }) => opType === "Loop");
    const body = [...(loop?.subgraphs() ?? [])][0] as Graph;
    const t = new Builder(body, { prefix: "more_" });
    const grown = t.op("Concat", [body.outputs[1] as Value, body.outputs[1] as Value], { attributes: { axis: 1 } });
    body.outputs[1] = grown;
    expect(channelGroups(model).families).toEqual([]);
    expect(reasons(channelGroups(model))).toMatch(/^in_1: Loop '.*' ties sizes 8 and 16$/m);
  });
});
