/** A copy of a model cut at chosen values: each layer between two cuts reads what it is fed there instead of what was computed. */
import { cloneModel } from "../ir/clone.ts";
import { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { exposeValues } from "../run/expose.ts";

export interface CutModel {
  readonly model: Model;
  /** Names of the added inputs, by the name of the value that each stands for. */
  readonly inputs: ReadonlyMap<string, string>;
}

/**
 * Everything that reads a value named in `cuts` reads a new input instead; the outputs are the values named in `targets`.
 * Only what they need is kept, so one run gives the error that each layer adds by itself.
 */
export function cutLayers(model: Model, cuts: readonly string[], targets: readonly string[]): CutModel {
  const copy = cloneModel(model);
  const { graph } = copy;
  const byName = new Map([...graph.values()].map((value) => [value.name, value]));
  const added = new Map<string, string>();
  for (const name of cuts) {
    const value = byName.get(name);
    if (!value || value.uses.length === 0) continue;
    const input = new Value(graph.uniqueName(`${name}_fed`), value.dtype ?? "float32", value.shape);
    graph.inputs.push(input);
    value.replaceUses(input);
    // A subgraph that returns a captured value reads it without a use.
    for (const inner of graph.allGraphs())
      if (inner !== graph)
        for (const [index, output] of inner.outputs.entries()) if (output === value) inner.outputs[index] = input;
    added.set(name, input.name);
  }
  const exposed = dropUnreadInputs(exposeValues(copy, targets));
  const names = new Set(exposed.graph.inputs.map((value) => value.name));
  return { model: exposed, inputs: new Map([...added].filter(([, input]) => names.has(input))) };
}

/** Inputs that nothing reads any more are not declared, with or without a default: nobody has to feed them. Returns the model. */
export function dropUnreadInputs(model: Model): Model {
  const { graph } = model;
  const returned = new Set<Value>();
  for (const inner of graph.allGraphs()) for (const output of inner.outputs) returned.add(output);
  const unread = graph.inputs.filter((value) => value.uses.length === 0 && !returned.has(value));
  for (const value of unread) {
    graph.inputs.splice(graph.inputs.indexOf(value), 1);
    if (value.tensor) graph.removeInitializer(value);
  }
  return model;
}
