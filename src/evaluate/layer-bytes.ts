/** Bytes of weights by layer: what lies between one compared value and the ones before it, in any form that a technique left it in. */
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";

export interface LayerBytes {
  readonly bytes: number;
  /** The node with most weights in it, or the one that computes the value. */
  readonly node: Node | undefined;
}

/**
 * For each named value: the constants from which it is computed since the nearest other named values (int8 codes, scales, codebooks,
 * thin factors: whatever is there). A constant that several layers read counts for the first. What lies after the last value is under "".
 */
export function layerBytes(model: Model, names: readonly string[]): Map<string, LayerBytes> {
  const { graph } = model;
  const cuts = new Set(names);
  const seen = new Set<Node>();
  const counted = new Set<Tensor>();
  const result = new Map<string, LayerBytes>();
  const measure = (node: Node): number => {
    let bytes = 0;
    // 64-bit integers are shapes, axes and indices, not weights.
    for (const tensor of tensorsOf(node))
      if (!counted.has(tensor) && tensor.dtype !== "int64") {
        counted.add(tensor);
        bytes += tensor.byteLength;
      }
    return bytes;
  };
  const gather = (roots: readonly Value[]): LayerBytes => {
    let bytes = 0;
    let heaviest: { node: Node; bytes: number } | undefined;
    const open = roots.flatMap((value) => value.producer ?? []);
    for (let node = open.pop(); node; node = open.pop()) {
      if (seen.has(node)) continue;
      seen.add(node);
      const own = measure(node);
      bytes += own;
      // Weights reach an operator through what unpacks them: the operator that computes with them is the one that reads data.
      if (!heaviest || own > heaviest.bytes) heaviest = { node, bytes: own };
      for (const input of readBy(node)) if (input.producer && !cuts.has(input.name)) open.push(input.producer);
    }
    return { bytes, node: heaviest?.node ?? roots[0]?.producer };
  };
  for (const node of graph.nodes)
    for (const output of node.outputs) if (cuts.has(output.name)) result.set(output.name, gather([output]));
  const rest = gather(graph.outputs);
  if (rest.bytes > 0) result.set("", rest);
  return result;
}

/** Tensors that a node holds: initializers it reads, attributes, and the same of its subgraphs. */
function* tensorsOf(node: Node): Generator<Tensor> {
  for (const input of node.inputs) if (input?.tensor) yield input.tensor;
  for (const attribute of node.attributes.values()) if (attribute.type === "tensor") yield attribute.value;
  for (const subgraph of node.subgraphs()) {
    for (const value of subgraph.initializers.values()) if (value.tensor) yield value.tensor;
    for (const inner of subgraph.nodes) yield* tensorsOf(inner);
  }
}

/** Values that a node reads, those captured by its subgraphs included. */
function* readBy(node: Node): Generator<Value> {
  for (const input of node.inputs) if (input) yield input;
  for (const subgraph of node.subgraphs()) for (const inner of subgraph.nodes) yield* readBy(inner);
}
