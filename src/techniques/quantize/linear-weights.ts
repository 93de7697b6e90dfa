/** Int8 weights and int32 biases of one linear operator, for kernels that sum in 32-bit integers. */
import { bytesOf } from "../../base/dtype.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Kernels } from "../../kernels/types.ts";
import { constantTensor } from "../../transform/constants.ts";
import { dequantizeInput } from "../../transform/insert-qdq.ts";
import { balanceOf } from "./balanced.ts";
import { relativeError } from "./weight-codes.ts";
import type { LinearNode } from "./qdq-plan.ts";

export interface LinearOptions {
  readonly perChannel: boolean;
  readonly reduceRange: boolean;
  readonly method: "range" | "mse";
  /** Round convolutions so that errors cancel. */
  readonly balance: boolean;
}

export interface QuantizedLinear {
  readonly error: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

/** Integers beyond this leave no room for the sum that a bias is added to. */
const LARGEST_BIAS = 2 ** 30;

/**
 * Weights symmetric int8, s_w = max|w|/127 per output channel; bias int32 with s_b = s_x·s_w, so that
 * y = s_x·s_w·(Σ (q_x − z_x)·q_w + q_b). A channel whose bias would overflow gets a larger s_w.
 */
export async function quantizeLinear(
  model: Model,
  kernels: Kernels,
  linear: LinearNode,
  inputScale: number,
  options: LinearOptions,
): Promise<QuantizedLinear> {
  const { node, weight, channelAxis, bias } = linear;
  const tensor = constantTensor(model, weight) as Tensor;
  const weights = (await tensor.data()) as Float32Array;
  const { shape } = tensor;
  const channels = shape[channelAxis] ?? 1;
  const inner = shape.slice(channelAxis + 1).reduce((product, size) => product * size, 1);
  const layout = options.perChannel
    ? { outer: weights.length / channels / inner, channels, inner }
    : { outer: 1, channels: 1, inner: weights.length };
  const high = options.reduceRange ? 63 : 127;
  const balance = options.balance ? balanceOf(linear.traits, shape, weights.length / layout.channels) : undefined;
  const result = kernels.quantizeChannels(weights, layout, { low: -high, high, scale: options.method, balance });
  const biasTensor = constantTensor(model, bias);
  const biases = biasTensor && ((await biasTensor.data()) as Float32Array);
  const { codes, scales } = roomForBias(weights, result, biases, inputScale, layout, high);
  const scaleShape = options.perChannel ? [channels] : [];
  const stem = weight.name;
  const graph = model.graph;
  dequantizeInput(graph, node, 1, {
    codes: Tensor.of("int8", shape, codes),
    scales: Tensor.float32(scaleShape, scales),
    axis: options.perChannel ? channelAxis : undefined,
    name: stem,
  });
  let bytesAfter = codes.length + scales.length * 4;
  if (biases && bias) {
    const biasScales = Float32Array.from(
      { length: channels },
      (_, c) => inputScale * (scales[options.perChannel ? c : 0] ?? 1),
    );
    const integers = Int32Array.from(biases, (b, c) => Math.round(b / (biasScales[c] ?? 1)));
    dequantizeInput(graph, node, 2, {
      codes: Tensor.of("int32", [channels], integers),
      scales: options.perChannel
        ? Tensor.float32([channels], biasScales)
        : Tensor.float32([], biasScales.subarray(0, 1)),
      axis: options.perChannel ? 0 : undefined,
      name: bias.name,
    });
    bytesAfter += integers.length * 8;
  }
  return {
    error: relativeError(result),
    bytesBefore: tensor.byteLength + (biasTensor?.byteLength ?? 0),
    bytesAfter,
  };
}

/** Widens the scale of channels whose bias does not fit into s_x·s_w·2^30, and requantizes them. */
function roomForBias(
  weights: Float32Array,
  result: { readonly codes: Int8Array | Uint8Array; readonly scales: Float32Array },
  biases: Float32Array | undefined,
  inputScale: number,
  layout: { readonly outer: number; readonly channels: number; readonly inner: number },
  high: number,
): { codes: Int8Array; scales: Float32Array } {
  const codes = new Int8Array(bytesOf(result.codes).slice().buffer);
  const scales = result.scales.slice();
  for (const [index, b] of (biases ?? new Float32Array(0)).entries()) {
    const c = layout.channels === 1 ? 0 : index;
    const needed = Math.abs(b) / (LARGEST_BIAS * inputScale);
    if (needed <= (scales[c] ?? 1)) continue;
    scales[c] = needed;
    for (let outer = 0; outer < layout.outer; outer++)
      for (let i = 0; i < layout.inner; i++) {
        const at = (outer * layout.channels + c) * layout.inner + i;
        codes[at] = Math.max(-high, Math.min(high, Math.round((weights[at] ?? 0) / needed)));
      }
  }
  return { codes, scales };
}
