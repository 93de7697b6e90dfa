/** Losses as operators. */
import { negativeLogLikelihoodGrad, softmaxCrossEntropyGrad } from "./gradients/softmax.ts";
import { type OpTable, dtypeOf, perInput, shapeOf } from "./helpers.ts";
import type { Infer, OpSpec } from "./spec.ts";

/** A scalar, or the labels' shape where the loss is not reduced; log-probabilities have the scores' shape. */
const infer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const whole = (context.node.string("reduction") ?? "mean") !== "none";
  return [
    { dtype, shape: whole ? [] : shapeOf(context, 1) },
    { dtype, shape: shapeOf(context, 0) },
  ];
};

function lossOf(flops: number): OpSpec {
  return { since: 12, infer, cost: perInput(flops), axes: "opaque", grad: "none" };
}

export const loss: OpTable = {
  NegativeLogLikelihoodLoss: { ...lossOf(1), grad: negativeLogLikelihoodGrad },
  SoftmaxCrossEntropyLoss: { ...lossOf(6), grad: softmaxCrossEntropyGrad },
};
