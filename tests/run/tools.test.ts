import { describe, expect, it } from "vitest";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { cleanMessage, engineError, nodeOfMessage } from "../../src/run/engine-error.ts";
import { evaluateConstants } from "../../src/run/fold.node.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { parseProfile, profile } from "../../src/run/profile.node.ts";
import { listProviders } from "../../src/run/providers.node.ts";
import { syntheticFeeds } from "../../src/run/synthetic.ts";
import { inputPorts } from "../../src/run/feed-stream.ts";
import { smallCnn } from "../support/small-models.ts";

describe("constants through the engine", () => {
  it("are what the operators say", async () => {
    const model = new Model();
    const b = new Builder(model.graph);
    const sum = b.op("Add", [b.constant("a", Tensor.float32([2], [1, 2])), b.constant("b", Tensor.float32([1], [10]))]);
    const shape = b.op("Shape", [sum]);
    [sum.dtype, shape.dtype] = ["float32", "int64"];
    b.output(sum, "sum");
    b.output(shape, "shape");
    const values = await evaluateConstants(model);
    expect(values.get("sum")?.peekNumbers()).toEqual([11, 12]);
    expect(values.get("shape")?.dtype).toBe("int64");
    expect(values.get("shape")?.peekNumbers()).toEqual([2]);
  });

  it("fail with the operator named", async () => {
    const model = new Model();
    const b = new Builder(model.graph);
    const y = b.op("NoSuchOperator", [b.constant("a", Tensor.float32([2], [1, 2]))]);
    b.output(y, "y");
    await expect(evaluateConstants(model)).rejects.toThrow(/NoSuchOperator/);
  });
});

describe("the engine's own account", () => {
  it("tells where the time goes", async () => {
    const model = smallCnn();
    const result = await profile(model, syntheticFeeds(inputPorts(model), { batch: 8 }), { runs: 5, threads: 1 });
    expect(result.runs).toBe(5);
    expect(result.nodes.some((node) => /Conv/.test(node.op))).toBe(true);
    expect(result.nodes.reduce((sum, node) => sum + node.share, 0)).toBeCloseTo(1, 6);
    expect(result.nodes.every((node) => node.provider === "CPUExecutionProvider")).toBe(true);
  });

  it("adds profiles up per run, without the first", () => {
    const event = (name: string, dur: number): object => ({
      cat: "Node",
      name: `${name}_kernel_time`,
      dur,
      args: { op_name: "Conv", provider: "p", node_index: "0" },
    });
    const run = { cat: "Session", name: "model_run", dur: 1 };
    const text = JSON.stringify([event("a", 9000), run, event("a", 1000), run, event("a", 3000), run]);
    expect(parseProfile(text)).toEqual({
      runs: 2,
      seconds: 0.002,
      nodes: [{ name: "a", op: "Conv", provider: "p", seconds: 0.002, share: 1 }],
    });
  });

  it("shows fusions in the optimized graph", async () => {
    const { operators } = await optimizedGraph(smallCnn());
    expect(operators["Relu"]).toBeUndefined(); // fused into the convolution
    const plain = await optimizedGraph(smallCnn(), { optimize: "none" });
    expect(plain.operators).toMatchObject({ Conv: 1, Relu: 1, MatMul: 1 });
  });

  it("says which providers work", async () => {
    const states = await listProviders();
    expect(states[0]).toEqual({ provider: "cpu", works: true });
    for (const state of states) expect(state.works || (state.why ?? "").length > 0).toBe(true);
  });
});

describe("engine messages", () => {
  it.each([
    [
      "Non-zero status code returned while running Reshape node. Name:'rs' Status Message: no",
      { op: "Reshape", node: "rs" },
    ],
    ["Node (mm) Op (MatMul) [ShapeInferenceError] Incompatible", { op: "MatMul", node: "mm" }],
    ["Could not find an implementation for Erf(13) node with name 'e'", { op: "Erf", node: "e" }],
    ["Fatal error: my.dom:Foo(-1) is not a registered function/op", { op: "Foo" }],
    ["Protobuf parsing failed.", {}],
  ])("name their node: %s", (text, expected) => {
    expect(nodeOfMessage(text)).toEqual(expected);
  });

  it("lose the paths of the engine's sources", () => {
    const raw =
      "Non-zero status code returned while running Add node. Name:'a' Status Message: /onnxruntime_src/onnxruntime/core/x.h:45 void onnxruntime::f() axis == 1 was false. Bad shape";
    expect(cleanMessage(raw)).not.toContain("onnxruntime_src");
    expect(engineError(new Error(raw), "run").message).toContain("Bad shape");
    expect(engineError(new Error("Unsupported data type: 16"), "load").message).toContain("bfloat16");
  });
});
