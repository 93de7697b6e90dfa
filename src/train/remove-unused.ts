/** Drops nodes that compute what nobody reads. */
import type { Graph, Node, Value } from "../ir/graph.ts";

/** Removes those of `nodes` whose outputs nobody uses, and constants that only they used. */
export function removeUnused(graph: Graph, nodes: readonly Node[], keep: ReadonlySet<Value> = new Set()): void {
  const exported = new Set<Value>(); // values of this graph that a subgraph gives out without using them
  for (const subgraph of graph.allGraphs())
    if (subgraph !== graph) for (const output of subgraph.outputs) exported.add(output);
  const used = (value: Value): boolean =>
    value.uses.length > 0 || graph.isOutput(value) || keep.has(value) || exported.has(value);
  const dead: Node[] = [];
  for (const node of [...nodes].reverse()) {
    if (node.outputs.some(used)) continue;
    const inputs = [...node.inputs];
    node.detach();
    dead.push(node);
    for (const input of inputs)
      if (input?.tensor && !used(input) && !graph.inputs.includes(input) && graph.initializers.has(input.name))
        graph.removeInitializer(input);
  }
  graph.remove(...dead);
}
