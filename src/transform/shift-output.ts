/** Where a constant per channel can be added to what a linear layer computes: its bias, the BatchNormalization or the Add behind it. */
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import { constantTensor, onlyUse, outputValues } from "./constants.ts";
import { weightsOf } from "./weight-sites.ts";

/** A stored vector of one number per channel that shifts a layer's output. */
export interface Shift {
  readonly value: Value;
  /** y + d is stored + sign·d: a BatchNormalization subtracts its mean. */
  readonly sign: 1 | -1;
  /** True for the layer's own bias: its output contains the vector already. */
  readonly own: boolean;
}

/**
 * The vector that shifts the output of a linear node whose result has `channels` channels, or undefined where there is
 * none of its own: the node's bias, the running mean of a BatchNormalization that alone reads the result, or the constant
 * of such an Add along the channels.
 */
export function shiftOf(model: Model, node: Node, channels: number): Shift | undefined {
  const own = (value: Value | undefined): Value | undefined => {
    const tensor = constantTensor(model, value);
    const fits = tensor?.dtype === "float32" && tensor.elements === channels && tensor.shape.at(-1) === channels;
    return fits && value?.uses.length === 1 ? value : undefined;
  };
  const spec = specOf(node, model.opset);
  const bias = spec && weightsOf(spec, node).find(({ role }) => role === "bias");
  if (bias && node.inputs[bias.input]) {
    const value = own(node.inputs[bias.input]);
    return value && { value, sign: 1, own: true };
  }
  const output = node.outputs[0];
  const next = output && onlyUse(output, outputValues(model));
  if (next?.node.domain !== "") return undefined;
  if (next.node.opType === "BatchNormalization" && next.index === 0 && next.node.int("training_mode", 0) === 0) {
    const mean = own(next.node.inputs[3]);
    return mean && { value: mean, sign: -1, own: false };
  }
  // Behind a matrix product the channels are the last axis, to which a vector is broadcast.
  const last = spec?.traits?.linear === "matmul" || spec?.traits?.linear === "gemm";
  if (next.node.opType !== "Add" || !last) return undefined;
  const value = own(next.node.inputs[1 - next.index]);
  return value && { value, sign: 1, own: false };
}

/** Adds d (channels) to the output. */
export async function applyShift(shift: Shift, d: ArrayLike<number>): Promise<void> {
  const { tensor } = shift.value;
  if (!tensor) return;
  const old = (await tensor.data()) as Float32Array;
  const shifted = Float32Array.from(old, (value, channel) => value + shift.sign * (d[channel] ?? 0));
  shift.value.tensor = Tensor.float32(tensor.shape, shifted);
}
