/** Removes nodes whose results nobody reads, and initializers that no node uses. */
import type { Graph, Node } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { outputValues } from "./constants.ts";

export interface RemovedDead {
  readonly nodes: number;
  readonly initializers: number;
  /** Bytes of the initializers that went. */
  readonly bytes: number;
}

/** Dead code elimination in the graph and its subgraphs. Declared inputs stay: they are the model's interface. */
export function removeDead(model: Model): RemovedDead {
  let nodes = 0;
  let initializers = 0;
  let bytes = 0;
  const outputs = outputValues(model);
  const sweep = (graph: Graph): void => {
    const gone = new Set<Node>();
    for (const node of graph.nodes.toReversed()) {
      if (node.outputs.some((output) => output.uses.length > 0 || outputs.has(output))) {
        for (const subgraph of node.subgraphs()) sweep(subgraph);
        continue;
      }
      releaseDeep(node);
      gone.add(node);
    }
    nodes += gone.size;
    if (gone.size > 0) graph.remove(...gone);
  };
  sweep(model.graph);
  for (const graph of model.graph.allGraphs())
    for (const value of Array.from(graph.initializers.values())) {
      if (value.uses.length > 0 || outputs.has(value) || graph.inputs.includes(value)) continue;
      graph.removeInitializer(value);
      initializers++;
      bytes += value.tensor?.byteLength ?? 0;
    }
  return { nodes, initializers, bytes };
}

/** Detaches a node and everything inside its subgraphs, so that captured outer values lose these uses. */
export function releaseDeep(node: Node): void {
  node.detach();
  for (const subgraph of node.subgraphs()) for (const inner of subgraph.allNodes()) inner.detach();
}
