/** Makes constants of sizes that a graph reads off its own values although they are the same at every run. */
import { inferTypes } from "../analyse/shapes.ts";
import { type DType, arrayTypeOf } from "../base/dtype.ts";
import { isConcrete } from "../base/shape.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { outputValues } from "./constants.ts";
import { removeDead } from "./remove-dead.ts";

const SETTLED: ReadonlySet<DType> = new Set(["int64", "int32", "bool", "float32", "float64"]);

/**
 * Replaces every small value that inference knows in full (the 64 of `Shape → Gather`, the √64 made of it) by an initializer,
 * so that it stays what it is when channels are cut. Sizes that only a run tells stay computed. Returns how many went.
 */
export function settleSizes(model: Model): number {
  const { types } = inferTypes(model);
  const outputs = outputValues(model);
  let count = 0;
  for (const graph of model.graph.allGraphs())
    for (const node of graph.nodes)
      for (const output of node.outputs) {
        const type = types.get(output);
        const { contents, dtype, shape } = type ?? {};
        if (output.uses.length === 0 || outputs.has(output) || !dtype || !SETTLED.has(dtype)) continue;
        if (!isConcrete(contents) || !isConcrete(shape)) continue;
        const data =
          dtype === "int64" ? BigInt64Array.from(contents, BigInt) : Reflect.construct(arrayTypeOf(dtype), [contents]);
        output.replaceUses(graph.addInitializer(output.name, Tensor.of(dtype, shape, data)));
        count++;
      }
  if (count > 0) removeDead(model);
  return count;
}
