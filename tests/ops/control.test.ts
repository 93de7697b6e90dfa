/** If, Loop and Scan: what is inferred through their bodies is what ONNX Runtime computes. */
import { describe, expect, it } from "vitest";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { Builder } from "../../src/ir/builder.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { Graph, type Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { engineTensor, runInEngine } from "../support/engine.ts";

function subgraph(parent: Graph, name: string, build: (b: Builder) => readonly Value[]): Graph {
  const graph = new Graph(name, parent);
  const b = new Builder(graph, { prefix: `${name}_` });
  for (const output of build(b)) graph.outputs.push(output);
  return graph;
}

const bool = (value: number): Tensor => Tensor.of("bool", [], Uint8Array.of(value));

describe("control flow", () => {
  it("takes the branch of a known condition, and what both agree on otherwise", async () => {
    const model = new Model(new Graph(), 21);
    const { graph } = model;
    const b = new Builder(graph);
    const x = b.input("x", "float32", [2, 3]);
    const fed = b.input("condition", "bool", []);
    const branch = (condition: Value, name: string): Value =>
      b.op("If", [condition], {
        name,
        attributes: {
          then_branch: { type: "graph", value: subgraph(graph, `${name}_then`, (t) => [t.op("Transpose", [x])]) },
          else_branch: {
            type: "graph",
            value: subgraph(graph, `${name}_else`, (t) => [t.op("Concat", [x, x], { attributes: { axis: 1 } })]),
          },
        },
      });
    const known = b.output(branch(b.constant("yes", bool(1)), "known"));
    const unknown = b.output(branch(fed, "unknown"));
    expect(inferShapes(model)).toEqual([]);
    expect(known.shape).toEqual([3, 2]);
    expect(unknown.shape).toEqual([null, null]);
    expect(unknown.dtype).toBe("float32");
    const results = await runInEngine(await encodeModel(model), {
      x: engineTensor("float32", [2, 3], new Float32Array(6)),
      condition: engineTensor("bool", [], Uint8Array.of(0)),
    });
    expect(results.get(known.name)?.shape).toEqual([3, 2]);
    expect(results.get(unknown.name)?.shape).toEqual([2, 6]);
  });

  function loop(trips: number, grows: boolean): { model: Model; outputs: Value[] } {
    const model = new Model(new Graph(), 21);
    const { graph } = model;
    const b = new Builder(graph);
    const x = b.input("x", "float32", [2, "n"]);
    const body = subgraph(graph, "body", (t) => {
      t.input("i", "int64", []);
      const condition = t.input("go", "bool", []);
      const state = t.input("state", "float32");
      const next = grows ? t.op("Concat", [state, x], { attributes: { axis: 1 } }) : t.op("Relu", [state]);
      return [t.op("Identity", [condition]), next, t.op("ReduceSum", [x], { attributes: { keepdims: 0 } })];
    });
    const outputs = b.ops("Loop", [b.constant("trips", Tensor.scalar("int64", trips)), b.constant("yes", bool(1)), x], {
      outputs: 2,
      attributes: { body: { type: "graph", value: body } },
    });
    for (const output of outputs) b.output(output);
    return { model, outputs };
  }

  it("carries shapes around a loop and counts its iterations", async () => {
    const { model, outputs } = loop(4, false);
    expect(inferShapes(model)).toEqual([]);
    expect(outputs.map((output) => output.shape)).toEqual([[2, "n"], [4]]);
    const results = await runInEngine(await encodeModel(model), {
      x: engineTensor("float32", [2, 5], new Float32Array(10)),
    });
    expect(outputs.map((output) => results.get(output.name)?.shape)).toEqual([[2, 5], [4]]);
  });

  it("forgets what changes from one iteration to the next", async () => {
    const { model, outputs } = loop(3, true);
    expect(inferShapes(model)).toEqual([]);
    expect(outputs.map((output) => output.shape)).toEqual([[2, null], [3]]);
    const results = await runInEngine(await encodeModel(model), {
      x: engineTensor("float32", [2, 5], new Float32Array(10)),
    });
    expect(results.get(outputs[0]?.name ?? "")?.shape).toEqual([2, 20]);
  });

  it("scans along an axis", async () => {
    const model = new Model(new Graph(), 21);
    const b = new Builder(model.graph);
    const start = b.input("start", "float32", [3]);
    const xs = b.input("xs", "float32", ["time", 3]);
    const body = subgraph(model.graph, "body", (t) => {
      const state = t.input("state", "float32");
      const x = t.input("x", "float32");
      const sum = t.op("Add", [state, x]);
      return [sum, t.op("Identity", [sum])];
    });
    const outputs = b.ops("Scan", [start, xs], {
      outputs: 2,
      attributes: { body: { type: "graph", value: body }, num_scan_inputs: 1 },
    });
    for (const output of outputs) b.output(output);
    expect(inferShapes(model)).toEqual([]);
    expect(outputs.map((output) => output.shape)).toEqual([[3], ["time", 3]]);
    const results = await runInEngine(await encodeModel(model), {
      start: engineTensor("float32", [3], new Float32Array(3)),
      xs: engineTensor("float32", [7, 3], new Float32Array(21)),
    });
    expect(outputs.map((output) => results.get(output.name)?.shape)).toEqual([[3], [7, 3]]);
  });
});
