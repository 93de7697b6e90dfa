/** Ends of values inside a model, found by the engine itself: one number per sample leaves it instead of the whole value. */
import { Builder } from "../ir/builder.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";

/** Names of the values that hold the least and the greatest number of another one; of each entry of its first axis, if it has several. */
export interface Extents {
  readonly low: string;
  readonly high: string;
}

/** From this operator set on, the axes of ReduceMin and ReduceMax are an input. */
const AXES_INPUT_SINCE = 18;

/** A copy of the model that computes the ends of the named values too, and where; of those that are not float32 it does not. Weights are shared. */
export function withExtents(
  model: Model,
  names: readonly string[],
): { readonly model: Model; readonly extents: ReadonlyMap<string, Extents> } {
  const copy = cloneModel(model);
  const values = new Map([...copy.graph.values()].map((value) => [value.name, value]));
  const extents = new Map<string, Extents>();
  for (const name of new Set(names)) {
    const value = values.get(name);
    if (value?.dtype !== "float32") continue;
    extents.set(name, { low: reduced(copy, "ReduceMin", value), high: reduced(copy, "ReduceMax", value) });
  }
  return { model: copy, extents };
}

/** The name of a value reduced over all axes but the first, or over all if there are no others or their number is not known. */
function reduced(model: Model, op: string, value: Value): string {
  const b = new Builder(model.graph, { prefix: `${value.name}.` });
  const axes = (value.shape ?? []).map((_, axis) => axis).slice(1);
  const inputs = [value];
  if (axes.length > 0 && model.opset >= AXES_INPUT_SINCE) inputs.push(b.constant("axes", Tensor.int64(axes)));
  const listed = axes.length > 0 && model.opset < AXES_INPUT_SINCE;
  const result = b.op(op, inputs, { attributes: { keepdims: 0, axes: listed ? axes : undefined } });
  result.dtype = "float32";
  result.shape = axes.length > 0 ? value.shape?.slice(0, 1) : [];
  return result.name;
}
