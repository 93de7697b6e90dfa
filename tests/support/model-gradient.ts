/** The gradient of a whole model's weights against central differences along random directions, in double precision. */
import { inferShapes } from "../../src/analyse/shapes.ts";
import { Rng } from "../../src/base/rng.ts";
import { elementCount } from "../../src/base/shape.ts";
import { Builder } from "../../src/ir/builder.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Value } from "../../src/ir/graph.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { Feeds, NdArray } from "../../src/run/session.ts";
import { indexRanges, syntheticFeeds } from "../../src/run/synthetic.ts";
import { dependents } from "../../src/train/dependents.ts";
import { grad, gradientName } from "../../src/train/grad.ts";
import { trainableParameters } from "../../src/train/parameters.ts";
import { openDouble } from "./retype.ts";

/**
 * Steps relative to a tensor's root mean square, each a quarter of the one before, and the relative rounding error of an output
 * of some layers: in double precision, and where some operator computes in single precision.
 */
const DOUBLE = { steps: [20, 22, 24].map((power) => 2 ** -power), epsilon: 2 ** -48 };
const SINGLE = { steps: [4, 6, 8, 10, 12, 14].map((power) => 2 ** -power), epsilon: 2 ** -22 };

export interface CheckedTensor {
  readonly name: string;
  /** |central difference − gradient·direction| relative to the size of either. */
  readonly error: number;
  /** By how much two steps of the central difference disagree, relative to the same: what it is worth. */
  readonly doubt: number;
}

export interface ModelGradient {
  readonly parameters: number;
  /** Operators that computed in single precision on the side of the differences. */
  readonly single: readonly string[];
  readonly checked: readonly CheckedTensor[];
  readonly nodes: { readonly forward: number; readonly gradient: number };
}

export interface CheckOptions {
  readonly feeds?: Feeds;
  readonly dims?: Readonly<Record<string, number>>;
  /** Input sizes stay as open as the file says, where the engine refuses a model whose sizes are all known. */
  readonly open?: boolean;
  /** Name of the output to differentiate; default: the first of float32. */
  readonly output?: string;
  /** The gradient is computed in double precision too: for models whose own arithmetic loses digits in float32. */
  readonly exact?: boolean;
  /** Tensors to check; default 4, drawn at random. */
  readonly sample?: number;
  /** Changes a gradient first, for negative controls. */
  corrupt?(gradient: Float64Array): void;
}

/** Sizes of all inputs fixed to those of the feeds. */
function fixInputs(model: Model, options: CheckOptions): Feeds {
  const inputs = model.graph.inputs.filter((input) => !input.tensor);
  const ports = inputs.map(({ name, dtype, shape }) => ({ name, dtype: dtype ?? "float32", shape: shape ?? [] }));
  const feeds = options.feeds ?? syntheticFeeds(ports, { ranges: indexRanges(model), dims: options.dims });
  if (options.open) return feeds;
  for (const input of inputs) input.shape = feeds[input.name]?.shape ?? [];
  for (const node of model.graph.allNodes()) for (const output of node.outputs) output.shape = undefined;
  return feeds;
}

/** A model without weights to learn is differentiated with respect to its float inputs. */
function variables(model: Model): Value[] {
  const weights = trainableParameters(model);
  return weights.length > 0
    ? weights
    : model.graph.inputs.filter(
        (input) => input.dtype === "float32" && elementCount((input.shape ?? []) as number[]) > 0,
      );
}

/** The named output or the first of float32; where there is none, the last float32 value that the variables change. */
function differentiableOutput(model: Model, name: string | undefined): Value {
  const { graph } = model;
  const known = graph.outputs.find(
    (output) => output.dtype === "float32" && (name === undefined || output.name === name),
  );
  if (known) return known;
  const moving = dependents(graph, variables(model));
  const last = graph.nodes
    .flatMap((node) => node.outputs)
    .findLast((value) => value.dtype === "float32" && moving.has(value));
  if (!last) throw new Error("no float32 value depends on a weight");
  graph.outputs.push(last);
  return last;
}

function inputNamed(model: Model, name: string): Value {
  return model.graph.inputs.find((input) => input.name === name) as Value;
}

const doubled = (feeds: Feeds): Feeds =>
  Object.fromEntries(
    Object.entries(feeds).map(([name, array]) =>
      array.dtype === "float32"
        ? [name, { ...array, dtype: "float64", data: Float64Array.from(array.data as Float32Array) }]
        : [name, array],
    ),
  );

const numbers = (array: NdArray | undefined): Float64Array => Float64Array.from(array?.data as Float32Array);

/**
 * A tensor that changes the output by less than this part of it when all its elements change by their own size has, to single
 * precision, no influence: a row of two numbers, for one, is ±1 once it is normalized. Its gradient is compared with zero.
 */
const NO_INFLUENCE = 1e-4;

