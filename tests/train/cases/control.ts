/** Gradient cases of conditions and loops. */
import { Builder } from "../../../src/ir/builder.ts";
import { Graph, type Value } from "../../../src/ir/graph.ts";
import { Tensor } from "../../../src/ir/tensor.ts";
import type { Argument, GradientCase } from "../gradient-check.ts";

const of = (...shape: number[]): Argument => ({ shape });

function body(parent: Graph, name: string, build: (b: Builder) => readonly Value[]): { type: "graph"; value: Graph } {
  const graph = new Graph(name, parent);
  const b = new Builder(graph, { prefix: `${name}_` });
  for (const output of build(b)) graph.outputs.push(output);
  return { type: "graph", value: graph };
}

const bool = (value: number): Tensor => Tensor.of("bool", [], Uint8Array.of(value));

/** x·w where Σ x > Σ w (or not), else x + w²: both branches capture, and the second one w twice. */
const conditional = (name: string, chosen: "then" | "else"): GradientCase => ({
  name: `If ${name}`,
  inputs: [
    { shape: [3], low: 1, high: 2 },
    { shape: [3], low: -1, high: 0 },
  ],
  build: (b, [x, w]) => {
    const total = (value: Value | undefined): Value => b.op("ReduceSum", [value], { attributes: { keepdims: 0 } });
    const sides = [total(x), total(w)];
    const condition = b.op("Greater", chosen === "then" ? sides : sides.reverse());
    const [y, z] = b.ops("If", [condition], {
      outputs: 2,
      attributes: {
        then_branch: body(b.graph, "then", (t) => [t.op("Mul", [x, w]), t.op("Identity", [x])]),
        else_branch: body(b.graph, "else", (t) => {
          const square = t.op("Mul", [w, w]);
          return [t.op("Add", [x, square]), t.op("Exp", [square])];
        }),
      },
    });
    return b.op("Mul", [y, b.op("Add", [z, x])]);
  },
});

const loop = (name: string, trips: number): GradientCase => ({
  name: `Loop ${name}`,
  inputs: [of(2, 3), of(3, 3)],
  build: (b, [x, w]) => {
    const attributes = {
      body: body(b.graph, "body", (t) => {
        t.input("i", "int64", []);
        const go = t.input("go", "bool", []);
        const state = t.input("state", w?.dtype ?? "float32", [2, 3]);
        const next = t.op("Tanh", [t.op("MatMul", [state, w])]);
        return [t.op("Identity", [go]), next, t.op("Mul", [next, state])];
      }),
    };
    const inputs = [b.constant("trips", Tensor.int64([trips], [])), b.constant("go", bool(1)), x];
    const [last, all] = b.ops("Loop", inputs, { outputs: 2, attributes });
    return b.op("Add", [last, all]);
  },
});

const scan = (name: string, axis: number, direction: number): GradientCase => ({
  name: `Scan ${name}`,
  inputs: [of(3), axis === 0 ? of(4, 3) : of(3, 4), of(3)],
  build: (b, [state, x, w]) => {
    const attributes = {
      num_scan_inputs: 1,
      scan_input_axes: [axis],
      scan_input_directions: [direction],
      scan_output_axes: [-1],
      scan_output_directions: [direction],
      body: body(b.graph, "step", (t) => {
        const before = t.input("before", w?.dtype ?? "float32", [3]);
        const element = t.input("element", w?.dtype ?? "float32", [3]);
        const after = t.op("Tanh", [t.op("Add", [t.op("Mul", [before, w]), element])]);
        return [after, t.op("Mul", [after, element])];
      }),
    };
    const [last, all] = b.ops("Scan", [state, x], { outputs: 2, attributes });
    const flat = (value: Value | undefined): Value => b.op("Reshape", [value, b.constant("flat", Tensor.int64([-1]))]);
    return b.op("Concat", [flat(last), flat(all)], { attributes: { axis: 0 } });
  },
});

export const CONTROL_CASES: readonly GradientCase[] = [
  conditional("whose first branch is taken", "then"),
  conditional("whose second branch is taken", "else"),
  {
    name: "If inside If, with a known condition inside",
    inputs: [of(3), of(3)],
    build: (b, [x, w]) => {
      const condition = b.op("Greater", [
        b.op("ReduceMax", [x], { attributes: { keepdims: 0 } }),
        b.op("ReduceMin", [x], { attributes: { keepdims: 0 } }),
      ]);
      const inner = (outer: Builder): Value =>
        outer.op("If", [outer.constant("yes", bool(1))], {
          attributes: {
            then_branch: body(outer.graph, "inner_then", (t) => [t.op("Mul", [x, w])]),
            else_branch: body(outer.graph, "inner_else", (t) => [t.op("Neg", [w])]),
          },
        });
      return b.op("If", [condition], {
        attributes: {
          then_branch: body(b.graph, "then", (t) => [t.op("Mul", [inner(t), w])]),
          else_branch: body(b.graph, "else", (t) => [t.op("Neg", [x])]),
        },
      });
    },
  },
  loop("once", 1),
  loop("three times, with stacked outputs", 3),
  scan("forwards", 0, 0),
  scan("backwards along the last axis", 1, 1),
];
