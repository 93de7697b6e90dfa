/** Rewrites operators that have no gradient of their own, but a lowered form that has, on the way from weights to a loss. */
import { knownContents } from "../analyse/known-contents.ts";
import { inferShapes } from "../analyse/shapes.ts";
import { PareError } from "../base/error.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { lowerNode } from "../ops/lower-node.ts";
import { specOf } from "../ops/registry.ts";
import { SIMULATED_DOMAIN } from "../ops/simulated.ts";
import { ancestors, dependents } from "./dependents.ts";

/** Lowered forms may contain operators that are lowered in turn, and loops within loops; real nesting is a few levels deep. */
const MAX_ROUNDS = 32;

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

/** Puts plain operators in the places of those that simulate low-bit numbers, which no engine knows. Shapes are known. */
export function lowerSimulated({ graph, opset }: Model): void {
  for (const node of graph.nodes.filter(({ domain }) => domain === SIMULATED_DOMAIN))
    lowerNode(graph, node, opset, () => undefined);
}
