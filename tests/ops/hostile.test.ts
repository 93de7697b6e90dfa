/** Operators called with absurd attributes and shapes: inference answers or reports, quickly, and never with an absurd size. */
import { describe, expect, it } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { Rng } from "../../src/base/rng.ts";
import type { Dim } from "../../src/base/shape.ts";
import type { Attribute } from "../../src/ir/attribute.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { axesOf } from "../../src/ops/axes.ts";
import { specOf } from "../../src/ops/registry.ts";
import { type OpCase, allCases, buildCase } from "../support/op-case.ts";

const NUMBERS = [0, -1, 1, 2, 3, 7, -9, 64, 2 ** 31, -(2 ** 31), 2 ** 53, -(2 ** 62), 1e18];
const DIMS: readonly Dim[] = [
  0,
  1,
  2,
  3,
  5,
  17,
  2 ** 31,
  2 ** 52,
  null,
  "n",
  "n + 1",
  "m*n",
  "-1*n",
  "floor((n",
  "broadcast(n, m)",
];
const MUTATIONS_PER_CASE = 20;

function pick<T>(rng: Rng, list: readonly T[]): T {
  return list[rng.below(list.length)] as T;
}

function list<T>(rng: Rng, from: readonly T[]): T[] {
  return Array.from({ length: rng.below(6) }, () => pick(rng, from));
}

function absurd(rng: Rng, attribute: Attribute): Attribute {
  switch (rng.below(4)) {
    case 0:
      return { type: "int", value: pick(rng, NUMBERS) };
    case 1:
      return { type: "ints", value: list(rng, NUMBERS) };
    case 2:
      return { type: "float", value: pick(rng, [Number.NaN, Number.POSITIVE_INFINITY, -0.5, 1e30]) };
    default:
      return rng.below(2) === 0 ? { type: "string", value: new TextEncoder().encode("...ii,->i") } : attribute;
  }
}

/** Changes attributes, declared shapes and small stored lists at random. */
function mutate(opCase: OpCase, rng: Rng): ReturnType<typeof buildCase> {
  const built = buildCase(opCase);
  const { node, model } = built;
  for (const [name, attribute] of node.attributes)
    if (rng.below(2) === 0) node.attributes.set(name, absurd(rng, attribute));
  for (const input of model.graph.inputs)
    if (rng.below(2) === 0) input.shape = rng.below(5) === 0 ? undefined : list(rng, DIMS);
  for (const value of model.graph.initializers.values())
    if (rng.below(3) === 0) {
      value.tensor = Tensor.int64(list(rng, NUMBERS));
      value.dtype = "int64";
      value.shape = value.tensor.shape;
    }
  if (rng.below(4) === 0) node.setInput(rng.below(node.inputs.length + 1), undefined);
  return built;
}

describe("hostile calls", () => {
  it("are answered or reported, never thrown", () => {
    const rng = new Rng(7);
    const internal = new Map<string, string>();
    let slowest = 0;
    for (const opCase of allCases())
      for (let i = 0; i < MUTATIONS_PER_CASE; i++) {
        const { model, node } = mutate(opCase, rng);
        const start = performance.now();
        const problems = inferShapes(model);
        slowest = Math.max(slowest, performance.now() - start);
        for (const { message } of problems) if (message.startsWith("internal")) internal.set(opCase.op, message);
        for (const { shape } of node.outputs)
          for (const dim of shape ?? [])
            expect(typeof dim !== "number" || (Number.isSafeInteger(dim) && dim >= 0), `${opCase.op} ${dim}`).toBe(
              true,
            );
        const { macs, bytesMoved } = costOf(model);
        expect(Number.isNaN(macs) || Number.isNaN(bytesMoved), opCase.op).toBe(false);
        const spec = specOf(node, opCase.domain ? 1 : opCase.opset);
        if (spec) axesOf(node, spec);
      }
    expect([...internal]).toEqual([]);
    expect(slowest).toBeLessThan(1000);
  });
});
