/** Checks a gradient rule: the gradient model in the engine against central differences in double precision. */
import type { TypedData } from "../../src/base/dtype.ts";
import { Rng } from "../../src/base/rng.ts";
import { elementCount } from "../../src/base/shape.ts";
import { Builder, type OpOptions } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { NdArray } from "../../src/run/session.ts";
import { grad, gradientName } from "../../src/train/grad.ts";

/** One input of the function under test. */
export interface Argument {
  readonly shape: readonly number[];
  /** Range of the drawn values; default [-1, 1]. */
  readonly low?: number;
  readonly high?: number;
  /** Fixed contents of an integer input, which has no gradient. */
  readonly ints?: readonly number[];
  /** Fixed contents of a float input. */
  readonly values?: readonly number[];
  /** False: no gradient is asked for. */
  readonly wanted?: boolean;
}

export interface GradientCase {
  readonly name: string;
  readonly inputs: readonly Argument[];
  readonly opset?: number;
  /** The function is linear: float32 differences with a step of 1 are exact to rounding, where float64 kernels are missing. */
  readonly linear?: boolean;
  /** Builds the function; the gradient of a random weighting of its first output is checked. */
  build(b: Builder, inputs: readonly Value[]): Value;
  /** The same function in other operators, for the double-precision side, where the engine lacks float64 kernels. */
  exact?(b: Builder, inputs: readonly Value[]): Value;
  /** The same function in plain TypeScript, elementwise on the first input. */
  scalar?(x: number): number;
  /** The same function in plain TypeScript. */
  reference?(inputs: readonly Float64Array[]): Float64Array;
}

/** `b.op` with the operator first: for cases that are one node. */
export function node(opType: string, options: OpOptions = {}): GradientCase["build"] {
  return (b, inputs) => b.op(opType, inputs, options);
}

type Dtype = "float32" | "float64";

function arrayOf(dtype: Dtype, shape: readonly number[], data: ArrayLike<number>): NdArray {
  return { dtype, shape, data: dtype === "float32" ? Float32Array.from(data) : Float64Array.from(data) };
}

/** A model of Σ weights·f(inputs); without weights, of f itself. */
function modelOf(
  test: GradientCase,
  dtype: Dtype,
  build: GradientCase["build"],
  weights: Float64Array | undefined,
  symbolic: boolean,
): Model {
  const model = new Model(undefined, test.opset ?? 21, 10);
  model.opsets.set("com.microsoft", 1);
  const b = new Builder(model.graph);
  const inputs = test.inputs.map((argument, i) => {
    if (argument.ints) return b.constant(`x${i}`, Tensor.int64(argument.ints, argument.shape));
    const shape = argument.shape.map((size, axis) =>
      symbolic && axis === 0 && size === test.inputs[0]?.shape[0] ? "n" : size,
    );
    return b.input(`x${i}`, dtype, shape);
  });
  const y = build(b, inputs);
  if (!weights) {
    b.output(y, "y");
    return model;
  }
  const scale = b.constant(
    "weights",
    Tensor.of(dtype, [weights.length], arrayOf(dtype, [], weights).data as TypedData),
  );
  const flat = b.op("Reshape", [y, b.constant("flat", Tensor.int64([-1]))]);
  const sum = b.op("ReduceSum", [b.op("Mul", [flat, scale])], { attributes: { keepdims: 0 } });
  [sum.dtype, sum.shape] = [dtype, []];
  b.output(sum, "loss");
  return model;
}

async function run(model: Model, feeds: Record<string, NdArray>): Promise<Record<string, NdArray>> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

const numbers = (array: NdArray | undefined): number[] => Array.from(array?.data as ArrayLike<number>);

/**
 * The largest error of the gradient, relative to the gradient's largest element, over all elements of all wanted inputs.
 * `symbolic` leaves the first axis open, of every input that has the first one's size there. `corrupt` changes the gradient first, for negative controls.
 */
export async function gradientError(
  test: GradientCase,
  options: { readonly seed?: number; readonly symbolic?: boolean; corrupt?(gradient: number[]): void } = {},
): Promise<number> {
  const rng = new Rng(options.seed ?? 1);
  const values = test.inputs.map(({ shape, low = -1, high = 1, values: fixed }) =>
    Float64Array.from({ length: elementCount(shape) }, (_, i) => fixed?.[i] ?? Math.fround(rng.uniform(low, high))),
  );
  const floats = test.inputs.flatMap((argument, i) => (argument.ints ? [] : [i]));
  const feeds = (dtype: Dtype, of: readonly Float64Array[]): Record<string, NdArray> =>
    Object.fromEntries(
      floats.map((i) => [`x${i}`, arrayOf(dtype, test.inputs[i]?.shape ?? [], of[i] as Float64Array)]),
    );

  const plain = await run(modelOf(test, "float32", test.build, undefined, false), feeds("float32", values));
  const weights = Float64Array.from({ length: plain["y"]?.data.length ?? 0 }, () => Math.fround(rng.uniform(-1, 1)));

  const exact = await exactLoss(test, weights, feeds);
  const wanted = floats.filter((i) => test.inputs[i]?.wanted !== false);
  const model = modelOf(test, "float32", test.build, weights, options.symbolic ?? false);
  const gradients = await run(grad(model, { of: "loss", wrt: wanted.map((i) => `x${i}`) }), feeds("float32", values));
  let worst = 0;
  for (const i of wanted) {
    const gradient = numbers(gradients[gradientName(`x${i}`)]);
    if (gradient.length !== values[i]?.length) return Number.POSITIVE_INFINITY;
    options.corrupt?.(gradient);
    const numeric: number[] = [];
    const step = test.linear ? 1 : 1e-5; // error of a central difference in float64: step² from curvature, 1e-16/step from rounding
    for (let k = 0; k < gradient.length; k++) {
      const moved = (by: number): Float64Array[] =>
        values.map((array, j) => (j === i ? array.map((value, at) => (at === k ? value + by : value)) : array));
      numeric.push(((await exact.loss(moved(step))) - (await exact.loss(moved(-step)))) / (2 * step));
    }
    const size = Math.max(1e-3, ...numeric.map(Math.abs));
    for (const [k, value] of numeric.entries()) worst = Math.max(worst, Math.abs(value - (gradient[k] ?? 0)) / size);
    if (gradient.some((value) => !Number.isFinite(value))) worst = Number.POSITIVE_INFINITY;
  }
  await exact.close();
  return worst;
}

/** Σ weights·f(x) in double precision: in the engine, or by the case's own formula. */
async function exactLoss(
  test: GradientCase,
  weights: Float64Array,
  feeds: (dtype: Dtype, of: readonly Float64Array[]) => Record<string, NdArray>,
): Promise<{ loss(of: readonly Float64Array[]): Promise<number>; close(): Promise<void> }> {
  const { scalar, reference } = test;
  const compute = reference ?? (scalar && ((of: readonly Float64Array[]) => (of[0] as Float64Array).map(scalar)));
  if (compute)
    return {
      loss: (of) => Promise.resolve(compute(of).reduce((sum, y, i) => sum + y * (weights[i] ?? 0), 0)),
      close: () => Promise.resolve(),
    };
  const dtype = test.linear ? "float32" : "float64";
  const session = await openSession(modelOf(test, dtype, test.exact ?? test.build, weights, false), {
    inProcess: true,
    threads: 1,
  });
  return {
    loss: async (of) => numbers((await session.run(feeds(dtype, of)))["loss"])[0] ?? Number.NaN,
    close: () => session.close(),
  };
}
