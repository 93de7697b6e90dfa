/** Gradients of reductions over axes; the axes may be known, or found while the graph runs. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import {
  add,
  axisOf,
  concreteShape,
  constantArray,
  div,
  expandLike,
  indicator,
  ints,
  mul,
  needsOpset,
  rankOf,
  reduceSum,
  scalar,
  scale,
  sizeOf,
  sub,
  transpose,
  unsqueeze,
} from "./words.ts";

/** The reduced axes: counted from the front and sorted, or a value that holds them while the graph runs. */
type Axes = readonly number[] | Value;

const isKnown = (axes: Axes): axes is readonly number[] => Array.isArray(axes);

function axesOf(c: GradContext): Axes {
  const { node } = c;
  const input = node.inputs[1];
  const given = node.ints("axes") ?? (input && (input.tensor?.peekNumbers() ?? c.contents(input)));
  if (!given && input) return input;
  const rank = rankOf(node, node.inputs[0]);
  if (given && given.length > 0) return given.map((axis) => axisOf(axis, rank)).sort((a, b) => a - b);
  if (node.int("noop_with_empty_axes", 0) !== 0) return [];
  return Array.from({ length: rank }, (_, axis) => axis);
}

/** The contents of an axes input, which must be the same at every run. */
export function constantInts(c: GradContext, value: Value): readonly number[] {
  const numbers = value.tensor?.peekNumbers() ?? c.contents(value);
  if (numbers) return numbers;
  throw new PareError("not-differentiable", `The axes '${value.name}' are computed while the graph runs`, {
    where: `node '${c.node.name}' (${c.node.opType})`,
    help: "Give the inputs fixed sizes, or run 'simplify' first: it folds what is constant",
  });
}

/** A value of the reduced shape, with the reduced axes put back as size 1 (or none at all where all were dropped at run time). */
function keptDims(c: GradContext, value: Value, axes: Axes): Value {
  if (c.node.int("keepdims", 1) !== 0) return value;
  return isKnown(axes) ? unsqueeze(c, value, axes) : c.b.op("Unsqueeze", [value, axes]);
}

/** Σ over the same axes as the node's, with the axes kept. */
function sumSame(c: GradContext, x: Value, axes: Axes): Value {
  if (isKnown(axes)) return reduceSum(c, x, axes, true);
  if (c.opset < 13) throw needsOpset(c, 13);
  const attributes = { keepdims: 1, noop_with_empty_axes: c.node.int("noop_with_empty_axes", 0) };
  return c.b.op("ReduceSum", [x, axes], { attributes });
}

/** The number of elements summed into each output: a constant, or a quotient of sizes found while the graph runs. */
function perGroup(c: GradContext, gradient: Value, axes: Axes): Value {
  const x = c.node.inputs[0] as Value;
  const sizes = isKnown(axes) ? axes.map((axis) => x.shape?.[axis]) : [null];
  if (sizes.every((size) => typeof size === "number"))
    return scale(c, gradient, 1 / (sizes as number[]).reduce((n, size) => n * size, 1), x.dtype);
  return div(c, gradient, div(c, sizeOf(c, x, x.dtype), sizeOf(c, c.node.outputs[0] as Value, x.dtype)));
}

const input = (c: GradContext): Value => c.node.inputs[0] as Value;
const output = (c: GradContext): Value => c.node.outputs[0] as Value;
const flow = (c: GradContext): Value => c.outputGrad(0) as Value;

// y = Σ x: ∂x = g, repeated along the summed axes
export const reduceSumGrad: Grad = (c) => [expandLike(c, keptDims(c, flow(c), axesOf(c)), input(c))];

// y = (1/n)Σ x: ∂x = g/n, repeated
export const reduceMeanGrad: Grad = (c) => {
  const axes = axesOf(c);
  return [expandLike(c, perGroup(c, keptDims(c, flow(c), axes), axes), input(c))];
};

// y = max x (or min): ∂x = g·[x = y]/#{x = y}
export const reduceExtremumGrad: Grad = (c) => {
  const axes = axesOf(c);
  const hit = indicator(c, c.b.op("Equal", [input(c), keptDims(c, output(c), axes)]), input(c).dtype);
  return [mul(c, hit, div(c, keptDims(c, flow(c), axes), sumSame(c, hit, axes)))];
};

