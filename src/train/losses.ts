/** Losses as graph nodes: predictions and targets in, one number out. */
import { elementCount, isConcrete } from "../base/shape.ts";
import type { Value } from "../ir/graph.ts";
import {
  add,
  mul,
  neg,
  reduceMean,
  reduceSum,
  reshape,
  scalar,
  scale,
  type Site,
  sub,
} from "../ops/gradients/words.ts";

export const LOSSES = ["cross-entropy", "mse"] as const;
export type LossName = (typeof LOSSES)[number];

/**
 * Mean cross-entropy of logits (n, k) with class indices (n): L = −(1/n)Σ ln softmax(x)_t. With label smoothing ε the
 * target is (1 − ε)·onehot(t) + ε/k (Szegedy et al. 2016). Logits (n, t, k) with indices (n, t) count every position.
 */
export function crossEntropy(s: Site, logits: Value, labels: Value, labelSmoothing = 0): Value {
  let [x, t] = [logits, labels];
  if (logits.shape && logits.shape.length > 2) {
    const classes = logits.shape.at(-1);
    x = reshape(s, logits, [-1, typeof classes === "number" ? classes : -1]);
    t = reshape(s, labels, [-1]);
  }
  const attributes = { reduction: "mean" };
  const [loss, logP] = s.b.ops("SoftmaxCrossEntropyLoss", [x, t], { attributes, outputs: 2 }) as [Value, Value];
  if (labelSmoothing === 0) return loss;
  // −(1/n)Σ (1/k)Σ ln p = −mean of ln p over all of its elements
  const uniform = neg(s, reduceMean(s, logP, [0, 1], false));
  const { dtype } = logits;
  return add(s, scale(s, loss, 1 - labelSmoothing, dtype), scale(s, uniform, labelSmoothing, dtype));
}

/** Mean squared error over all elements: L = (1/n)Σ (x − t)². */
export function meanSquaredError(s: Site, prediction: Value, target: Value): Value {
  const difference = sub(s, prediction, target);
  const axes = (prediction.shape ?? []).map((_, axis) => axis);
  return reduceMean(s, mul(s, difference, difference), axes, false);
}

/**
 * Distance of logits to a teacher's logits at temperature T: L = T²·(1/n)Σ KL(softmax(z/T) ‖ softmax(x/T))
 * (Hinton et al. 2015); T² keeps the gradient's size independent of T. The last axis holds the classes.
 */
export function distillation(s: Site, logits: Value, teacher: Value, temperature: number): Value {
  const { dtype } = logits;
  const axis = -1;
  const logQ = s.b.op("LogSoftmax", [scale(s, logits, 1 / temperature, dtype)], { attributes: { axis } });
  const logP = s.b.op("LogSoftmax", [scale(s, teacher, 1 / temperature, dtype)], { attributes: { axis } });
  const terms = mul(s, s.b.op("Exp", [logP]), sub(s, logP, logQ));
  const shape = logits.shape ?? [];
  const rows = shape.slice(0, -1);
  const axes = shape.map((_, i) => i);
  if (isConcrete(rows)) {
    const count = elementCount(rows);
    return scale(s, reduceSum(s, terms, axes, false), temperature ** 2 / count, dtype);
  }
  const perRow = reduceSum(s, terms, [shape.length - 1], false);
  return mul(s, reduceMean(s, perRow, axes.slice(0, -1), false), scalar(s, dtype, temperature ** 2));
}

/** (1 − share)·a + share·b. */
export function mixed(s: Site, a: Value, b: Value, share: number): Value {
  return add(s, scale(s, a, 1 - share, a.dtype ?? "float32"), scale(s, b, share, b.dtype ?? "float32"));
}
