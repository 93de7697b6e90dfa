/** Strings, and sequences and optionals: values that are not one tensor, so that their types stay unknown. */
import type { DType } from "../base/dtype.ts";
import { FREE, type OpTable, broadcastShapes, dtypeOf, shapeOf } from "./helpers.ts";
import type { Infer, OpSpec } from "./spec.ts";

function passing(since: number, infer: Infer): OpSpec {
  return { since, infer, cost: FREE, axes: "opaque", grad: "none" };
}

/** Sequences have no dtype and shape of their own. */
const unknown: Infer = ({ node }) => node.outputs.map(() => ({ dtype: undefined, shape: undefined }));

function scalar(dtype: DType): Infer {
  return () => [{ dtype, shape: [] }];
}

function likeInput(dtype: DType): Infer {
  return (context) => [{ dtype, shape: shapeOf(context, 0) }];
}

export const sequence: OpTable = {
  SequenceConstruct: passing(11, unknown),
  SequenceEmpty: passing(11, unknown),
  SequenceInsert: passing(11, unknown),
  SequenceErase: passing(11, unknown),
  SequenceAt: passing(11, unknown),
  SequenceMap: passing(17, unknown),
  SequenceLength: passing(11, scalar("int64")),
  SplitToSequence: passing(11, unknown),
  ConcatFromSequence: passing(11, unknown),
  Optional: passing(15, unknown),
  OptionalGetElement: passing(15, (context) => [{ dtype: dtypeOf(context, 0), shape: shapeOf(context, 0) }]),
  OptionalHasElement: passing(15, scalar("bool")),
  StringConcat: passing(20, (context) => [
    { dtype: "string", shape: broadcastShapes(context, [shapeOf(context, 0), shapeOf(context, 1)]) },
  ]),
  RegexFullMatch: passing(20, likeInput("bool")),
};
