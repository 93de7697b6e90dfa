/** Cuts a part of a graph out as a model of its own. */
import { copyNode } from "../ir/clone.ts";
import { Graph, type Node, Value } from "../ir/graph.ts";
import { Model } from "../ir/model.ts";

/**
 * The model that computes `outputs` from `inputs` (values of `model.graph`, keeping their names); weights are shared, not
 * copied. Undefined when something else feeds the part: another graph input, or a subgraph that captures values.
 */
export function extract(model: Model, inputs: readonly Value[], outputs: readonly Value[]): Model | undefined {
  const part = new Model(new Graph(model.graph.name), model.opset, model.irVersion);
  for (const [domain, version] of model.opsets) part.opsets.set(domain, version);
  const copies = new Map<Value, Value>();
  const copyOf = (value: Value): Value => {
    const known = copies.get(value);
    if (known) return known;
    const copy = new Value(value.name, value.dtype, value.shape, value.tensor);
    copies.set(value, copy);
    return copy;
  };
  for (const input of inputs) part.graph.inputs.push(copyOf(input));
  const needed = nodesBetween(inputs, outputs);
  if (!needed) return undefined;
  for (const node of model.graph.nodes.filter((candidate) => needed.has(candidate))) {
    for (const input of node.inputs)
      if (input?.tensor && !copies.has(input)) part.graph.initializers.set(input.name, copyOf(input));
    part.graph.add(copyNode(node, copyOf));
  }
  for (const output of outputs) part.graph.outputs.push(copyOf(output));
  return part;
}

/** Nodes on the way back from `outputs` to `inputs` and to weights; undefined when the way leads elsewhere. */
function nodesBetween(inputs: readonly Value[], outputs: readonly Value[]): Set<Node> | undefined {
  const needed = new Set<Node>();
  const stack = [...outputs];
  const seen = new Set<Value>(inputs);
  for (let value = stack.pop(); value; value = stack.pop()) {
    if (seen.has(value)) continue;
    seen.add(value);
    if (value.tensor) continue;
    if (!value.producer || value.producer.subgraphs().next().done !== true) return undefined;
    needed.add(value.producer);
    for (const input of value.producer.inputs) if (input) stack.push(input);
  }
  return needed;
}
