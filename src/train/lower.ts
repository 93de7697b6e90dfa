/** Rewrites operators that have no gradient of their own, but a lowered form that has, on the way from weights to a loss. */
import { inferShapes, inferTypes } from "../analyse/shapes.ts";
import { PareError } from "../base/error.ts";
import { isConcrete } from "../base/shape.ts";
import { Builder } from "../ir/builder.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import type { RuleContext } from "../ops/spec.ts";
import { ancestors, dependents } from "./dependents.ts";

/** Lowered forms may contain operators that are lowered in turn, and loops within loops; real nesting is a few levels deep. */
const MAX_ROUNDS = 32;

/** Contents of the small integer tensors of a model that inference finds to be the same at every run. */
export function knownContents(model: Model): RuleContext["contents"] {
  const { types } = inferTypes(model);
  return (value) => {
    const contents = value && types.get(value)?.contents;
    return isConcrete(contents) ? contents : undefined;
  };
}

/**
 * Replaces every operator between `wrt` and `of` whose gradient is that of its lowered form, until none is left. Values that
 * were its outputs stay the same objects under the same names. Shapes are inferred again where anything changed.
 */
export function lowerPath(model: Model, of: Value, wrt: readonly Value[]): void {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const moving = dependents(model.graph, wrt);
    const path = ancestors(model.graph, of);
    const isCandidate = (node: Node): boolean => {
      const spec = specOf(node, model.opset);
      return (
        spec?.lower !== undefined &&
        typeof spec.grad !== "function" &&
        node.outputs.some((output) => moving.has(output))
      );
    };
    const found: [Graph, Node][] = [];
    for (const node of path) {
      if (isCandidate(node)) found.push([model.graph, node]);
      for (const subgraph of node.subgraphs())
        for (const inner of subgraph.allGraphs())
          for (const each of inner.nodes) if (isCandidate(each)) found.push([inner, each]);
    }
    if (found.length === 0) return;
    const contents = knownContents(model);
    let changed = false;
    for (const [graph, node] of found)
      if (node.graph === graph && lowerNode(graph, node, model.opset, contents)) changed = true;
    if (!changed) return;
    inferShapes(model);
  }
  throw new PareError("internal", "Operators are lowered without end", { where: `the path to '${of.name}'` });
}

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
