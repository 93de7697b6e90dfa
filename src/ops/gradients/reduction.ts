/** Gradients of reductions: ReduceSum, ReduceMean, ReduceMax, ReduceMin, ReduceSumSquare, ReduceL2. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { axisOf, div, expandLike, indicator, mul, rankOf, reduceSum, scale, unsqueeze } from "./words.ts";

/** The reduced axes, counted from the front and sorted. */
function axesOf(c: GradContext): readonly number[] {
  const { node } = c;
  const rank = rankOf(node, node.inputs[0]);
  const input = node.inputs[1];
  const given = node.ints("axes") ?? (input ? constantInts(c, input) : undefined);
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

/** A value of the reduced shape, with the reduced axes put back as size 1. */
function keptDims(c: GradContext, value: Value, axes: readonly number[]): Value {
  return c.node.int("keepdims", 1) === 0 ? unsqueeze(c, value, axes) : value;
}

/** The number of elements summed into each output: a constant, or a quotient of sizes found while the graph runs. */
function perGroup(c: GradContext, gradient: Value, axes: readonly number[]): Value {
  const x = c.node.inputs[0] as Value;
  const sizes = axes.map((axis) => x.shape?.[axis]);
  if (sizes.every((size) => typeof size === "number"))
    return scale(c, gradient, 1 / (sizes as number[]).reduce((n, size) => n * size, 1), x.dtype);
  const to = x.dtype === "float64" ? 11 : 1;
  const size = (value: Value): Value => c.b.op("Cast", [c.b.op("Size", [value])], { attributes: { to } });
  return div(c, gradient, div(c, size(x), size(c.node.outputs[0] as Value)));
}

// y = Σ x: ∂x = g, repeated along the summed axes
export const reduceSumGrad: Grad = (c) => [
  expandLike(c, keptDims(c, c.outputGrad(0) as Value, axesOf(c)), c.node.inputs[0] as Value),
];

// y = (1/n)Σ x: ∂x = g/n, repeated
export const reduceMeanGrad: Grad = (c) => {
  const axes = axesOf(c);
  const share = perGroup(c, keptDims(c, c.outputGrad(0) as Value, axes), axes);
  return [expandLike(c, share, c.node.inputs[0] as Value)];
};

// y = max x (or min): ∂x = g·[x = y]/#{x = y}
export const reduceExtremumGrad: Grad = (c) => {
  const x = c.node.inputs[0] as Value;
  const axes = axesOf(c);
  const hit = indicator(c, c.b.op("Equal", [x, keptDims(c, c.node.outputs[0] as Value, axes)]), x.dtype);
  const share = div(c, keptDims(c, c.outputGrad(0) as Value, axes), reduceSum(c, hit, axes, true));
  return [mul(c, hit, share)];
};

// y = Σ x²: ∂x = 2g·x
export const reduceSumSquareGrad: Grad = (c) => {
  const x = c.node.inputs[0] as Value;
  return [mul(c, x, scale(c, keptDims(c, c.outputGrad(0) as Value, axesOf(c)), 2, x.dtype))];
};

// y = √Σ x²: ∂x = g·x/y
export const reduceL2Grad: Grad = (c) => {
  const axes = axesOf(c);
  const share = div(c, c.outputGrad(0) as Value, c.node.outputs[0] as Value);
  return [mul(c, c.node.inputs[0] as Value, keptDims(c, share, axes))];
};
