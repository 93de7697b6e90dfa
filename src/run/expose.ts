/** A copy of a model whose outputs are chosen inner values, without what they do not need. */
import { PareError } from "../base/error.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";

/**
 * A model that computes just the named values of the main graph (those that are inputs are left to the caller, who feeds
 * them). Weights are shared with `model`; inputs stay as declared. Throws `bad-option` for a name that is not there.
 */
export function exposeValues(model: Model, names: readonly string[]): Model {
  const exposed = cloneModel(model);
  const { graph } = exposed;
  const byName = new Map([...graph.values()].map((value) => [value.name, value]));
  graph.outputs.length = 0;
  for (const name of new Set(names)) {
    const value = byName.get(name);
    if (!value) throw new PareError("bad-option", `The model's main graph has no value '${name}'`);
    if (value.producer || value.tensor) graph.outputs.push(value);
  }
  keepNeeded(graph);
  return exposed;
}

/** Removes nodes and initializers that the outputs do not need. */
function keepNeeded(graph: Graph): void {
  const needed = new Set<Node>();
  const constants = new Set<Value>();
  const open = [...graph.outputs];
  const visit = (value: Value | undefined): void => {
    if (!value) return;
    if (value.tensor) constants.add(value);
    const { producer } = value;
    if (producer && producer.graph === graph && !needed.has(producer)) {
      needed.add(producer);
      open.push(...readBy(producer));
    }
  };
  for (let value = open.pop(); value; value = open.pop()) visit(value);
  for (const node of graph.nodes)
    if (!needed.has(node))
      for (const subgraph of node.subgraphs()) for (const inner of subgraph.allNodes()) inner.detach();
  graph.remove(...graph.nodes.filter((node) => !needed.has(node)));
  for (const value of graph.initializers.values())
    if (!constants.has(value) && !graph.inputs.includes(value)) graph.removeInitializer(value);
}

/** Everything that a node reads: its inputs, and what its subgraphs capture or put out. */
function readBy(node: Node): Value[] {
  const values = node.inputs.filter((value) => value !== undefined);
  for (const subgraph of node.subgraphs()) {
    values.push(...subgraph.outputs);
    for (const inner of subgraph.nodes) values.push(...readBy(inner));
  }
  return values;
}
