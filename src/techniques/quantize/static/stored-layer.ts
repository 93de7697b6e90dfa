/** Codes, scales and biases of a layer of a statically quantized model, read from its graph and written back. */
import type { Node } from "../../../ir/graph.ts";
import { Tensor } from "../../../ir/tensor.ts";

export interface StoredLayer {
  readonly shape: readonly number[];
  readonly codes: Int8Array;
  readonly scales: Float32Array;
  /** Shape in which the scales broadcast against the weights. */
  readonly scaleShape: readonly number[];
  /** Dequantized. */
  readonly biases: Float32Array | undefined;
  /** What an integer of the biases stands for, per channel or for all. */
  readonly biasScales: Float32Array | undefined;
  /** Scale of the element at a flat index. */
  scaleAt(index: number): number;
}

/** The layer as it is now; undefined where its weight is not a dequantized constant. */
export async function storedLayer(node: Node, channelAxis: number): Promise<StoredLayer | undefined> {
  const [codes, scale] = node.inputs[1]?.producer?.inputs ?? [];
  if (!codes?.tensor || !scale?.tensor) return undefined;
  const { shape } = codes.tensor;
  const scales = (await scale.tensor.data()) as Float32Array;
  const inner = shape.slice(channelAxis + 1).reduce((product, size) => product * size, 1);
  const single = scales.length === 1;
  const [bias, biasScale] = node.inputs[2]?.producer?.inputs ?? [];
  let biases: Float32Array | undefined;
  let biasScales: Float32Array | undefined;
  if (bias?.tensor && biasScale?.tensor) {
    const steps = (await biasScale.tensor.data()) as Float32Array;
    const integers = (await bias.tensor.data()) as Int32Array;
    biasScales = steps;
    biases = Float32Array.from(integers, (q, c) => q * (steps[steps.length === 1 ? 0 : c] ?? 1));
  }
  return {
    shape,
    codes: (await codes.tensor.data()) as Int8Array,
    scales,
    scaleShape: single ? [] : shape.map((size, axis) => (axis === channelAxis ? size : 1)),
    biases,
    biasScales,
    scaleAt: (index) => scales[single ? 0 : Math.floor(index / inner) % (shape[channelAxis] ?? 1)] ?? 1,
  };
}

/** Replaces the codes, the biases, rounded to their own scales, and the scales, which those of the biases follow: s_b = s_x·s_w. */
export async function writeLayer(
  node: Node,
  codes: Int8Array | undefined,
  biases: Float32Array | undefined,
  scales?: Float32Array,
): Promise<void> {
  const [weight, weightScale] = node.inputs[1]?.producer?.inputs ?? [];
  if (codes && weight?.tensor) weight.tensor = Tensor.of("int8", weight.tensor.shape, codes);
  const [bias, scale] = node.inputs[2]?.producer?.inputs ?? [];
  if (scales && weightScale?.tensor) {
    const old = (await weightScale.tensor.data()) as Float32Array;
    const steps = (await scale?.tensor?.data()) as Float32Array | undefined;
    weightScale.tensor = Tensor.float32(weightScale.tensor.shape, scales);
    if (scale?.tensor && steps)
      scale.tensor = Tensor.float32(
        scale.tensor.shape,
        steps.map(
          (step, c) => (step / (old[old.length === 1 ? 0 : c] ?? 1)) * (scales[scales.length === 1 ? 0 : c] ?? 1),
        ),
      );
  }
  if (!biases || !bias?.tensor || !scale?.tensor) return;
  const steps = (await scale.tensor.data()) as Float32Array;
  const integers = Int32Array.from(biases, (b, c) => Math.round(b / (steps[steps.length === 1 ? 0 : c] ?? 1)));
  bias.tensor = Tensor.of("int32", bias.tensor.shape, integers);
}

/** What puts the layer's codes, biases and scales back as they are now, to the bit. */
export function keptLayer(node: Node): () => void {
  const values = [1, 2].flatMap((index) => node.inputs[index]?.producer?.inputs.slice(0, 2) ?? []);
  const tensors = values.map((value) => value?.tensor);
  return () => {
    for (const [i, value] of values.entries()) if (value) value.tensor = tensors[i];
  };
}
