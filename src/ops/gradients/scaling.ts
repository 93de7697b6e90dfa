/** Gradients of LpNormalization and LRN: division by a norm along one axis, and by a power of the energy of nearby channels. */
import type { Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../spec.ts";
import { add, axisOf, div, ints, mul, rankOf, reduceSum, reshapeLike, scalar, scale, sub, unsqueeze } from "./words.ts";

// N = (Σ|x|ᵖ)^(1/p), y = x/N (0 where N = 0): ∂x = (g − y·Σ g·y)/N for p = 2, (g − sign x·Σ g·y)/N for p = 1, 0 where N = 0
export const lpNormalizationGrad: Grad = (c) => {
  const x = c.node.inputs[0] as Value;
  const g = c.outputGrad(0) as Value;
  const y = c.node.outputs[0] as Value;
  const axes = [axisOf(c.node.int("axis", -1), rankOf(c.node, x))];
  const euclidean = c.node.int("p", 2) === 2;
  const magnitude = euclidean ? mul(c, x, x) : c.b.op("Abs", [x]);
  const sum = reduceSum(c, magnitude, axes, true);
  const norm = euclidean ? c.b.op("Sqrt", [sum]) : sum;
  const along = mul(c, euclidean ? y : c.b.op("Sign", [x]), reduceSum(c, mul(c, g, y), axes, true));
  return [mul(c, sub(c, g, along), reciprocalOrZero(c, norm, x))];
};

/** 1/v, and 0 where v is 0. */
function reciprocalOrZero(c: GradContext, v: Value, like: Value): Value {
  const zero = scalar(c, like.dtype, 0);
  return c.b.op("Where", [c.b.op("Greater", [v, zero]), c.b.op("Reciprocal", [v]), zero]);
}

// d_i = k + α/n·Σ_{j near i} x_j², y = x·d^(−β): ∂x_i = g_i·d_i^(−β) − 2αβ/n·x_i·Σ_{j : i near j} g_j·y_j/d_j
// (Krizhevsky, Sutskever and Hinton 2012)
export const localResponseGrad: Grad = (c) => {
  const x = c.node.inputs[0] as Value;
  const g = c.outputGrad(0) as Value;
  const y = c.node.outputs[0] as Value;
  const size = c.node.int("size", 1);
  const [alpha, beta, bias] = [c.node.float("alpha", 1e-4), c.node.float("beta", 0.75), c.node.float("bias", 1)];
  const before = Math.floor((size - 1) / 2);
  const energy = nearby(c, mul(c, x, x), x, size, before, size - 1 - before);
  const d = add(c, scale(c, energy, alpha, x.dtype), scalar(c, x.dtype, bias));
  const direct = mul(c, g, c.b.op("Pow", [d, scalar(c, x.dtype, -beta)]));
  const shared = nearby(c, div(c, mul(c, g, y), d), x, size, size - 1 - before, before);
  return [sub(c, direct, mul(c, x, scale(c, shared, 2 * alpha * beta, x.dtype)))];
};

/** (1/n)·the sum over the channels from `before` before to `after` after each; absent ones count as 0. */
function nearby(c: GradContext, v: Value, like: Value, size: number, before: number, after: number): Value {
  const planes = c.b.op("Reshape", [v, ints(c, [0, 0, -1])]); // (n, c, s)
  const mean = c.b.op("AveragePool", [unsqueeze(c, planes, [1])], {
    attributes: { kernel_shape: [size, 1], pads: [before, 0, after, 0], count_include_pad: 1 },
  });
  return reshapeLike(c, mean, like);
}
