/** Gradients of Softmax, LogSoftmax and the fused cross-entropy loss. */
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
  const [gLoss, gLog] = [c.outputGrad(0), c.outputGrad(1)];
  const logP = outputOf(c.node, 1, x.dtype, x.shape);
  const p = c.wants(0) ? c.b.op("Exp", [logP]) : undefined; // (n, k, d₁…)
  let total: Value | undefined;
  let ofWeights: Value | undefined;
  if (gLoss) {
    const shares = labelShare(c, gLoss, x, labels, weights);
    if (p) total = mul(c, sub(c, p, shares.hot), weighted(c, shares));
    ofWeights = classWeightsGrad(c, logP, shares);
  }
  if (gLog && p) {
    const direct = sub(c, gLog, mul(c, p, reduceSum(c, gLog, [1], true)));
    total = total ? add(c, total, direct) : direct;
  }
  return [total, undefined, ofWeights];
};

/** What every element of a loss against labels has. */
interface LabelShare {
  /** onehot(t) (n, k, d₁…), of some class where the label is ignored. */
  readonly hot: Value;
  /** ∂L, divided by Σ w for the mean; broadcasts against (n, k, d₁…). */
  readonly share: Value;
  /** w (n, d₁…); undefined where all are 1. */
  readonly weight: Value | undefined;
  /** 1 (n, d₁…), 0 where the label is ignored; undefined where none is. */
  readonly kept: Value | undefined;
}

function labelShare(c: GradContext, gLoss: Value, x: Value, labels: Value, weights: Value | undefined): LabelShare {
  const ignored = c.node.int("ignore_index");
  const skip = ignored === undefined ? undefined : c.b.op("Equal", [labels, labelConstant(c, labels, ignored)]);
  const safe = skip ? c.b.op("Where", [skip, labelConstant(c, labels, 0), labels]) : labels;
  const kept = skip && indicator(c, c.b.op("Not", [skip]), x.dtype);
  let weight = weights && c.b.op("Gather", [weights, safe], { attributes: { axis: 0 } }); // (n, d₁…)
  if (kept) weight = weight ? mul(c, weight, kept) : kept;
  const share = perElement(c, gLoss, labels, x, weight, rankOf(c.node, x));
  return { hot: oneHot(c, safe, x), share, weight, kept };
}

/** s·w; broadcasts against (n, k, d₁…). */
const weighted = (c: GradContext, { share, weight }: LabelShare): Value =>
  weight ? mul(c, share, unsqueeze(c, weight, [1])) : share;

// ∂w_j = Σ { s·(−ln p_t) : t = j }, for the mean Σ { s·(−ln p_t − L) : t = j }
function classWeightsGrad(c: GradContext, logP: Value, { hot, share, kept }: LabelShare): Value | undefined {
  if (!c.wants(2)) return undefined;
  const mean = (c.node.string("reduction") ?? "mean") === "mean";
  let own = mul(c, neg(c, hot), mean ? add(c, logP, c.node.outputs[0] as Value) : logP);
  if (kept) own = mul(c, own, unsqueeze(c, kept, [1]));
  const axes = Array.from({ length: rankOf(c.node, logP) }, (_, axis) => axis).filter((axis) => axis !== 1);
  return reduceSum(c, mul(c, own, share), axes, false);
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
  const shares = labelShare(c, c.outputGrad(0) as Value, x, labels, weights);
  const ofScores = c.wants(0) ? neg(c, mul(c, shares.hot, weighted(c, shares))) : undefined;
  return [ofScores, undefined, classWeightsGrad(c, x, shares)];
};
