/** Fixes the number of samples of a graph, so that every shape in it is known. */
import { PareError } from "../base/error.ts";
import { formatShape } from "../base/shape.ts";
import type { Graph, Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";
import { dependents } from "./dependents.ts";

/**
 * Fixes the batch axis of every input and forgets the shapes that follow from it. Where the model was made for another
 * fixed batch size, constant Reshape targets of what depends on the inputs change with it.
 */
export function bindBatch(graph: Graph, batch: number): void {
  const inputs = graph.inputs.filter((input) => !input.tensor);
  const moving = dependents(graph, inputs);
  for (const input of inputs) {
    const [old, ...rest] = input.shape ?? [];
    if (old === undefined)
      throw new PareError("unsupported", "An input without a batch axis cannot be trained on", {
        where: `input '${input.name}'`,
        found: formatShape(input.shape),
      });
    input.shape = [batch, ...rest];
    if (typeof old === "number" && old !== batch) rebatchReshapes(graph, moving, old, batch);
  }
  for (const node of graph.nodes) for (const output of node.outputs) output.shape = undefined;
}

/** Changes the leading `old` of constant Reshape targets to `batch`. */
function rebatchReshapes(graph: Graph, moving: ReadonlySet<Value>, old: number, batch: number): void {
  for (const node of graph.nodes) {
    const [x, target] = node.inputs;
    if (node.opType !== "Reshape" || !x || !moving.has(x)) continue;
    const attribute = target?.producer?.opType === "Constant" ? target.producer.attributes.get("value") : undefined;
    const sizes = (target?.tensor ?? (attribute?.type === "tensor" ? attribute.value : undefined))?.peekNumbers();
    if (sizes?.[0] !== old) continue;
    node.setInput(1, graph.addInitializer("batched_shape", Tensor.int64([batch, ...sizes.slice(1)])));
  }
}
