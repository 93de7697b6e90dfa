/** BatchNormalization under training: the batch's own statistics, and running ones that move towards them. */
import { PareError } from "../base/error.ts";
import { float } from "../ir/attribute.ts";
import { Builder } from "../ir/builder.ts";
import { type Graph, type Node, Value } from "../ir/graph.ts";
import { add, scale, type Site } from "../ops/gradients/words.ts";
import type { StepState } from "./step-state.ts";

export interface BatchStatistics {
  readonly node: Node;
  /** Mean and variance of the model. */
  readonly running: readonly [Value, Value];
  /** Mean and (biased) variance of the batch, (c). */
  readonly batch: readonly [Value, Value];
}

/**
 * Turns every BatchNormalization with statistics of its own to its training form, whose momentum 0 makes it give out the
 * batch's statistics; the running ones become state. A frozen one normalizes with its running statistics.
 */
export function useBatchStatistics(
  graph: Graph,
  opset: number,
  state: StepState,
  frozen: (name: string) => boolean = () => false,
): BatchStatistics[] {
  const found: BatchStatistics[] = [];
  const nodes = graph.nodes.filter((node) => node.opType === "BatchNormalization" && node.domain === "");
  for (const node of nodes) {
    const [, , , mean, variance] = node.inputs;
    if (!mean?.tensor || !variance?.tensor || mean.uses.length > 1 || variance.uses.length > 1) continue;
    if (frozen(mean.name) || frozen(variance.name)) continue;
    if (opset < 14)
      throw new PareError("unsupported", "Training BatchNormalization needs opset 14", {
        where: `node '${node.name}'`,
        found: `opset ${opset}`,
        help: "Convert the model to a newer opset, or train with its statistics frozen",
      });
    node.attributes.set("training_mode", { type: "int", value: 1 });
    node.attributes.set("momentum", float(0));
    node.outputs.splice(1);
    const [batchMean, batchVariance] = ["batch_mean", "batch_var"].map((part) => {
      const output = new Value(graph.uniqueName(`${node.name}/${part}`), "float32", mean.shape);
      output.producer = node;
      node.outputs.push(output);
      return output;
    }) as [Value, Value];
    state.adopt(mean);
    state.adopt(variance);
    // The engine writes the outputs over these two inputs: it is given copies, whose contents do not matter at momentum 0.
    const b = new Builder(graph, { prefix: "train/", before: node });
    for (const [i, value] of [mean, variance].entries()) node.setInput(3 + i, b.op("Neg", [value]));
    found.push({ node, running: [mean, variance], batch: [batchMean, batchVariance] });
  }
  return found;
}

/** n/(n − 1), which makes the variance of the n elements per channel unbiased; 1 where n is 1 or not known. */
export function unbiased({ node }: BatchStatistics): number {
  const shape = node.inputs[0]?.shape ?? [];
  const n = shape.reduce<number>((count, dim, axis) => (axis === 1 ? count : count * Number(dim)), 1);
  return n > 1 && Number.isFinite(n) ? n / (n - 1) : 1;
}

/** running ← m·running + (1 − m)·batch; the variance is made unbiased. */
export function moveStatistics(
  s: Site,
  statistics: readonly BatchStatistics[],
  momentum: number,
  link: (input: Value, next: Value) => void,
): void {
  for (const each of statistics)
    for (const [i, value] of each.running.entries()) {
      const share = (1 - momentum) * (i === 1 ? unbiased(each) : 1);
      const batch = each.batch[i] as Value;
      link(value, add(s, scale(s, value, momentum, "float32"), scale(s, batch, share, "float32")));
    }
}
