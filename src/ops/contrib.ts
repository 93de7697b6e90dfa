/** Activations that ONNX Runtime fuses (com.microsoft) and custom quantizers of other toolkits. */
import { SAME_AXES, broadcastAxes } from "./axes.ts";
import { biasGeluGrad, fastGeluGrad, geluGrad, quickGeluGrad } from "./gradients/activation.ts";
import { type OpTable, perOutput, sameAsInput } from "./helpers.ts";
import type { OpSpec } from "./spec.ts";

const activation: OpSpec = {
  since: 1,
  infer: sameAsInput(),
  cost: perOutput(5),
  axes: SAME_AXES,
  grad: "none",
  traits: { elementwise: true },
};

/** An activation of x + bias, where the bias lies along the last axis. */
const biased: OpSpec = {
  ...activation,
  cost: perOutput(6),
  axes: broadcastAxes,
  weights: [{ input: 1, role: "bias", channelAxis: 0 }],
};

/** Brevitas and QONNX: quantization to a number of bits and back, in floating point; scale, zero point and bits are inputs. */
const fakeQuantize: OpSpec = { ...activation, cost: perOutput(4) };

export const contrib: OpTable = {
  "com.microsoft::Gelu": { ...activation, grad: geluGrad },
  "com.microsoft::QuickGelu": { ...activation, grad: quickGeluGrad },
  "com.microsoft::FastGelu": { ...biased, grad: fastGeluGrad },
  "com.microsoft::BiasGelu": { ...biased, grad: biasGeluGrad },
  "onnx.brevitas::Quant": fakeQuantize,
  "qonnx.custom_op.general::Quant": fakeQuantize,
  "qonnx.custom_op.general::BipolarQuant": { ...fakeQuantize, cost: perOutput(2) },
};
