/** EmbedLayerNormalization as plain operators. */
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { add, concreteShape, ints, slice } from "../gradients/words.ts";
import type { Lower } from "../spec.ts";
import { normalizedLast } from "./attend.ts";

// y = normalize(word[id] + position[place] + segment[s])·γ + β; the mask's sums; the sum before normalization
export const lowerEmbedding: Lower = (c) => {
  const [ids, segments, words, places, segmentTable, gamma, beta, mask, positions] = c.node.inputs as readonly (
    | Value
    | undefined
  )[];
  if (!ids || !words || !places || !gamma) return undefined;
  const row = positions
    ? c.b.op("Gather", [places, positions])
    : slice(c, places, [0], [0], [concreteShape(c.node, ids, 1)[0] as number]);
  let sum = add(c, c.b.op("Gather", [words, ids]), row); // (b, s, h)
  if (segments && segmentTable) sum = add(c, sum, c.b.op("Gather", [segmentTable, segments]));
  const y = normalizedLast(c, sum, gamma, beta, c.node.float("epsilon", 1e-12), 3);
  if (c.node.outputs.length < 2) return [y];
  const counted = mask ?? c.b.op("Mul", [ids, c.b.constant("none", zeroLike(ids))]);
  const lengths =
    c.opset >= 13
      ? c.b.op("ReduceSum", [counted, ints(c, [1])], { attributes: { keepdims: 0 } })
      : c.b.op("ReduceSum", [counted], { attributes: { axes: [1], keepdims: 0 } });
  return [y, c.b.op("Cast", [lengths], { attributes: { to: 6 } }), sum].slice(0, c.node.outputs.length);
};

function zeroLike(ids: Value): Tensor {
  return ids.dtype === "int64" ? Tensor.int64([0], []) : Tensor.of("int32", [], Int32Array.of(0));
}
