/** Puts the lowered form of an operator in its place. */
import { Builder } from "../ir/builder.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import { specOf } from "./registry.ts";
import type { RuleContext } from "./spec.ts";

/** Puts a node's lowered form in its place; false where its record gives none for it. */
export function lowerNode(graph: Graph, node: Node, opset: number, contents: RuleContext["contents"]): boolean {
  const start = graph.nodes.length;
  const b = new Builder(graph, { prefix: `${node.name || node.opType}/` });
  const replacements = specOf(node, opset)?.lower?.({ node, b, opset, contents });
  if (!replacements) {
    graph.remove(...graph.nodes.slice(start));
    return false;
  }
  const mine = new Set(graph.nodes.slice(start));
  const heirs = new Map<Value, Value>(); // values of the lowered form, by the old outputs that took their places
  for (const [i, output] of node.outputs.entries()) {
    const by = replacements[i];
    if (!by) continue;
    // The old value stays, now as an output of the lowered form; what it cannot be is passed on by an Identity.
    const free = by.producer !== undefined && mine.has(by.producer) && !heirs.has(by);
    const from = free ? by : b.op("Identity", [heirs.get(by) ?? by]);
    if (free) heirs.set(by, output);
    const producer = from.producer as Node;
    producer.outputs[producer.outputs.indexOf(from)] = output;
    output.producer = producer;
    from.replaceUses(output);
  }
  const made = graph.nodes.splice(start);
  graph.nodes.splice(graph.nodes.indexOf(node), 0, ...made);
  graph.remove(node);
  return true;
}
