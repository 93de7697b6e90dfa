/** Activation functions: elementwise ones, parametric ones, and the softmax family. */
import type { Axes, Infer, OpSpec, Traits } from "./spec.ts";
import { SAME_AXES, broadcastAxes, names } from "./axes.ts";
import {
  celuGrad,
  eluGrad,
  geluGrad,
  hardSigmoidGrad,
  hardSwishGrad,
  leakyReluGrad,
  mishGrad,
  preluGrad,
  reluGrad,
  seluGrad,
  shrinkGrad,
  sigmoidGrad,
  softplusGrad,
  softsignGrad,
  swishGrad,
  tanhGrad,
  thresholdedReluGrad,
} from "./gradients/activation.ts";
import { logSoftmaxGrad, softmaxGrad } from "./gradients/softmax.ts";
import { differentiable, type OpTable, normalizeAxis, perOutput, sameAsInput, shapeOf } from "./helpers.ts";

function activationOf(since: number, flops: number, traits: Traits = {}): OpSpec {
  return {
    since,
    infer: sameAsInput(),
    cost: perOutput(flops),
    axes: SAME_AXES,
    grad: "none",
    traits: { elementwise: true, ...traits },
  };
}

const softmaxInfer: Infer = (context) => {
  const shape = shapeOf(context, 0);
  if (shape) normalizeAxis(context, context.node.int("axis", context.opset >= 13 ? -1 : 1), shape.length || 1);
  return sameAsInput()(context);
};

/** The normalized axis, or (before opset 13) all axes from it on, are computed together. */
function softmaxAxes(flat: boolean): Axes {
  return (node, [rank = 0]) => {
    const axis = node.int("axis", flat ? 1 : -1);
    const first = axis < 0 ? axis + rank : axis;
    const term = names("a", rank).map((letter, i) => (i === first || (flat && i > first) ? `${letter}!` : letter));
    return `${term.join(" ")} -> ${term.join(" ")}`;
  };
}

function softmax(since: number, quantizable: boolean): OpSpec {
  return {
    since,
    infer: softmaxInfer,
    // max, subtract, exp, sum, divide
    cost: perOutput(5),
    axes: softmaxAxes(since < 13),
    grad: "none",
    ...(quantizable ? { traits: { quantizable } } : {}),
  };
}

const prelu: OpSpec = {
  since: 9,
  infer: sameAsInput(),
  cost: perOutput(2),
  axes: broadcastAxes,
  weights: (node) => {
    const shape = node.inputs[1]?.shape ?? [];
    const long = shape.flatMap((size, axis) => (size !== 1 ? [axis] : []));
    return [{ input: 1, role: "scale", channelAxis: long.length === 1 ? long[0] : undefined }];
  },
  grad: preluGrad,
  traits: { elementwise: true, homogeneous: true },
};

export const activation: OpTable = {
  Relu: { ...activationOf(6, 1, { quantizable: true, homogeneous: true }), grad: reluGrad },
  LeakyRelu: { ...activationOf(6, 2, { quantizable: true, homogeneous: true }), grad: leakyReluGrad },
  PRelu: prelu,
  Elu: { ...activationOf(6, 3), grad: eluGrad },
  Selu: { ...activationOf(6, 4), grad: seluGrad },
  Celu: { ...activationOf(12, 4), grad: celuGrad },
  ThresholdedRelu: { ...activationOf(10, 1), grad: thresholdedReluGrad },
  Sigmoid: { ...activationOf(6, 3, { quantizable: true }), grad: sigmoidGrad },
  HardSigmoid: { ...activationOf(6, 4), grad: hardSigmoidGrad },
  HardSwish: { ...activationOf(14, 5), grad: hardSwishGrad },
  Tanh: { ...activationOf(6, 1), grad: tanhGrad },
  Softplus: { ...activationOf(1, 3), grad: softplusGrad },
  Softsign: { ...activationOf(1, 3), grad: softsignGrad },
  Gelu: { ...activationOf(20, 5), grad: geluGrad },
  Mish: { ...activationOf(18, 5), grad: mishGrad },
  Swish: { ...activationOf(24, 4), grad: swishGrad },
  Shrink: { ...activationOf(9, 2), grad: shrinkGrad },
  // Before opset 13 the input is flattened to two dimensions at `axis`; from 13 on it is the one axis.
  Softmax: differentiable([softmax(1, false), softmax(13, true)], softmaxGrad),
  LogSoftmax: differentiable([softmax(1, false), softmax(13, false)], logSoftmaxGrad),
  Hardmax: [softmax(1, false), softmax(13, false)],
};
