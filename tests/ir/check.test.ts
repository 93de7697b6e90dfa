import { describe, expect, it } from "vitest";
import { Builder } from "../../src/ir/builder.ts";
import { checkModel, type ProblemCode } from "../../src/ir/check.ts";
import { Graph, Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { parseModel } from "../../src/ir/text-parse.ts";

/** y = Relu(x·w), z = Neg(y): sound. */
function sound(): { model: Model; b: Builder; x: Value; w: Value; y: Value } {
  const model = new Model(new Graph("g"), 21);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", 4]);
  const w = b.constant("w", Tensor.float32([4, 2], new Float32Array(8)));
  const y = b.op("Relu", [b.op("MatMul", [x, w])]);
  b.output(b.op("Neg", [y]), "z");
  return { model, b, x, w, y };
}

type Sound = ReturnType<typeof sound>;

const CASES: readonly [string, ProblemCode, (parts: Sound) => void][] = [
  ["two values of one name", "duplicate-name", ({ y }) => (y.name = "x")],
  ["a value without a name", "empty-name", ({ x }) => (x.name = "")],
  ["a node that names no operator", "empty-name", ({ model }) => (model.graph.nodes[0]!.opType = "")],
  ["an input from nowhere", "undefined-input", ({ model }) => model.graph.nodes[1]!.setInput(0, new Value("ghost"))],
  ["nodes out of order", "unsorted", ({ model }) => model.graph.nodes.reverse()],
  ["a cycle", "cycle", ({ model }) => model.graph.nodes[0]!.setInput(0, model.graph.nodes[1]!.outputs[0])],
  ["a node that feeds itself", "cycle", ({ model, y }) => model.graph.nodes[1]!.setInput(0, y)],
  ["a domain without opset", "missing-opset", ({ model }) => (model.graph.nodes[0]!.domain = "com.microsoft")],
  ["an output that nothing computes", "output-never-produced", ({ model }) => model.graph.outputs.push(new Value("q"))],
  ["no outputs", "no-outputs", ({ model }) => model.graph.outputs.splice(0)],
  ["a negative dimension", "bad-dimension", ({ x }) => (x.shape = [-1, 4])],
  ["a fractional dimension", "bad-dimension", ({ y }) => (y.shape = [1.5])],
  ["an initializer without tensor", "bad-tensor", ({ w }) => (w.tensor = undefined)],
  ["an initializer of another dtype", "bad-tensor", ({ w }) => (w.dtype = "int8")],
  ["an initializer of another shape", "bad-tensor", ({ w }) => (w.shape = [4, 3])],
  ["an initializer filed under another name", "inconsistent-graph", ({ w }) => (w.name = "v")],
  ["an attribute of the wrong type", "bad-attribute", ({ b, x }) => b.op("Concat", [x], { attributes: { axis: "1" } })],
  [
    "a fraction for an integer",
    "bad-attribute",
    ({ b, x }) => b.op("Flatten", [x], { attributes: { axis: { type: "int", value: 0.5 } } }),
  ],
  ["an integer above 2^63", "bad-attribute", ({ b, x }) => b.op("Flatten", [x], { attributes: { axis: 2n ** 63n } })],
  [
    "a reference outside a function",
    "bad-attribute",
    ({ b, x }) => b.op("Flatten", [x], { attributes: { axis: { type: "reference", value: "a", of: 2 } } }),
  ],
  ["a producer that does not know its output", "inconsistent-graph", ({ y }) => (y.producer = undefined)],
  ["a use that is not listed", "inconsistent-graph", ({ x }) => x.uses.splice(0)],
  ["a node of another graph", "inconsistent-graph", ({ model }) => (model.graph.nodes[0]!.graph = undefined)],
  ["an unknown IR version", "unknown-ir-version", ({ model }) => (model.irVersion = 99)],
];

describe("checkModel", () => {
  it("finds nothing wrong with a sound model", () => {
    expect(checkModel(sound().model)).toEqual([]);
  });

  for (const [name, code, damage] of CASES)
    it(`finds ${name}`, () => {
      const parts = sound();
      damage(parts);
      const problems = checkModel(parts.model);
      expect(problems.map((problem) => problem.code)).toContain(code);
      for (const { where, message } of problems) {
        expect(where.length).toBeGreaterThan(0);
        expect(message).toMatch(/^[A-Z'].*[^.]$/);
      }
    });

  it("looks into functions: parameters may be referred to, recursion is found", () => {
    const text = (call: string) => `
      <ir_version: 10, opset_import: ["": 21, "my": 1]>
      g (float32[n] x) => (float32[n] y) { y = my::F <alpha: float = 0.5> (x) }
      function <domain: "my", opset_import: ["": 21, "my": 1]> F <alpha> (a) => (b) { b = ${call} (a) }`;
    expect(checkModel(parseModel(text("LeakyRelu <alpha: reference = 1 alpha>")))).toEqual([]);
    expect(checkModel(parseModel(text("LeakyRelu <alpha: reference = 1 gamma>"))).map(({ code }) => code)).toEqual([
      "bad-attribute",
    ]);
    expect(checkModel(parseModel(text("my::F"))).map(({ code }) => code)).toEqual(["recursive-function"]);
  });
});
