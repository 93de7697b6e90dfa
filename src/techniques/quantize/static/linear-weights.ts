/** Int8 weights and int32 biases of one linear operator, for kernels that sum in 32-bit integers. */
import { bytesOf } from "../../../base/dtype.ts";
import type { Model } from "../../../ir/model.ts";
import { Tensor } from "../../../ir/tensor.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { constantTensor } from "../../../transform/constants.ts";
import { dequantizeInput } from "../../../transform/insert-qdq.ts";
import { unpackWeight } from "../../../transform/unpack-weights.ts";
import { balanceOf } from "../balanced.ts";
import { REDUCED_HIGH } from "../reduce-range.ts";
import { relativeError } from "../weights/weight-codes.ts";
import type { LinearNode } from "./qdq-plan.ts";

export interface LinearOptions {
  readonly perChannel: boolean;
  /** Bits of the codes. */
  readonly bits: 4 | 8;
  readonly reduceRange: boolean;
  readonly method: "range" | "mse";
  /** Round convolutions so that errors cancel. */
  readonly balance: boolean;
}

/** Codes of a layer's weights, and its biases in floating point: what does not depend on the grid of its input. */
export interface LinearCodes {
  readonly weights: Float32Array;
  readonly biases: Float32Array | undefined;
  readonly shape: readonly number[];
  readonly layout: { readonly outer: number; readonly channels: number; readonly inner: number };
  readonly codes: Int8Array;
  readonly scales: Float32Array; // (layout.channels)
  /** Smallest and largest code. */
  readonly low: number;
  readonly high: number;
  /** ‖ŵ − w‖/‖w‖. */
  readonly error: number;
}

/** Bits that a code takes in the file. */
export function storedBits({ high }: Pick<LinearCodes, "high">): 4 | 8 {
  return high < 8 ? 4 : 8;
}

/** Integers beyond this leave no room for the sum that a bias is added to. */
const LARGEST_BIAS = 2 ** 30;

/** Weights symmetric int8, s_w = max|w|/127 (or the scale of the least squared error) per output channel. */
export async function linearCodes(
  model: Model,
  kernels: Kernels,
  linear: LinearNode,
  options: LinearOptions,
): Promise<LinearCodes> {
  const { weight, channelAxis, bias } = linear;
  const tensor = constantTensor(model, weight) as Tensor;
  const weights = (await tensor.data()) as Float32Array;
  const { shape } = tensor;
  const channels = shape[channelAxis] ?? 1;
  const inner = shape.slice(channelAxis + 1).reduce((product, size) => product * size, 1);
  const layout = options.perChannel
    ? { outer: weights.length / channels / inner, channels, inner }
    : { outer: 1, channels: 1, inner: weights.length };
  const high = options.bits === 4 ? 7 : options.reduceRange ? REDUCED_HIGH : 127;
  const low = options.bits === 4 ? -8 : -high;
  const balance = options.balance ? balanceOf(linear.traits, shape, weights.length / layout.channels) : undefined;
  const result = kernels.quantizeChannels(weights, layout, { low, high, scale: options.method, balance });
  const biases = bias && ((await constantTensor(model, bias)?.data()) as Float32Array | undefined);
  const codes = new Int8Array(bytesOf(result.codes).slice().buffer);
  return { weights, biases, shape, layout, codes, scales: result.scales, low, high, error: relativeError(result) };
}

/**
 * Puts the codes in place of weights and biases; biases are int32 with s_b = s_x·s_w, so that
 * y = s_x·s_w·(Σ (q_x − z_x)·q_w + q_b). A channel whose bias would overflow gets a larger s_w.
 */
export function insertLinear(
  model: Model,
  linear: LinearNode,
  quantized: LinearCodes,
  inputScale: number,
): { readonly error: number; readonly bytesBefore: number; readonly bytesAfter: number } {
  const { node, weight, channelAxis, bias } = linear;
  const { shape, biases, layout } = quantized;
  const { codes, scales } = roomForBias(quantized, inputScale);
  const { graph } = model;
  const perChannel = layout.channels > 1 || shape[channelAxis] === 1;
  dequantizeInput(graph, node, 1, {
    codes: Tensor.of("int8", shape, codes),
    scales: Tensor.float32(perChannel ? [layout.channels] : [], scales),
    axis: perChannel ? channelAxis : undefined,
    name: weight.name,
  });
  let bytesAfter = Math.ceil((codes.length * storedBits(quantized)) / 8) + scales.length * 4;
  if (biases && bias) {
    const channels = biases.length;
    const biasScales = scales.map((scale) => inputScale * scale);
    const integers = Int32Array.from(biases, (b, c) => Math.round(b / (biasScales[perChannel ? c : 0] ?? 1)));
    dequantizeInput(graph, node, 2, {
      codes: Tensor.of("int32", [channels], integers),
      scales: Tensor.float32(perChannel ? [channels] : [], biasScales),
      axis: perChannel ? 0 : undefined,
      name: bias.name,
    });
    bytesAfter += integers.length * 8;
  }
  return {
    error: quantized.error,
    bytesBefore: 4 * (quantized.weights.length + (biases?.length ?? 0)),
    bytesAfter,
  };
}

/** Stores the codes of a layer that computes in floating point: the engine turns them to floats once, when it loads the model. */
export function storeCodes(model: Model, linear: LinearNode, quantized: LinearCodes): void {
  const { node, weight, channelAxis, bias } = linear;
  const { shape, layout, codes, scales, biases } = quantized;
  const single = layout.channels === 1;
  const dense = unpackWeight(
    model.graph,
    model.opset,
    {
      bits: 8,
      codes: Tensor.of("int8", shape, codes),
      grouped: shape,
      scales: Tensor.float32(single ? [] : shape.map((size, axis) => (axis === channelAxis ? size : 1)), scales),
      zeroPoints: undefined,
      shape,
      transpose: false,
      dtype: "float32",
    },
    weight.name,
    node,
  );
  node.setInput(1, dense);
  if (biases && bias)
    node.setInput(2, model.graph.addInitializer(`${bias.name}.own`, Tensor.float32([biases.length], biases)));
}

/** Widens the scale of channels whose bias does not fit into s_x·s_w·2^30, and requantizes them. */
function roomForBias(
  { weights, biases, layout, low, high, ...quantized }: LinearCodes,
  inputScale: number,
): { codes: Int8Array; scales: Float32Array } {
  const codes = quantized.codes.slice();
  const scales = quantized.scales.slice();
  for (const [index, b] of (biases ?? new Float32Array(0)).entries()) {
    const c = layout.channels === 1 ? 0 : index;
    const needed = Math.abs(b) / (LARGEST_BIAS * inputScale);
    if (needed <= (scales[c] ?? 1)) continue;
    scales[c] = needed;
    for (let outer = 0; outer < layout.outer; outer++)
      for (let i = 0; i < layout.inner; i++) {
        const at = (outer * layout.channels + c) * layout.inner + i;
        codes[at] = Math.max(low, Math.min(high, Math.round((weights[at] ?? 0) / needed)));
      }
  }
  return { codes, scales };
}
