/** Shape inference where models are odd: unknown operators, lies, overrides, local functions. */
import { describe, expect, it } from "vitest";
import { inferShapes, inferTypes } from "../../src/analyse/shapes.ts";
import { toAttribute } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Graph, Node, Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

function start(opset = 21): { model: Model; b: Builder } {
  const model = new Model(new Graph(), opset);
  return { model, b: new Builder(model.graph) };
}

describe("shape inference", () => {
  it("resolves a Reshape whose target is computed from shapes", () => {
    const { model, b } = start();
    const x = b.input("x", "float32", ["batch", "seq", 64]);
    const shape = b.op("Shape", [x]);
    const pick = (index: number): Value => b.op("Gather", [shape, b.constant("index", Tensor.int64([index]))]);
    const target = b.op("Concat", [pick(0), pick(1), b.constant("heads", Tensor.int64([8, -1]))], {
      attributes: { axis: 0 },
    });
    const y = b.output(b.op("Reshape", [x, target]));
    expect(inferShapes(model)).toEqual([]);
    expect(y.shape).toEqual(["batch", "seq", 8, 8]);
  });

  it("leaves the outputs of unknown operators as declared, and goes on behind them", () => {
    const { model, b } = start();
    const x = b.input("x", "float32", [2, 3]);
    const [odd] = b.ops("Mystery", [x], { domain: "com.example" });
    if (!odd) throw new Error("no output");
    const y = b.output(b.op("Relu", [odd]));
    expect(inferShapes(model)).toEqual([]);
    expect(y.shape).toBeUndefined();
    odd.dtype = "float32";
    odd.shape = [4, "k"];
    expect(inferShapes(model)).toEqual([]);
    expect(y.shape).toEqual([4, "k"]);
  });

  it("reports a declaration that contradicts the graph, and believes the graph", () => {
    const { model, b } = start();
    const x = b.input("x", "float32", [2, 3]);
    const y = b.output(b.op("Relu", [x]));
    y.shape = [2, 4];
    y.dtype = "float16";
    expect(inferShapes(model).map((problem) => problem.message)).toEqual([
      "declared float16, but it is float32",
      "declared [2, 4], but it is [2, 3]",
    ]);
    expect(y.shape).toEqual([2, 3]);
  });

  it("reports inputs that cannot fit, with the node, and does not throw", () => {
    const { model, b } = start();
    const x = b.input("x", "float32", [2, 3]);
    const w = b.constant("w", Tensor.float32([4, 5], new Float32Array(20)));
    b.output(b.op("MatMul", [x, w], { name: "fc" }));
    const problems = inferShapes(model);
    expect(problems).toHaveLength(1);
    expect(problems[0]?.where).toContain("'fc'");
    expect(problems[0]?.message).toContain("inner sizes 3 and 4");
  });

  it("takes sizes of symbols and shapes of inputs, and changes nothing when only asked", () => {
    const { model, b } = start();
    const x = b.input("x", "float32", ["batch", null]);
    const y = b.output(b.op("Concat", [x, x], { attributes: { axis: 1 } }));
    expect(inferTypes(model).types.get(y)?.shape).toEqual(["batch", "2*x.d1"]);
    expect(y.shape).toBeUndefined();
    inferShapes(model);
    expect(x.shape).toEqual(["batch", null]);
    inferShapes(model, { dims: { batch: 4, "x.d1": 3 } });
    expect(y.shape).toEqual([4, 6]);
    expect(x.shape).toEqual([4, 3]);
    inferShapes(model, { inputs: { x: [1, 2] }, fresh: true });
    expect(y.shape).toEqual([1, 4]);
  });

  it("keeps the names that a model gives to the sizes of its outputs", () => {
    const { model, b } = start();
    const x = b.input("x", "float32", ["samples"]);
    const y = b.output(b.op("Concat", [x, x], { attributes: { axis: 0 } }));
    const z = b.output(b.op("Relu", [y]));
    y.shape = ["frames"];
    inferShapes(model);
    expect(y.shape).toEqual(["frames"]);
    expect(z.shape).toEqual(["2*samples"]);
    inferShapes(model, { dims: { samples: 3 } });
    expect(y.shape).toEqual([6]);
  });

  it("forgets what was inferred before the graph changed when asked to start afresh", () => {
    const { model, b } = start();
    const x = b.input("x", "float32", [2, 3]);
    const [odd] = b.ops("Mystery", [x], { domain: "com.example" });
    if (!odd) throw new Error("no output");
    odd.shape = [9];
    const y = b.output(b.op("Relu", [odd]));
    inferShapes(model, { fresh: true });
    expect(y.shape).toBeUndefined();
  });

  it("walks into local functions, each call with its own shapes and attributes", () => {
    const { model, b } = start();
    const body = new Graph("Twice");
    const formal = new Value("a");
    const joined = new Value("c");
    body.inputs.push(formal);
    body.outputs.push(joined);
    body.add(
      new Node({
        opType: "Concat",
        inputs: [formal, formal],
        outputs: [joined],
        attributes: [["axis", { type: "reference", value: "along", of: 2 }]],
      }),
    );
    model.functions.push({
      name: "Twice",
      domain: "local",
      overload: "",
      opsets: new Map([["", 21]]),
      attributes: [],
      defaults: new Map([["along", toAttribute(0)]]),
      body,
    });
    const x = b.input("x", "float32", [2, "n"]);
    const first = b.output(b.op("Twice", [x], { domain: "local" }));
    const second = b.output(b.op("Twice", [first], { domain: "local", attributes: { along: 1 } }));
    expect(inferShapes(model)).toEqual([]);
    expect(first.shape).toEqual([4, "n"]);
    expect(second.shape).toEqual([4, "2*n"]);
    expect(formal.uses).toHaveLength(2);
  });

  it("stops at functions that call each other more often than any model does", () => {
    const { model, b } = start();
    const levels = 40;
    for (let level = 0; level < levels; level++) {
      const body = new Graph(`f${level}`);
      const formal = new Value("a");
      const inner = new Builder(body);
      body.inputs.push(formal);
      const next = level + 1 < levels ? { op: `f${level + 1}`, domain: "local" } : { op: "Relu", domain: "" };
      const once = inner.op(next.op, [formal], { domain: next.domain });
      body.outputs.push(inner.op(next.op, [once], { domain: next.domain }));
      model.functions.push({
        name: `f${level}`,
        domain: "local",
        overload: "",
        opsets: new Map([["", 21]]),
        attributes: [],
        body,
      });
    }
    b.output(b.op("f0", [b.input("x", "float32", [2])], { domain: "local" }));
    expect(inferShapes(model)[0]?.message).toMatch(/nested too deeply/);
  });

  it("stops at functions that call themselves", () => {
    const { model, b } = start();
    const body = new Graph("Again");
    const formal = new Value("a");
    const result = new Value("r");
    body.inputs.push(formal);
    body.outputs.push(result);
    body.add(new Node({ opType: "Again", domain: "local", inputs: [formal], outputs: [result] }));
    model.functions.push({
      name: "Again",
      domain: "local",
      overload: "",
      opsets: new Map([["", 21]]),
      attributes: [],
      body,
    });
    const y = b.output(b.op("Again", [b.input("x", "float32", [2])], { domain: "local" }));
    expect(inferShapes(model)).toEqual([]);
    expect(y.shape).toBeUndefined();
  });
});
