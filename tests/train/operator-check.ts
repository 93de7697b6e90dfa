/** Checks the gradient rule of one operator call given as data: against central differences in double precision, in three dtypes, with open axes. */
import { inferShapes } from "../../src/analyse/shapes.ts";
import { type DType, type TypedData, isFloat } from "../../src/base/dtype.ts";
import { PareError } from "../../src/base/error.ts";
import { float16ToFloat32, float32ToFloat16 } from "../../src/base/half.ts";
import { Rng } from "../../src/base/rng.ts";
import { elementCount } from "../../src/base/shape.ts";
import { Builder } from "../../src/ir/builder.ts";
import type { Node, Value } from "../../src/ir/graph.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { activation } from "../../src/ops/activation.ts";
import { contrib } from "../../src/ops/contrib.ts";
import { conv } from "../../src/ops/conv.ts";
import { elementwise } from "../../src/ops/elementwise.ts";
import type { OpTable } from "../../src/ops/helpers.ts";
import { loss } from "../../src/ops/loss.ts";
import { matmul } from "../../src/ops/matmul.ts";
import { normalization } from "../../src/ops/normalization.ts";
import { pooling } from "../../src/ops/pooling.ts";
import { reduction } from "../../src/ops/reduction.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { NdArray } from "../../src/run/session.ts";
import { type GradOptions, grad, gradientName } from "../../src/train/grad.ts";
import { convertOpset } from "../../src/transform/opset.ts";
import { type OpCase, buildCase } from "../support/op-case.ts";
import type { Nd } from "./references/arrays.ts";
import { REFERENCES } from "./references/references.ts";

export const nameOf = (opCase: OpCase): string => (opCase.domain ? `${opCase.domain}::${opCase.op}` : opCase.op);

const { Cast: _cast, CastLike: _castLike, ...arithmetic } = elementwise;
const { TopK: _topK, ...reductions } = reduction;

/** Families whose every case in tests/ops is checked. */
export const ARITHMETIC: OpTable = {
  ...arithmetic,
  ...activation,
  ...contrib,
  ...conv,
  ...loss,
  ...matmul,
  ...normalization,
  ...pooling,
  ...reductions,
};

/** Outputs that a gradient flows into, where it is not the first alone. */
const OUTPUTS: Readonly<Record<string, readonly number[]>> = {
  "com.microsoft::SkipLayerNormalization": [0, 3],
  "com.microsoft::SkipSimplifiedLayerNormalization": [0, 3],
  SoftmaxCrossEntropyLoss: [0, 1],
  Split: [0, 1, 2],
};

type Float = "float16" | "float32" | "float64";

function arrayOf(dtype: Float, { shape, data }: Nd): NdArray {
  if (dtype === "float16") return { dtype, shape, data: float32ToFloat16(Float32Array.from(data)) };
  return { dtype, shape, data: dtype === "float32" ? Float32Array.from(data) : Float64Array.from(data) };
}

function numbers(array: NdArray | undefined): number[] {
  if (!array) return [];
  if (array.dtype === "float16") return Array.from(float16ToFloat32(array.data as Uint16Array));
  return Array.from<unknown, number>(array.data as unknown as ArrayLike<unknown>, Number);
}

/** The engine's message, where a model does not run. */
async function run(model: Model, feeds: Record<string, NdArray>): Promise<Record<string, NdArray>> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

/** A call with its float inputs as numbers. */
interface Call {
  readonly opCase: OpCase;
  readonly seed: number;
  /** By input; undefined for absent and integer inputs. */
  readonly floats: readonly (Nd | undefined)[];
  /** Every input as numbers. */
  readonly all: readonly (Nd | undefined)[];
  readonly outputs: readonly number[];
}

