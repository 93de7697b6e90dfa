/** Stores the 4-bit codes of a statically quantized model in 4 bits; until then they were bytes, which are easier to change. */
import type { Model } from "../../ir/model.ts";
import { packCodes } from "../../base/packed.ts";
import { hasPackedType, irVersionFor, unpackCodes } from "../../transform/unpack-weights.ts";
import { type LinearCodes, storedBits } from "./static/linear-weights.ts";
import type { LinearNode } from "./static/qdq-plan.ts";

/** Replaces int8 codes of [−8, 7] by packed ones that the engine unpacks at load, in front of the same DequantizeLinear. */
export async function packNarrow(
  model: Model,
  linear: readonly LinearNode[],
  codes: readonly LinearCodes[],
): Promise<void> {
  for (const [index, { node, weight }] of linear.entries()) {
    const dequantize = node.inputs[1]?.producer;
    const stored = dequantize?.inputs[0];
    const own = codes[index];
    if (!own || storedBits(own) > 4 || !dequantize || !stored?.tensor) continue;
    const bytes = Uint8Array.from((await stored.tensor.data()) as Int8Array, (code) => code & 15);
    const value = unpackCodes(
      model.graph,
      model.opset,
      packCodes(bytes, 4),
      stored.tensor.shape,
      weight.name,
      dequantize,
    );
    dequantize.setInput(0, value);
    model.graph.removeInitializer(stored);
    if (hasPackedType(4, model.opset)) model.irVersion = Math.max(model.irVersion, irVersionFor("int4"));
  }
}
