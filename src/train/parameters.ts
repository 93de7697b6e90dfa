/** Which tensors of a model are learned, and where pruning left zeros in them. */
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";

/** Operators whose stored operand, beside a learned layer, is a learned scale or shift. */
const AFFINE = new Set(["Add", "Sub", "Mul", "Div"]);

/**
 * The learned float32 initializers: kernels, biases, scales and tables by the operator records, and stored tensors with more
 * than one element that are added to or multiplied with what a learned layer computed. Running statistics, preprocessing
 * constants before the first learned layer, masks of attention and scalars are not among them. In order of first use.
 */
export function trainableParameters(model: Model): Value[] {
  const { graph } = model;
  const found = new Set<Value>();
  const learned = new Set<Value>(); // values computed from a learned weight
  for (const node of graph.nodes) {
    const spec = specOf(node, model.opsets.get(node.domain) ?? model.opset);
    const affine = node.domain === "" && AFFINE.has(node.opType);
    const weights = affine ? [] : typeof spec?.weights === "function" ? spec.weights(node) : (spec?.weights ?? []);
    const take = (input: Value | undefined): void => {
      const stored = storedBehind(input);
      if (stored?.dtype === "float32") found.add(stored);
    };
    for (const weight of weights) if (weight.role !== "statistic") take(node.inputs[weight.input]);
    const dependent = node.inputs.some((input) => input && (learned.has(input) || found.has(input)));
    if (affine && dependent)
      for (const input of node.inputs)
        if ((storedBehind(input)?.tensor?.elements ?? 0) > 1 && !isMask(node, input)) take(input);
    if (dependent || node.inputs.some((input) => input && found.has(storedBehind(input) ?? input)))
      for (const output of node.outputs) learned.add(output);
  }
  return [...found].filter((value) => value.tensor && graph.initializers.has(value.name));
}

/**
 * True for a matrix of positions (…, queries, keys) that is added to what goes into a Softmax: it says which positions may
 * be seen. The bias of a last layer is a vector.
 */
function isMask(node: Node, input: Value | undefined): boolean {
  const [queries = 1, keys = 1] = storedBehind(input)?.tensor?.shape.slice(-2) ?? [];
  const scores = node.opType === "Add" && node.outputs[0]?.uses.some((use) => use.node.opType === "Softmax");
  return scores === true && queries > 1 && keys > 1;
}

/** The initializer that a value is, or is a transposed, reshaped or passed-on copy of. */
function storedBehind(value: Value | undefined): Value | undefined {
  let current = value;
  while (current && !current.tensor) {
    const producer = current.producer;
    if (!producer || !["Transpose", "Identity", "Reshape"].includes(producer.opType)) return undefined;
    current = producer.inputs[0];
  }
  return current;
}

/**
 * Masks (bool) of weights that pruning has thinned: true where a weight is not zero, for every named matrix or kernel of which at
 * least `threshold` (default 0.05) is exactly zero.
 */
export async function zeroMasks(
  model: Model,
  names: readonly string[],
  threshold = 0.05,
): Promise<Map<string, Tensor>> {
  const masks = new Map<string, Tensor>();
  for (const name of names) {
    const tensor = model.graph.initializers.get(name)?.tensor;
    if (!tensor || tensor.dtype !== "float32" || tensor.shape.length < 2) continue;
    const data = (await tensor.data()) as Float32Array;
    const mask = new Uint8Array(data.length);
    let kept = 0;
    for (let i = 0; i < data.length; i++)
      if (data[i] !== 0) {
        mask[i] = 1;
        kept++;
      }
    if (data.length - kept >= threshold * data.length && kept < data.length)
      masks.set(name, Tensor.of("bool", tensor.shape, mask));
  }
  return masks;
}
