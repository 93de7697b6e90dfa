/** Which values of a model are constants that a transform may rely on, and where their elements lie. */
import type { DType } from "../base/dtype.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";

/** From this IR version on, an initializer that is also a graph input is a default which the caller may override. */
const OVERRIDABLE_SINCE_IR = 4;

/** The tensor behind a value that never changes: an initializer that no caller can override, or the output of a `Constant`. */
export function constantTensor(model: Model, value: Value | undefined): Tensor | undefined {
  if (!value) return undefined;
  if (value.tensor) return isOverridable(model, value) ? undefined : value.tensor;
  const producer = value.producer;
  if (producer?.opType !== "Constant" || producer.domain !== "") return undefined;
  return constantNodeTensor(producer);
}

/** True for an initializer that callers may replace by feeding an input of that name. */
export function isOverridable(model: Model, value: Value): boolean {
  return model.irVersion >= OVERRIDABLE_SINCE_IR && value.tensor !== undefined && model.graph.inputs.includes(value);
}

/** The tensor that a `Constant` node holds, whichever of its attributes has it; undefined for strings and sparse tensors. */
export function constantNodeTensor(node: Value["producer"]): Tensor | undefined {
  for (const [name, attribute] of node?.attributes ?? []) {
    if (name === "value" && attribute.type === "tensor") return attribute.value;
    if (name === "value_float" && attribute.type === "float") return Tensor.float32([], [attribute.value]);
    if (name === "value_floats" && attribute.type === "floats")
      return Tensor.float32([attribute.value.length], attribute.value);
    if (name === "value_int" && attribute.type === "int")
      return Tensor.of("int64", [], BigInt64Array.of(BigInt(attribute.value)));
    if (name === "value_ints" && attribute.type === "ints")
      return Tensor.of("int64", [attribute.value.length], BigInt64Array.from(attribute.value, BigInt));
  }
  return undefined;
}

/** Values that some graph or subgraph returns: they cannot lose their producer. */
export function outputValues(model: Model): Set<Value> {
  const outputs = new Set<Value>();
  for (const graph of model.graph.allGraphs()) for (const output of graph.outputs) outputs.add(output);
  return outputs;
}

/** The only node that reads the value, or undefined if there are more, none, or the value leaves the graph. */
export function onlyUse(value: Value, outputs: ReadonlySet<Value>): Value["uses"][number] | undefined {
  return value.uses.length === 1 && !outputs.has(value) ? value.uses[0] : undefined;
}

/** Elements of a constant as doubles; undefined for dtypes that do not convert exactly to double without a kernel. */
export async function readNumbers(tensor: Tensor): Promise<Float64Array | undefined> {
  if (!EXACT.has(tensor.dtype)) return undefined;
  const data = await tensor.data();
  return data instanceof BigInt64Array || data instanceof BigUint64Array
    ? Float64Array.from(data, Number)
    : Float64Array.from(data);
}

const EXACT: ReadonlySet<DType> = new Set([
  "float32",
  "float64",
  "int8",
  "uint8",
  "int16",
  "uint16",
  "int32",
  "uint32",
  "int64",
  "bool",
]);

/**
 * Turns `Constant` nodes into initializers of their graph, so that transforms see one kind of constant. Function bodies
 * cannot hold initializers and are left alone. Returns how many nodes went.
 */
export function liftConstants(model: Model): number {
  let count = 0;
  for (const graph of model.graph.allGraphs()) {
    const gone = graph.nodes.filter((node) => {
      if (node.opType !== "Constant" || node.domain !== "") return false;
      const output = node.outputs[0];
      const tensor = constantNodeTensor(node);
      if (!output || !tensor || graph.isOutput(output)) return false;
      // The value keeps its name and its uses; only its origin changes.
      output.producer = undefined;
      output.tensor = tensor;
      output.dtype = tensor.dtype;
      output.shape = tensor.shape;
      graph.initializers.set(output.name, output);
      return true;
    });
    if (gone.length > 0) graph.remove(...gone);
    count += gone.length;
  }
  return count;
}

/**
 * Makes every initializer a constant: those that the file also lists as inputs (older exporters list all weights) stop
 * being inputs, and so can no longer be fed. Returns the names of those that a caller could have fed until now; files
 * before IR version 4 had to list them and never let them be fed.
 */
export function freezeDefaults(model: Model): string[] {
  const listed = model.graph.inputs.filter((input) => input.tensor !== undefined);
  const overridable = listed.filter((input) => isOverridable(model, input)).map((input) => input.name);
  if (listed.length > 0) {
    const kept = model.graph.inputs.filter((input) => input.tensor === undefined);
    model.graph.inputs.splice(0, model.graph.inputs.length, ...kept);
  }
  model.irVersion = Math.max(model.irVersion, OVERRIDABLE_SINCE_IR);
  return overridable;
}
