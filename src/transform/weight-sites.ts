/** Where a model keeps its learned weights: each constant once, with every operator that reads it as a weight. */
import { type DType, isFloat } from "../base/dtype.ts";
import type { Graph, Node, Use, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import type { OpSpec, Weight } from "../ops/spec.ts";
import { constantTensor, outputValues } from "./constants.ts";

/** One reading of a constant as a weight. */
export interface WeightUse {
  readonly node: Node;
  readonly input: number;
  readonly weight: Weight;
  readonly spec: OpSpec;
  /** A matrix transpose between the constant and the operator; undefined when it is read directly. */
  readonly transpose: Node | undefined;
}

/** One constant and all who read it. More than one use: the weight is shared (tied). */
export interface WeightSite {
  readonly value: Value;
  readonly tensor: Tensor;
  /** The graph that holds the constant. */
  readonly graph: Graph;
  readonly uses: readonly WeightUse[];
  /** Readings that are not as a weight: by other or unknown operators. */
  readonly otherUses: readonly Use[];
}

export interface WeightSiteOptions {
  /** Roles to look for; default kernels and tables. */
  readonly roles?: readonly Weight["role"][];
  readonly dtypes?: readonly DType[];
}

/** Every constant float tensor that some known operator uses as a weight, in file order, subgraphs included. */
export function weightSites(model: Model, options: WeightSiteOptions = {}): WeightSite[] {
  const roles = new Set(options.roles ?? ["kernel", "table"]);
  const outputs = outputValues(model);
  const sites: WeightSite[] = [];
  for (const graph of model.graph.allGraphs())
    for (const value of graph.initializers.values()) {
      const tensor = constantTensor(model, value);
      if (!tensor || !isFloat(tensor.dtype) || outputs.has(value)) continue;
      if (options.dtypes && !options.dtypes.includes(tensor.dtype)) continue;
      const uses: WeightUse[] = [];
      const otherUses: Use[] = [];
      for (const use of value.uses) {
        const direct = weightUse(model, use, undefined);
        const through = direct ? [] : transposedUses(model, use, outputs);
        if (direct && roles.has(direct.weight.role)) uses.push(direct);
        else if (through.length > 0 && through.every((found) => roles.has(found.weight.role))) uses.push(...through);
        else otherUses.push(use);
      }
      if (uses.length > 0) sites.push({ value, tensor, graph, uses, otherUses });
    }
  return sites;
}

/** Learned inputs of a node according to its record. */
export function weightsOf(spec: OpSpec, node: Node): readonly Weight[] {
  return typeof spec.weights === "function" ? spec.weights(node) : (spec.weights ?? []);
}

function weightUse(model: Model, use: Use, transpose: Node | undefined): WeightUse | undefined {
  const spec = specOf(use.node, model.opsets.get(use.node.domain) ?? 1);
  const weight = spec && weightsOf(spec, use.node).find(({ input }) => input === use.index);
  return weight && spec ? { node: use.node, input: use.index, weight, spec, transpose } : undefined;
}

/** Uses of the constant's transpose as a weight; all of them or none. */
function transposedUses(model: Model, use: Use, outputs: ReadonlySet<Value>): WeightUse[] {
  const { node } = use;
  const output = node.outputs[0];
  const perm = node.ints("perm") ?? [1, 0];
  if (node.opType !== "Transpose" || node.domain !== "" || !output || outputs.has(output)) return [];
  if (perm.length !== 2 || perm[0] !== 1 || use.node.inputs[0]?.tensor?.shape.length !== 2) return [];
  const found = output.uses.map((next) => weightUse(model, next, node));
  return found.every((one) => one !== undefined) ? found : [];
}
