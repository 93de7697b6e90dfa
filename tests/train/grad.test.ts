/** The public gradient of a model: names, sums, paths in errors. */
import { describe, expect, test } from "vitest";
import { Builder } from "../../src/ir/builder.ts";
import { checkModel } from "../../src/ir/check.ts";
import { Graph } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { NdArray } from "../../src/run/session.ts";
import { grad } from "../../src/train/grad.ts";

async function run(model: Model, feeds: Record<string, readonly number[]>): Promise<Record<string, number[]>> {
  const session = await openSession(model, { inProcess: true });
  const arrays = Object.fromEntries(
    Object.entries(feeds).map(([name, data]): [string, NdArray] => [
      name,
      { dtype: "float32", shape: [data.length], data: Float32Array.from(data) },
    ]),
  );
  const outputs = await session.run(arrays);
  await session.close();
  return Object.fromEntries(
    Object.entries(outputs).map(([name, { data }]) => [name, Array.from(data as Float32Array)]),
  );
}

/** y = Σ w·x², z = Σ sin-free function of x; a side branch through `side` where given. */
function sample(): { model: Model; b: Builder } {
  const model = new Model();
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", [3]);
  const w = b.constant("w", Tensor.float32([3], [1, 2, 3]));
  const square = b.op("Mul", [x, x], { name: "square" });
  const y = b.op("ReduceSum", [b.op("Mul", [square, w])], { attributes: { keepdims: 0 } });
  b.output(y, "y");
  b.output(b.op("Exp", [x]), "z");
  return { model, b };
}

describe("grad", () => {
  test("of an input, an initializer and an inner value", async () => {
    const { model } = sample();
    const inner = model.graph.find("square")?.name ?? "";
    const result = await run(grad(model, { of: "y", wrt: ["x", "w", inner] }), { x: [1, -1, 2] });
    expect(result).toEqual({ y: [15], x_grad: [2, -4, 12], w_grad: [1, 1, 4], [`${inner}_grad`]: [1, 2, 3] });
  });

  test("of several elements is the gradient of their sum", async () => {
    const { model } = sample();
    const { x_grad } = await run(grad(model, { of: "z", wrt: ["x"] }), { x: [0, 1, 2] });
    expect(x_grad).toEqual([1, expect.closeTo(Math.E, 5), expect.closeTo(Math.E ** 2, 4)]);
  });

  test("of a sum is the sum of the gradients", async () => {
    const { model, b } = sample();
    const [y, z] = model.graph.outputs;
    b.output(b.op("Add", [y, b.op("ReduceSum", [z], { attributes: { keepdims: 0 } })]), "both");
    const feeds = { x: [0.5, -1, 2] };
    const [of, ofY, ofZ] = await Promise.all(
      ["both", "y", "z"].map(async (name) => (await run(grad(model, { of: name, wrt: ["x"] }), feeds))["x_grad"] ?? []),
    );
    expect(of).toEqual(ofY?.map((value, i) => expect.closeTo(value + (ofZ?.[i] ?? 0), 4)));
  });

  test("is zero for what the value does not depend on", async () => {
    const { model } = sample();
    const result = await run(grad(model, { of: "z", wrt: ["w", "x"] }), { x: [0, 0, 0] });
    expect(result["w_grad"]).toEqual([0, 0, 0]);
    expect(result["x_grad"]).toEqual([1, 1, 1]);
  });

  test("leaves the model alone and gives a sound one without idle nodes", () => {
    const { model } = sample();
    const nodes = model.graph.nodes.length;
    const gradient = grad(model, { of: "y", wrt: ["x"] });
    expect(model.graph.nodes).toHaveLength(nodes);
    expect(checkModel(gradient)).toEqual([]);
    expect(gradient.graph.nodes.some((node) => node.opType === "Exp")).toBe(false);
    const { outputs } = gradient.graph;
    for (const node of gradient.graph.nodes)
      expect(node.outputs.some((output) => output.uses.length > 0 || outputs.includes(output))).toBe(true);
  });

  test("names the value and its path where an operator has no gradient", () => {
    const { model, b } = sample();
    const [, z] = model.graph.outputs;
    const floor = b.op("CustomThing", [z], { domain: "example.org" });
    [floor.dtype, floor.shape] = ["float32", [3]];
    b.output(b.op("ReduceSum", [b.op("Relu", [floor])], { attributes: { keepdims: 0 } }), "end");
    expect(() => grad(model, { of: "end", wrt: ["x"] })).toThrow(
      /CustomThing has no gradient.*'z' -> CustomThing -> Relu -> ReduceSum -> 'end'/,
    );
    // Where no path needs it, the same operator is no obstacle.
    expect(() => grad(model, { of: "y", wrt: ["x"] })).not.toThrow();
  });

  test("names a loop whose number of iterations is not known", () => {
    const model = new Model();
    const b = new Builder(model.graph);
    const [x, trips] = [b.input("x", "float32", [3]), b.input("trips", "int64", [])];
    const body = new Graph("body", model.graph);
    const t = new Builder(body);
    t.input("i", "int64", []);
    const go = t.input("go", "bool", []);
    const state = t.input("state", "float32", [3]);
    body.outputs.push(t.op("Identity", [go]), t.op("Mul", [state, state]));
    const attributes = { body: { type: "graph", value: body } } as const;
    b.output(b.op("Loop", [trips, undefined, x], { name: "turns", attributes }), "y");
    expect(() => grad(model, { of: "y", wrt: ["x"] })).toThrow(/turns.*iterations of this Loop is not known/);
  });

  test("refuses names that the model lacks", () => {
    expect(() => grad(sample().model, { of: "y", wrt: ["nothing"] })).toThrow("no such value");
  });
});
