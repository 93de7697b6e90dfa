/** Random numbers: never folded, for each run draws new ones. */
import { type DType, dtypeFromCode } from "../base/dtype.ts";
import { type OpTable, dtypeOf, perOutput, shapeOf } from "./helpers.ts";
import type { Infer, OpSpec } from "./spec.ts";

function drawing(since: number, infer: Infer): OpSpec {
  return { since, infer, cost: perOutput(), axes: "opaque", grad: "none", traits: { impure: true } };
}

/** The `dtype` attribute, or else the fallback. */
function chosen(code: number | undefined, fallback: DType | undefined): DType | undefined {
  return code ? dtypeFromCode(code) : fallback;
}

const fromAttribute: Infer = ({ node }) => [{ dtype: chosen(node.int("dtype"), "float32"), shape: node.ints("shape") }];

const like: Infer = (context) => [
  { dtype: chosen(context.node.int("dtype"), dtypeOf(context, 0)), shape: shapeOf(context, 0) },
];

/** Class indices drawn from rows of log-probabilities (b, classes). */
const multinomial: Infer = (context) => [
  {
    dtype: chosen(context.node.int("dtype"), "int32"),
    shape: [shapeOf(context, 0)?.[0] ?? null, context.node.int("sample_size", 1)],
  },
];

export const random: OpTable = {
  RandomUniform: drawing(1, fromAttribute),
  RandomNormal: drawing(1, fromAttribute),
  RandomUniformLike: { ...drawing(1, like), grad: "zero" },
  RandomNormalLike: { ...drawing(1, like), grad: "zero" },
  Bernoulli: drawing(15, like),
  Multinomial: drawing(7, multinomial),
};
