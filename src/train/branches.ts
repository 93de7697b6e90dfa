/** The gradient of a condition: a condition whose branches run the branch again and then backwards. */
import { Builder } from "../ir/builder.ts";
import { cloneGraph, renameApart } from "../ir/clone.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import { zerosLike } from "../ops/gradients/words.ts";
import { removeUnused } from "./remove-unused.ts";

/**
 * Differentiates a branch: from the gradients of its outputs to those of the captured values. `originals` tells, for a value
 * of the copy, which value of the graph it was copied from.
 */
type Differentiate = (
  branch: Graph,
  ends: ReadonlyMap<Value, Value>,
  originals: ReadonlyMap<Value, Value>,
) => ReadonlyMap<Value, Value>;

/**
 * y = condition ? f(v) : h(v), v captured: ∂v = condition ? fᵀ(g) : hᵀ(g), zero in a branch that does not use v.
 * Returns one value for each of `captured`.
 */
export function branchGradients(
  node: Node,
  b: Builder,
  opset: number,
  captured: readonly Value[],
  gradients: readonly (Value | undefined)[],
  differentiate: Differentiate,
): Value[] {
  const attributes = Array.from(node.attributes, ([name, attribute]) => {
    if (attribute.type !== "graph") return [name, attribute] as const;
    const copies = new Map<Value, Value>();
    const branch = cloneGraph(attribute.value, attribute.value.parent, copies);
    renameApart(branch);
    const ends = new Map<Value, Value>();
    const inner = new Builder(branch, { prefix: "grad/" });
    for (const [i, output] of branch.outputs.entries()) {
      const gradient = gradients[i];
      const other = ends.get(output);
      if (gradient) ends.set(output, other ? inner.op("Add", [other, gradient]) : gradient);
    }
    const originals = new Map(Array.from(copies, ([from, to]) => [to, from]));
    const found = differentiate(branch, ends, originals);
    branch.outputs.splice(0);
    for (const value of captured) {
      const known = found.get(value);
      const own = known?.producer && branch.nodes.includes(known.producer) && !branch.isOutput(known);
      const site = { b: inner, opset };
      const output = own ? (known as Value) : known ? inner.op("Identity", [known]) : zerosLike(site, value);
      [output.dtype, output.shape] = [value.dtype, value.shape];
      branch.outputs.push(output);
    }
    removeUnused(branch, branch.nodes);
    return [name, { ...attribute, value: branch }] as const;
  });
  const results = b.ops(node.opType, node.inputs, {
    attributes: Object.fromEntries(attributes),
    domain: node.domain,
    outputs: captured.length,
  });
  for (const [i, result] of results.entries()) [result.dtype, result.shape] = [captured[i]?.dtype, captured[i]?.shape];
  return results;
}