/** Draws the inputs of a case; float ones are rounded to float32. */
function callOf(opCase: OpCase, seed: number): Call {
  const { node, feeds } = buildCase(opCase, seed);
  const all = opCase.inputs.map((input, i): Nd | undefined => {
    if (!input) return undefined;
    const value = node.inputs[i] as Value;
    const data = value.tensor ? value.tensor.peekNumbers() : feeds[value.name]?.data;
    return { shape: input.shape, data: Float64Array.from(data as ArrayLike<number>, Number) };
  });
  const outputs = (OUTPUTS[nameOf(opCase)] ?? [0]).filter((i) => i < (opCase.outputs ?? 1));
  const training = opCase.op === "BatchNormalization" && opCase.attributes?.["training_mode"] === 1;
  return {
    opCase,
    seed,
    all,
    floats: all.map((nd, i) => (isFloat(opCase.inputs[i]?.dtype ?? "int64") ? nd : undefined)),
    outputs: training ? [0, 1, 2].slice(0, opCase.outputs ?? 1) : outputs,
  };
}

/** The case's model in a float dtype, every float input fed, integer ones constant; with weights, of Σ weights·outputs. */
function modelOf(call: Call, dtype: Float, weights?: readonly Nd[], open: "none" | "first" | "all" = "none"): Model {
  const { model, node } = buildCase(call.opCase, call.seed);
  const { graph } = model;
  const lead = call.floats.find((nd) => nd && nd.shape.length > 0)?.shape[0];
  for (const [i, nd] of call.all.entries()) {
    const value = node.inputs[i];
    if (!value || !nd) continue;
    if (call.floats[i]) {
      if (value.tensor) graph.removeInitializer(value);
      if (!graph.inputs.includes(value)) graph.inputs.push(value);
      value.dtype = dtype;
      value.shape = nd.shape.map((size, axis) => {
        if (open === "all") return `x${i}d${axis}`;
        return open === "first" && axis === 0 && size === lead && size > 1 ? "n" : size;
      });
    } else if (!value.tensor) {
      const { dtype: own, shape } = call.opCase.inputs[i] as { dtype: DType; shape: readonly number[] };
      const data = buildCase(call.opCase, call.seed).feeds[value.name]?.data as TypedData;
      graph.inputs.splice(graph.inputs.indexOf(value), 1);
      const constant = graph.addInitializer(`${value.name}_constant`, Tensor.of(own, shape, data));
      node.setInput(i, constant);
    }
  }
  inferShapes(model);
  if (!weights) return model;
  const b = new Builder(graph);
  const terms = call.outputs.map((index, i) => {
    const flat = b.op("Reshape", [node.outputs[index], b.constant("flat", Tensor.int64([-1]))]);
    const weight = b.input(`weights${i}`, dtype, [null]);
    const sum = b.op("MatMul", [flat, weight]);
    [sum.dtype, sum.shape] = [dtype, []];
    return sum;
  });
  const loss = terms.length === 1 ? (terms[0] as Value) : b.op("Sum", terms);
  [loss.dtype, loss.shape] = [dtype, []];
  graph.outputs.splice(0, graph.outputs.length);
  b.output(loss, "loss");
  return model;
}

function feedsOf(call: Call, dtype: Float, floats: readonly (Nd | undefined)[] = call.floats): Record<string, NdArray> {
  return Object.fromEntries(floats.flatMap((nd, i) => (nd ? [[`x${i}`, arrayOf(dtype, nd)]] : [])));
}

function weighing(dtype: Float, weights: readonly Nd[]): Record<string, NdArray> {
  return Object.fromEntries(weights.map((nd, i) => [`weights${i}`, arrayOf(dtype, nd)]));
}

/** Σ weights·outputs in double precision, and how far the reference is from what the engine computes in float32. */
interface Exact {
  loss(floats: readonly (Nd | undefined)[]): Promise<number>;
  close(): Promise<void>;
  /** Largest error of the plain reference against the engine; undefined where the engine itself computes in float64. */
  readonly forwardError: number | undefined;
}

