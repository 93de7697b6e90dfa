/** Puts the branch in the place of a condition that is the same at every run. */
import { knownContents } from "../analyse/known-contents.ts";
import { inferShapes } from "../analyse/shapes.ts";
import type { Model } from "../ir/model.ts";
import { lowerNode } from "../ops/lower-node.ts";
import { specOf } from "../ops/registry.ts";

/**
 * Replaces every condition of the main graph whose value follows from constants and known sizes by the branch that it chooses, and
 * so on with the conditions that this brings to the main graph. Shapes are inferred again. Returns how many went.
 */
export function inlineBranches(model: Model): number {
  const { graph } = model;
  let count = 0;
  for (let before = -1; before !== count; ) {
    before = count;
    const branching = graph.nodes.filter((node) => specOf(node, model.opset)?.grad === "branches");
    if (branching.length === 0) break;
    const contents = knownContents(model);
    for (const node of branching) if (lowerNode(graph, node, model.opset, contents)) count++;
    if (count > before) inferShapes(model, { fresh: true });
  }
  return count;
}
