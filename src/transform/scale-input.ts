/** Divides a value for some of its readers: in the constants of the operator before it where that is possible, else by a Mul. */
import { Builder } from "../ir/builder.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { constantTensor, outputValues } from "./constants.ts";

export interface DividedInput {
  /** The operator whose constants took the scales over; undefined where a Mul was inserted. */
  readonly folded: string | undefined;
}

/**
 * Makes input `input` of `readers`, all of which read `value` there, value/scales along its last axis of scales.length channels.
 * Folded into a normalization's scale and bias, or into a constant factor, when nobody else reads the value.
 */
export async function divideInput(
  model: Model,
  value: Value,
  readers: readonly Node[],
  scales: Float32Array,
): Promise<DividedInput> {
  const factors = scales.map((s) => 1 / s);
  const alone = value.uses.every(({ node }) => readers.includes(node)) && !outputValues(model).has(value);
  const producer = alone ? value.producer : undefined;
  const inputs = producer && foldableInputs(model, producer, value, scales.length);
  const graph = readers[0]?.graph ?? model.graph;
  if (producer && inputs) {
    for (const index of inputs) {
      const old = producer.inputs[index] as Value;
      const data = (await (old.tensor as Tensor).data()) as Float32Array;
      const scaled = factors.map((factor, c) => factor * (data[c] as number));
      producer.setInput(index, graph.addInitializer(`${old.name}.scaled`, Tensor.float32([scales.length], scaled)));
    }
    return { folded: producer.name || producer.opType };
  }
  const b = new Builder(graph, { prefix: `${value.name}.`, before: readers[0] });
  const scaled = b.op("Mul", [value, b.constant("factors", Tensor.float32([scales.length], factors))], {
    name: "scaled",
  });
  [scaled.dtype, scaled.shape] = [value.dtype, value.shape];
  for (const use of value.uses.slice()) if (readers.includes(use.node)) use.node.setInput(use.index, scaled);
  return { folded: undefined };
}

/** Inputs of normalizations along the last axis (by default) in which their first output is linear: scale and shift. */
const LINEAR_INPUTS: Readonly<Record<string, readonly number[]>> = {
  LayerNormalization: [1, 2],
  RMSNormalization: [1],
  SimplifiedLayerNormalization: [1],
  SkipLayerNormalization: [2, 3],
  SkipSimplifiedLayerNormalization: [2],
};

/** Constant inputs of an operator in which its first output is linear, channel by channel along the last axis. */
function foldableInputs(model: Model, node: Node, output: Value, channels: number): number[] | undefined {
  const isVector = (value: Value | undefined): boolean => {
    const tensor = constantTensor(model, value);
    return tensor?.dtype === "float32" && tensor.elements === channels && tensor.shape.at(-1) === channels;
  };
  if (node.outputs[0] !== output) return undefined;
  if (node.domain === "" && node.opType === "Mul") {
    const index = node.inputs.findIndex(isVector);
    return index >= 0 ? [index] : undefined;
  }
  const axis = node.int("axis", -1);
  if (axis !== -1 && axis + 1 !== node.inputs[0]?.shape?.length) return undefined;
  const inputs = LINEAR_INPUTS[node.opType]?.filter((input) => node.inputs[input]);
  return inputs?.every((input) => isVector(node.inputs[input])) ? inputs : undefined;
}