async function exactOf(call: Call, weights: readonly Nd[], plain: readonly number[][], node: Node): Promise<Exact> {
  const reference = REFERENCES[nameOf(call.opCase)];
  if (!reference) {
    const session = await openSession(modelOf(call, "float64", weights), { inProcess: true, threads: 1 });
    return {
      loss: async (floats) =>
        numbers(
          (await session.run({ ...feedsOf(call, "float64", floats), ...weighing("float64", weights) }))["loss"],
        )[0] ?? Number.NaN,
      close: () => session.close(),
      forwardError: undefined,
    };
  }
  const compute = (floats: readonly (Nd | undefined)[]): readonly (Nd | undefined)[] => {
    const outputs = reference(
      node,
      call.all.map((nd, i) => floats[i] ?? nd),
      call.opCase.opset,
    );
    return call.outputs.map((index) => outputs[index]);
  };
  let forwardError = 0;
  for (const [i, output] of compute(call.floats).entries()) {
    const own = plain[i] as number[];
    const size = Math.max(1, ...own.map(Math.abs));
    if (output?.data.length !== own.length) forwardError = Number.POSITIVE_INFINITY;
    for (const [k, value] of own.entries())
      forwardError = Math.max(forwardError, Math.abs(value - (output?.data[k] ?? Number.NaN)) / size);
  }
  return {
    loss: (floats) =>
      Promise.resolve(
        compute(floats).reduce(
          (sum, output, i) => (output as Nd).data.reduce((part, y, k) => part + y * (weights[i]?.data[k] ?? 0), sum),
          0,
        ),
      ),
    close: () => Promise.resolve(),
    forwardError: Number.isNaN(forwardError) ? Number.POSITIVE_INFINITY : forwardError,
  };
}

/** Elements of each input that are moved one by one; of larger inputs a random choice, and random directions beside. */
const SINGLE_ELEMENTS = 40;
const DIRECTIONS = 3;

/** Error of a central difference in double precision: step² from curvature, 1e-16/step from rounding. */
const STEP = 1e-5;

export interface Report {
  /** Largest error of the float32 gradient, relative to the gradient's largest element. */
  readonly error: number;
  readonly forwardError: number | undefined;
  /** The same for the float64 gradient; undefined where the engine has no float64 kernel of the operator itself. */
  readonly error64: number | undefined;
  /** Largest difference of the float16 gradient; undefined where the engine does not run the operator in float16. */
  readonly error16: number | string | undefined;
  /** Largest difference of the gradient with an open first axis. */
  readonly openFirst: number | string;
  /** The same with every axis open, or the message with which that was refused. */
  readonly openAll: number | string;
}

/** Differentiable inputs of an operator whose float inputs do not all have a gradient. */
export type Wanted = (input: number) => boolean;