/** Builds the gradient of a fixed random weighting of the first float output, runs it, and compares. Throws where it cannot be built. */
export async function checkModelGradient(original: Model, options: CheckOptions = {}): Promise<ModelGradient> {
  const model = cloneModel(original);
  const feeds = fixInputs(model, options);
  inferShapes(model);
  const rng = new Rng(5);
  const y = differentiableOutput(model, options.output);
  const all = variables(model).filter((value) => dependents(model.graph, [value]).has(y));
  const names = all.map((value) => value.name);
  const chosen = rng.shuffle(names.map((_, i) => i)).slice(0, options.sample ?? 4);

  // What is varied becomes an input of the forward model.
  const forward = cloneModel(model);
  const values = new Map<string, NdArray>();
  for (const index of chosen) {
    const name = names[index] as string;
    const value = [...forward.graph.values()].find((each) => each.name === name) as Value;
    if (!value.tensor) {
      values.set(name, feeds[name] as NdArray);
      continue;
    }
    values.set(name, { dtype: "float32", shape: value.tensor.shape, data: await value.tensor.data() });
    value.tensor = undefined;
    forward.graph.initializers.delete(name);
    if (!forward.graph.inputs.includes(value)) forward.graph.inputs.push(value);
  }
  const out = forward.graph.outputs[model.graph.outputs.indexOf(y)] as Value;
  forward.graph.outputs.splice(0, forward.graph.outputs.length, out);
  for (const [name, value] of values) inputNamed(forward, name).shape = [...value.shape];
  const { session, single } = await openDouble(forward);
  const { steps, epsilon } = single.length > 0 ? SINGLE : DOUBLE;
  try {
    const base = doubled({ ...feeds, ...Object.fromEntries(values) });
    const plain = numbers((await session.run(base))[y.name]);
    const weights = Float32Array.from(plain, () => rng.normal());
    const scale = Math.sqrt(plain.reduce((sum, v, i) => sum + (v * (weights[i] ?? 0)) ** 2, 0));
    const differentiated = cloneModel(model);
    const { loss } = addLoss(differentiated, y.name, weights);
    const gradientModel = grad(differentiated, { of: loss, wrt: chosen.map((index) => names[index] as string) });
    const gradients = await (options.exact ? runDouble(gradientModel, feeds) : runOnce(gradientModel, feeds));
    const checked: CheckedTensor[] = [];
    for (const index of chosen) {
      const name = names[index] as string;
      const array = values.get(name) as NdArray;
      const gradient = numbers(gradients[gradientName(name)]);
      options.corrupt?.(gradient);
      const value = numbers(array);
      const size = Math.sqrt(value.reduce((sum, x) => sum + x * x, 0) / value.length) || 1;
      const direction = Float64Array.from(value, () => size * rng.normal());
      const slope = async (step: number): Promise<number> => {
        const at = async (sign: number): Promise<Float64Array> => {
          const data = Float64Array.from(value, (x, i) => x + sign * step * (direction[i] ?? 0));
          return numbers((await session.run({ ...base, [name]: { ...array, dtype: "float64", data } }))[y.name]);
        };
        const [high, low] = [await at(1), await at(-1)];
        return high.reduce((sum, v, i) => sum + (v - (low[i] ?? 0)) * (weights[i] ?? 0), 0) / (2 * step);
      };
      const slopes: number[] = [];
      for (const step of steps) slopes.push(await slope(step));
      checked.push({ name, ...judged({ steps, slopes, epsilon, scale }, gradient, direction) });
    }
    return {
      single,
      parameters: all.reduce((sum, value) => sum + elementCount((value.shape ?? []) as number[]), 0),
      checked,
      nodes: { forward: [...original.graph.allNodes()].length, gradient: [...gradientModel.graph.allNodes()].length },
    };
  } finally {
    await session.close();
  }
}

/**
 * The two neighbouring steps that agree best, rounding of the outputs counted in, are extrapolated (Richardson) and compared
 * with the gradient along the direction.
 */
function judged(
  measured: {
    readonly steps: readonly number[];
    readonly slopes: readonly number[];
    readonly epsilon: number;
    readonly scale: number;
  },
  gradient: Float64Array,
  direction: Float64Array,
): { error: number; doubt: number } {
  const { steps, slopes, epsilon, scale } = measured;
  const rounding = epsilon * scale;
  let best = { doubt: Number.POSITIVE_INFINITY, slope: Number.NaN };
  // Two of three may agree by chance where a kink lies between: the next coarser step counts too.
  for (let i = 1; i + 1 < slopes.length; i++) {
    const [before, coarse, fine] = slopes.slice(i - 1, i + 2) as [number, number, number];
    const doubt =
      Math.max(Math.abs(before - coarse) / 4, Math.abs(coarse - fine)) + rounding / (steps[i + 1] as number);
    if (doubt < best.doubt) best = { doubt, slope: (16 * fine - coarse) / 15 };
  }
  let along = 0;
  let square = 0;
  for (const [i, g] of gradient.entries()) {
    const part = g * (direction[i] ?? 0);
    along += part;
    square += part * part;
  }
  const size = Math.max(Math.abs(best.slope), Math.sqrt(square), NO_INFLUENCE * scale);
  if (size === 0) return { error: 0, doubt: 0 };
  return { error: Math.abs(best.slope - along) / size, doubt: best.doubt / size };
}

function addLoss(model: Model, output: string, weights: Float32Array): { readonly loss: string } {
  const b = new Builder(model.graph, { prefix: "check/" });
  const y = model.graph.outputs.find((each) => each.name === output) as Value;
  const flat = b.op("Reshape", [y, b.constant("flat", Tensor.int64([-1]))]);
  const scale = b.constant("weights", Tensor.float32([weights.length], weights));
  const sum = b.op("ReduceSum", [b.op("Mul", [flat, scale])], { attributes: { keepdims: 0 } });
  [sum.dtype, sum.shape] = ["float32", []];
  b.output(sum, "check/loss");
  return { loss: sum.name };
}

async function runDouble(model: Model, feeds: Feeds): Promise<Record<string, NdArray>> {
  const { session } = await openDouble(model);
  try {
    return await session.run(doubled(feeds));
  } finally {
    await session.close();
  }
}

async function runOnce(model: Model, feeds: Feeds): Promise<Record<string, NdArray>> {
  const needed = Object.fromEntries(
    model.graph.inputs.flatMap(({ name }) => (feeds[name] ? [[name, feeds[name]]] : [])),
  );
  const session = await openSession(model, { inProcess: true, threads: 1, optimize: "basic" });
  try {
    return await session.run(needed as Feeds);
  } finally {
    await session.close();
  }
}
