/** Puts two models on the same inputs into one graph, so that values of both can be compared inside the engine. */
import { PareError } from "../base/error.ts";
import { cloneModel, graftGraph } from "../ir/clone.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { convertOpset } from "./opset.ts";

export interface Joined {
  /** The first model's names stay as they are; it has the outputs of both, the first's before the second's. */
  readonly model: Model;
  /** What a value of the second model's main graph is called now, by its name there. */
  readonly names: ReadonlyMap<string, string>;
}

/**
 * One model that computes what both compute. Inputs of the second are the first's inputs of the same name; its other names
 * get a prefix. Both are brought to the newer of their opsets, at least `opset`. Neither is changed; weights are shared.
 * Throws `unsupported` where the two need different versions of a custom domain, `shape-mismatch` where inputs differ.
 */
export function joinModels(
  first: Model,
  second: Model,
  options: { readonly prefix: string; readonly opset?: number },
): Joined {
  const opset = Math.max(first.opset, second.opset, options.opset ?? 0);
  const [model, other] = [cloneModel(first), cloneModel(second)];
  for (const each of [model, other]) if (each.opset < opset) convertOpset(each, opset);
  for (const [domain, version] of other.opsets) {
    const own = model.opsets.get(domain) ?? version;
    if (own !== version)
      throw new PareError("unsupported", `The models use different versions of the operators of '${domain}'`, {
        found: `${own} and ${version}`,
      });
    model.opsets.set(domain, version);
  }
  for (const body of other.functions)
    if (!model.functions.some(({ name, domain }) => name === body.name && domain === body.domain))
      model.functions.push(body);
  const { graph } = model;
  const shared = new Map<Value, Value>();
  for (const input of other.graph.inputs) {
    if (input.tensor) continue;
    const own = graph.inputs.find(({ name }) => name === input.name);
    if (!own)
      throw new PareError("shape-mismatch", "The models have different inputs", {
        where: `input '${input.name}'`,
        expected: `one of ${graph.inputs.map(({ name }) => name).join(", ")}`,
      });
    shared.set(input, own);
  }
  const copies = graftGraph(other.graph, graph, options.prefix, shared);
  const copyOf = (value: Value): Value => copies.get(value) as Value;
  const names = new Map([...other.graph.values()].map((value) => [value.name, copyOf(value).name]));
  graph.outputs.push(...other.graph.outputs.map(copyOf));
  return { model, names };
}