export async function checkOperator(
  opCase: OpCase,
  options: { seed?: number; wanted?: Wanted; corrupt?(gradient: number[]): void; quick?: boolean } = {},
): Promise<Report> {
  const seed = options.seed ?? 1;
  const rng = new Rng(seed).fork("weights");
  const call = callOf(opCase, seed);
  const model = modelOf(call, "float32");
  const node = model.graph.nodes[0] as Node;
  const outputs = await run(model, feedsOf(call, "float32"));
  const plain = call.outputs.map((index) => numbers(outputs[node.outputs[index]?.name ?? ""]));
  const weights = plain.map(
    (y): Nd => ({ shape: [y.length], data: Float64Array.from(y, () => Math.fround(rng.uniform(-1, 1))) }),
  );
  const wanted = call.floats.flatMap((nd, i) => (nd && (options.wanted?.(i) ?? true) ? [i] : []));
  const gradients = async (dtype: Float, open: "none" | "first" | "all" = "none"): Promise<number[][]> => {
    const gradient = gradOf(modelOf(call, dtype, weights, open), {
      of: "loss",
      wrt: wanted.map((i) => `x${i}`),
    });
    const results = await run(gradient, { ...feedsOf(call, dtype), ...weighing(dtype, weights) });
    return wanted.map((i) => numbers(results[gradientName(`x${i}`)]));
  };
  const own = await gradients("float32");
  for (const gradient of own) options.corrupt?.(gradient);
  const exact = await exactOf(call, weights, plain, node);
  const has64 = options.quick !== true && (await opens(modelOf(call, "float64")));
  const double = has64 ? await gradients("float64") : undefined;
  let [error, error64] = [0, 0];
  for (const [k, i] of wanted.entries()) {
    const { shape, data } = call.floats[i] as Nd;
    const difference = async (direction: ReadonlyMap<number, number>): Promise<number> => {
      const moved = (by: number): (Nd | undefined)[] =>
        call.floats.map((nd, j) => {
          if (j !== i || !nd) return nd;
          const copy = nd.data.slice();
          for (const [at, amount] of direction) copy[at] = (copy[at] ?? 0) + by * amount;
          return { shape, data: copy };
        });
      return ((await exact.loss(moved(STEP))) - (await exact.loss(moved(-STEP)))) / (2 * STEP);
    };
    const directions = probes(data.length, rng);
    const size = Math.max(1e-3, ...(own[k] as number[]).map(Math.abs));
    for (const direction of directions) {
      const truth = await difference(direction);
      const along = (gradient: readonly number[]): number =>
        [...direction].reduce((sum, [at, amount]) => sum + amount * (gradient[at] ?? Number.NaN), 0);
      const scale = size * Math.sqrt(direction.size);
      error = worst(error, Math.abs(truth - along(own[k] as number[])) / scale);
      if (double) error64 = worst(error64, Math.abs(truth - along(double[k] as number[])) / scale);
    }
    if (own[k]?.length !== elementCount(shape)) error = Number.POSITIVE_INFINITY;
  }
  await exact.close();
  const against = async (dtype: Float, open: "none" | "first" | "all"): Promise<number | string> => {
    if (options.quick) return 0;
    try {
      return distance(own, await gradients(dtype, open));
    } catch (cause) {
      return cause instanceof Error ? cause.message : String(cause);
    }
  };
  const half =
    options.quick !== true && (await opens(modelOf(call, "float16"))) ? await against("float16", "none") : undefined;
  return {
    error,
    error64: double && error64,
    error16: half,
    forwardError: exact.forwardError,
    openFirst: await against("float32", "first"),
    openAll: await against("float32", "all"),
  };
}

const worst = (a: number, b: number): number => (Number.isNaN(b) ? Number.POSITIVE_INFINITY : Math.max(a, b));

async function opens(model: Model): Promise<boolean> {
  try {
    await (await openSession(model, { inProcess: true, threads: 1 })).close();
    return true;
  } catch {
    return false;
  }
}

/** The oldest opset in which every gradient can be written; training converts older models to it. */
const TRAINING_OPSET = 17;

/** The gradient at the model's own opset, or at a newer one where a rule says that it needs it. */
function gradOf(model: Model, options: GradOptions): Model {
  try {
    return grad(model, options);
  } catch (cause) {
    if (model.opset >= TRAINING_OPSET || !(cause instanceof PareError && /needs opset/.test(cause.message)))
      throw cause;
    convertOpset(model, TRAINING_OPSET);
    return grad(model, options);
  }
}

/** Directions in which an input is moved: single elements, and dense random ones. */
function probes(count: number, rng: Rng): ReadonlyMap<number, number>[] {
  const single = count <= SINGLE_ELEMENTS ? Array.from({ length: count }, (_, at) => at) : [];
  while (single.length < Math.min(count, SINGLE_ELEMENTS)) single.push(rng.below(count));
  const dense = Array.from(
    { length: DIRECTIONS },
    () => new Map(Array.from({ length: count }, (_, at) => [at, rng.uniform(-1, 1)] as const)),
  );
  return [...single.map((at) => new Map([[at, 1]])), ...dense];
}

/** The largest difference, relative to each gradient's largest element. */
function distance(a: readonly number[][], b: readonly number[][]): number {
  let result = 0;
  for (const [i, gradient] of a.entries()) {
    const size = Math.max(1e-3, ...gradient.map(Math.abs));
    if (gradient.length !== b[i]?.length) return Number.POSITIVE_INFINITY;
    for (const [k, value] of gradient.entries())
      result = worst(result, Math.abs(value - (b[i]?.[k] ?? Number.NaN)) / size);
  }
  return result;
}
