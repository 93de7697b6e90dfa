/** Laws of the gradient over random networks: that of a sum is the sum of the gradients, of a multiple the multiple; shared weights count each use. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { grad } from "../../src/train/grad.ts";

const UNARY: readonly string[] = ["Tanh", "Sigmoid", "Relu", "Neg", "Sin", "Abs", "Softmax", "LayerNormalization"];
const BINARY: readonly string[] = ["Add", "Sub", "Mul", "Max", "MatMul"];

/** One node: an operator on values made before, by position in the list of values. */
type Step = readonly [op: number, left: number, right: number];

const steps = fc.array(fc.tuple(fc.nat(99), fc.nat(99), fc.nat(99)), { minLength: 2, maxLength: 8 });

/** Two losses over one network of random operators on a matrix x (3, 3), a row w (3) and a column v (3, 1), all used many times. */
function network(program: readonly Step[], factor: number): Model {
  const model = new Model(undefined, 21, 10);
  const b = new Builder(model.graph);
  const x = b.input("x", "float64", [3, 3]);
  const w = b.constant("w", Tensor.of("float64", [3], Float64Array.of(0.3, -0.7, 1.1)));
  const v = b.constant("v", Tensor.of("float64", [3, 1], Float64Array.of(-0.4, 0.9, 0.2)));
  const values: Value[] = [b.op("Mul", [x, w]), b.op("Add", [x, v])];
  const parts = [w, v, x];
  for (const [op, left, right] of program) {
    const all = [...values, ...parts];
    const pick = (i: number): Value => all[i % all.length] as Value;
    const whole = values[left % values.length] as Value; // (3, 3)
    const kind = [...UNARY, ...BINARY][op % (UNARY.length + BINARY.length)] as string;
    if (kind === "MatMul") values.push(b.op(kind, [whole, values[right % values.length]]));
    else if (kind === "LayerNormalization") values.push(b.op(kind, [whole, w]));
    else values.push(b.op(kind, BINARY.includes(kind) ? [whole, pick(right)] : [whole]));
  }
  const total = (value: Value | undefined): Value => b.op("ReduceMean", [value], { attributes: { keepdims: 0 } });
  const [first, second] = [total(values.at(-1)), total(b.op("Mul", [values.at(-2), values[1]]))];
  b.output(first, "first");
  b.output(second, "second");
  const scale = b.constant("factor", Tensor.of("float64", [], Float64Array.of(factor)));
  b.output(b.op("Add", [b.op("Mul", [first, scale]), second]), "both");
  return model;
}

async function gradients(model: Model, of: string): Promise<number[]> {
  const session = await openSession(grad(model, { of, wrt: ["x", "w", "v"] }), { inProcess: true, threads: 1 });
  const data = Float64Array.from({ length: 9 }, (_, i) => Math.sin(1 + 2.3 * i));
  const outputs = await session.run({ x: { dtype: "float64", shape: [3, 3], data } });
  await session.close();
  return ["x_grad", "w_grad", "v_grad"].flatMap((name) => Array.from(outputs[name]?.data as Float64Array));
}

/** Largest difference between the gradient of factor·first + second and the same sum of gradients, relative to the largest. */
async function violation(program: readonly Step[], factor: number, wrongFactor = factor): Promise<number> {
  const model = network(program, factor);
  const [both, first, second] = await Promise.all(["both", "first", "second"].map((of) => gradients(model, of)));
  const size = Math.max(1e-3, ...(both as number[]).map(Math.abs));
  return Math.max(
    ...(both as number[]).map((g, i) => Math.abs(g - wrongFactor * (first?.[i] ?? 0) - (second?.[i] ?? 0)) / size),
  );
}

describe("the gradient is linear", () => {
  test("in the loss, over random networks with shared weights and broadcasting", async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.double({ min: -3, max: 3, noNaN: true }), async (program, factor) => {
        // float64 sums in another order
        expect(await violation(program, factor)).toBeLessThan(1e-11);
      }),
      { numRuns: 40, seed: 7 },
    );
  });

  test("and a wrong factor would be noticed", async () => {
    expect(
      await violation(
        [
          [0, 0, 0],
          [8, 1, 3],
        ],
        2,
        2.001,
      ),
    ).toBeGreaterThan(1e-6);
  });
});
