/** What nodes on blocked images mean: their gradients, and the engine's operators that they become. */
import { Builder } from "../../ir/builder.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import type { Site } from "../../ops/gradients/words.ts";
import type { Grad } from "../../ops/spec.ts";
import { batchNormGrad, lowerBatchNorm } from "./batch-norm.ts";
import { convGrad, lowerConv, reorderInputGrad, reorderOutputGrad } from "./conv.ts";
import { ENGINE_DOMAIN, OWN_DOMAIN } from "./words.ts";

const GRADS: ReadonlyMap<string, Grad> = new Map([
  [`${OWN_DOMAIN}::Conv`, convGrad],
  [`${OWN_DOMAIN}::BatchNormalization`, batchNormGrad],
  [`${ENGINE_DOMAIN}::ReorderInput`, reorderInputGrad],
  [`${ENGINE_DOMAIN}::ReorderOutput`, reorderOutputGrad],
]);

/** The gradient of a node on blocked images, undefined for any other node. */
export function blockedGrad(node: Node): Grad | undefined {
  return GRADS.get(`${node.domain}::${node.opType}`);
}

const LOWER: ReadonlyMap<string, (s: Site, node: Node) => readonly Value[]> = new Map([
  ["Conv", lowerConv],
  ["BatchNormalization", lowerBatchNorm],
]);

/** Puts the engine's operators in the places of the nodes that exist only while a step graph is made. */
export function lowerBlocks(model: Model): void {
  const { graph, opset } = model;
  for (const node of graph.nodes.filter(({ domain }) => domain === OWN_DOMAIN)) {
    const b = new Builder(graph, { prefix: `${node.name}/`, before: node });
    const made = LOWER.get(node.opType)?.({ b, opset }, node) ?? [];
    for (const [i, value] of made.entries()) {
      const output = node.outputs[i];
      if (!output) continue;
      // The old value stays, as what the new node gives out.
      const producer = value.producer as Node;
      producer.outputs[producer.outputs.indexOf(value)] = output;
      output.producer = producer;
      value.replaceUses(output);
    }
    graph.remove(node);
  }
}
