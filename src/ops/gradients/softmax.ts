/** Gradients of Softmax, LogSoftmax and the fused cross-entropy loss. */
import { PareError } from "../../base/error.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Grad, GradContext } from "../spec.ts";
import {
  add,
  axisOf,
  div,
  indicator,
  mul,
  neg,
  outputOf,
  rankOf,
  reduceSum,
  scale,
  sizeOf,
  sub,
  toFloat,
  unsqueeze,
} from "./words.ts";

/** The axes over which probabilities sum to one: all from `axis` on before opset 13, that one since. */
function softmaxAxes(c: GradContext): readonly number[] {
  const rank = rankOf(c.node, c.node.inputs[0]);
  const axis = axisOf(c.node.int("axis", c.opset < 13 ? 1 : -1), rank);
  return c.opset < 13 ? Array.from({ length: rank - axis }, (_, i) => axis + i) : [axis];
}

// y = softmax(x): ∂x = y·(g − Σ g·y)
export const softmaxGrad: Grad = (c) => {
  const g = c.outputGrad(0) as Value;
  const y = c.node.outputs[0] as Value;
  const weighted = mul(c, g, y);
  return [sub(c, weighted, mul(c, y, reduceSum(c, weighted, softmaxAxes(c), true)))];
};

// y = ln softmax(x): ∂x = g − eʸ·Σ g
export const logSoftmaxGrad: Grad = (c) => {
  const g = c.outputGrad(0) as Value;
  const p = c.b.op("Exp", [c.node.outputs[0] as Value]);
  return [sub(c, g, mul(c, p, reduceSum(c, g, softmaxAxes(c), true)))];
};

// x (n, k, d₁…), t (n, d₁…), p = softmax(x) over axis 1, w = weight of each element's class (0 where ignored)
// L = Σ −w·ln p_t / Σ w (mean), Σ −w·ln p_t (sum), −w·ln p_t (none); second output: ln p
// ∂x = s·w·(p − onehot(t)) + h − p·Σ h, s = ∂L (divided by Σ w for the mean), h = ∂(ln p)
export const softmaxCrossEntropyGrad: Grad = (c) => {
  const [x, labels, weights] = c.node.inputs as readonly [Value, Value, Value | undefined];
  const rank = rankOf(c.node, x);
  const [gLoss, gLog] = [c.outputGrad(0), c.outputGrad(1)];
  const p = c.b.op("Exp", [outputOf(c.node, 1, x.dtype, x.shape)]); // (n, k, d₁…)
  let total: Value | undefined;
  if (gLoss) {
    const { safe, share } = labelShare(c, gLoss, x, labels, weights, rank);
    total = mul(c, sub(c, p, oneHot(c, safe, x)), share);
  }
  if (gLog) {
    const direct = sub(c, gLog, mul(c, p, reduceSum(c, gLog, [1], true)));
    total = total ? add(c, total, direct) : direct;
  }
  return [total];
};

/** Labels with the ignored ones replaced by a class that exists, and ∂L times each element's weight; it broadcasts against (n, k, d₁…). */
function labelShare(
  c: GradContext,
  gLoss: Value,
  x: Value,
  labels: Value,
  weights: Value | undefined,
  rank: number,
): { safe: Value; share: Value } {
  if (c.wants(2))
    throw new PareError("not-differentiable", `The class weights of ${c.node.opType} have no gradient`, {
      where: `value '${weights?.name ?? ""}', node '${c.node.name}'`,
      help: "Keep them constant",
    });
  const ignored = c.node.int("ignore_index");
  const skip = ignored === undefined ? undefined : c.b.op("Equal", [labels, labelConstant(c, labels, ignored)]);
  const safe = skip ? c.b.op("Where", [skip, labelConstant(c, labels, 0), labels]) : labels;
  let weight = weights ? c.b.op("Gather", [weights, safe], { attributes: { axis: 0 } }) : undefined; // (n, d₁…)
  if (skip) {
    const kept = indicator(c, c.b.op("Not", [skip]), x.dtype);
    weight = weight ? mul(c, weight, kept) : kept;
  }
  const share = perElement(c, gLoss, labels, x, weight, rank);
  return { safe, share: weight ? mul(c, share, unsqueeze(c, weight, [1])) : share };
}

/** ∂L per element, over the weights' sum for a mean; broadcasts against (n, k, d₁…). */
function perElement(
  c: GradContext,
  gLoss: Value,
  labels: Value,
  x: Value,
  weight: Value | undefined,
  rank: number,
): Value {
  const reduction = c.node.string("reduction") ?? "mean";
  if (reduction === "none") return unsqueeze(c, gLoss, [1]);
  if (reduction === "sum") return gLoss;
  const axes = Array.from({ length: rank - 1 }, (_, axis) => axis);
  if (weight) return div(c, gLoss, reduceSum(c, weight, axes, false));
  const elements = labels.shape?.reduce<number>((n, dim) => n * (typeof dim === "number" ? dim : Number.NaN), 1);
  if (elements !== undefined && Number.isFinite(elements)) return scale(c, gLoss, 1 / elements, x.dtype);
  return div(c, gLoss, sizeOf(c, labels, x.dtype));
}

/** One-hot rows of the labels along axis 1, as many as x has classes; the engine makes them in float32. */
function oneHot(c: GradContext, labels: Value, x: Value): Value {
  const classes = x.shape?.[1];
  const depth =
    typeof classes === "number"
      ? c.b.constant("classes", Tensor.int64([classes]))
      : c.b.op("Gather", [c.b.op("Shape", [x]), c.b.constant("axis", Tensor.int64([1]))]);
  const values = c.b.constant("off_on", Tensor.float32([2], [0, 1]));
  const rows = c.b.op("OneHot", [labels, depth, values], { attributes: { axis: 1 } });
  return x.dtype === undefined || x.dtype === "float32" ? rows : toFloat(c, rows, x.dtype);
}

function labelConstant(c: GradContext, labels: Value, value: number): Value {
  const tensor = labels.dtype === "int32" ? Tensor.of("int32", [], Int32Array.of(value)) : Tensor.int64([value], []);
  return c.b.constant("label", tensor);
}

// L = −w·x_t averaged, summed or not, over labels t (x holds log-probabilities): ∂x = −s·w·onehot(t)
export const negativeLogLikelihoodGrad: Grad = (c) => {
  const [x, labels, weights] = c.node.inputs as readonly [Value, Value, Value | undefined];
  const { safe, share } = labelShare(c, c.outputGrad(0) as Value, x, labels, weights, rankOf(c.node, x));
  return [neg(c, mul(c, oneHot(c, safe, x), share))];
};