// y = Π x, p = the product of the elements that are not 0, n₀ = the number of zeros:
// ∂xᵢ = g·p/xᵢ without zeros; with exactly one zero g·p for it, 0 for the others; 0 with more
export const reduceProdGrad: Grad = (c) => {
  const { dtype } = input(c);
  const axes = axesOf(c);
  const number = (value: number): Value => scalar(c, dtype, value);
  const isZero = c.b.op("Equal", [input(c), number(0)]);
  const safe = c.b.op("Where", [isZero, number(1), input(c)]);
  const attributes = { keepdims: 1, noop_with_empty_axes: c.node.int("noop_with_empty_axes", 0) || undefined };
  const own = c.node.ints("axes");
  const product = c.b.op("ReduceProd", own ? [safe] : [safe, ...c.node.inputs.slice(1)], {
    attributes: own ? { keepdims: 1, axes: own } : attributes,
  });
  const zeros = sumSame(c, indicator(c, isZero, dtype), axes);
  const none = indicator(c, c.b.op("Equal", [zeros, number(0)]), dtype);
  const single = indicator(c, c.b.op("Equal", [zeros, number(1)]), dtype);
  const others = c.b.op("Where", [isZero, single, div(c, none, safe)]);
  return [mul(c, mul(c, keptDims(c, flow(c), axes), product), others)];
};

// y = Σ|x|: ∂x = g·sign x
export const reduceL1Grad: Grad = (c) => [mul(c, c.b.op("Sign", [input(c)]), keptDims(c, flow(c), axesOf(c)))];

// y = Σ x²: ∂x = 2g·x
export const reduceSumSquareGrad: Grad = (c) => [
  mul(c, input(c), scale(c, keptDims(c, flow(c), axesOf(c)), 2, input(c).dtype)),
];

// y = √Σ x²: ∂x = g·x/y, 0 where y is 0
export const reduceL2Grad: Grad = (c) => {
  const zero = scalar(c, input(c).dtype, 0);
  const share = c.b.op("Where", [c.b.op("Greater", [output(c), zero]), div(c, flow(c), output(c)), zero]);
  return [mul(c, input(c), keptDims(c, share, axesOf(c)))];
};

// y = ln Σ x: ∂x = g·e^(−y), repeated
export const reduceLogSumGrad: Grad = (c) => {
  const share = div(c, flow(c), c.b.op("Exp", [output(c)]));
  return [expandLike(c, keptDims(c, share, axesOf(c)), input(c))];
};

// y = ln Σ eˣ: ∂x = g·e^(x − y)
export const reduceLogSumExpGrad: Grad = (c) => {
  const axes = axesOf(c);
  const share = c.b.op("Exp", [sub(c, input(c), keptDims(c, output(c), axes))]);
  return [mul(c, share, keptDims(c, flow(c), axes))];
};

// y = running sum of x: ∂x = running sum of g from the other end
export const cumSumGrad: Grad = (c) => {
  const attributes = { exclusive: c.node.int("exclusive", 0), reverse: 1 - c.node.int("reverse", 0) };
  return [c.b.op("CumSum", [flow(c), c.node.inputs[1]], { attributes })];
};

// y_k = Π_{j≤k} x_j: ∂x_i = Σ_{k≥i} g_k·Π_{j≤k, j≠i} x_j, right for zeros too: row i of a matrix (i, k) holds the running
// product with x_i replaced by 1; `exclusive` and `reverse` change which j and k count, and the same operator knows them
export const cumProdGrad: Grad = (c) => {
  const x = input(c);
  const { node } = c;
  const rank = rankOf(node, x);
  const axis = axisOf(constantInts(c, node.inputs[1] as Value)[0] ?? 0, rank);
  const [length = 1] = concreteShape(node, x, axis);
  const [exclusive, reverse] = [node.int("exclusive", 0), node.int("reverse", 0)];
  const order = Array.from({ length: rank }, (_, i) => i).filter((i) => i !== axis);
  const rows = (value: Value): Value => unsqueeze(c, transpose(c, value, [...order, axis]), [rank - 1]); // (…, 1, k)
  const grid = (hit: (i: number, k: number) => boolean): number[] =>
    Array.from({ length: length * length }, (_, at) => Number(hit(Math.floor(at / length), at % length)));
  const constant = (data: readonly number[]): Value => constantArray(c, x.dtype, [length, length], data);
  const own = grid((i, k) => i === k);
  const others = own.map((value) => 1 - value);
  const replaced = add(c, mul(c, rows(x), constant(others)), constant(own)); // (…, i, k)
  const attributes = { exclusive, reverse };
  const products = c.b.op("CumProd", [replaced, ints(c, [rank])], { attributes });
  const later = grid((i, k) => (i === k ? exclusive === 0 : reverse !== 0 ? k < i : k > i));
  const parts = mul(c, mul(c, products, constant(later)), rows(flow(c)));
  const back = Array.from({ length: rank }, (_, i) => (i < axis ? i : i === axis ? rank - 1 : i - 1));
  return [transpose(c, reduceSum(c, parts, [rank], false), back)];
};
