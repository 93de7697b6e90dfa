/** Comparisons and logic; results are bool. */
import { type Dim, isConcrete } from "../base/shape.ts";
import { SAME_AXES, broadcastAxes } from "./axes.ts";
import {
  type OpTable,
  broadcastContents,
  broadcastShapes,
  dtypeOf,
  perOutput,
  shapeOf,
  withContents,
} from "./helpers.ts";
import type { Infer, OpSpec } from "./spec.ts";
import { isEqual, isLess } from "./symbolic.ts";

/** A fact about two elements, where it holds or fails for every value of the symbols. */
type Fact = (a: Dim, b: Dim) => boolean | undefined;

function comparing(fact: Fact | undefined): Infer {
  return (context) => {
    const shape = broadcastShapes(context, [shapeOf(context, 0), shapeOf(context, 1)]);
    const contents =
      fact &&
      broadcastContents(context.inputs, shape, (a = null, b = null) => {
        const answer = fact(a, b);
        return answer === undefined ? null : Number(answer);
      });
    return [withContents("bool", shape, contents)];
  };
}

function compare(since: number, fact?: Fact): OpSpec {
  return {
    since,
    infer: comparing(fact),
    cost: perOutput(),
    axes: broadcastAxes,
    grad: "none",
    traits: { elementwise: true },
  };
}

const not = (x: boolean | undefined): boolean | undefined => (x === undefined ? undefined : !x);

const negation: OpSpec = {
  since: 1,
  infer: (context) => {
    const input = context.inputs[0];
    const contents = isConcrete(input?.contents) ? input.contents.map((x) => Number(x === 0)) : undefined;
    return [withContents("bool", input?.shape, contents)];
  },
  cost: perOutput(),
  axes: SAME_AXES,
  grad: "none",
  traits: { elementwise: true },
};

const and: Fact = (a, b) => (a === 0 || b === 0 ? false : a === null || b === null ? undefined : true);
const or: Fact = (a, b) => {
  if ([a, b].some((x) => typeof x === "number" && x !== 0)) return true;
  return a === null || b === null ? undefined : false;
};

/** Bitwise operators keep the dtype of their first input. */
function bitwise(inputs: 1 | 2): OpSpec {
  return {
    since: 18,
    infer: (context) => [
      {
        dtype: dtypeOf(context, 0),
        shape:
          inputs === 1 ? shapeOf(context, 0) : broadcastShapes(context, [shapeOf(context, 0), shapeOf(context, 1)]),
      },
    ],
    cost: perOutput(),
    axes: inputs === 1 ? SAME_AXES : broadcastAxes,
    grad: "none",
    traits: { elementwise: true },
  };
}

export const logic: OpTable = {
  Equal: compare(7, isEqual),
  Less: compare(7, isLess),
  Greater: compare(7, (a, b) => isLess(b, a)),
  LessOrEqual: compare(12, (a, b) => not(isLess(b, a))),
  GreaterOrEqual: compare(12, (a, b) => not(isLess(a, b))),
  And: compare(7, and),
  Or: compare(7, or),
  Xor: compare(7),
  Not: negation,
  BitwiseAnd: bitwise(2),
  BitwiseOr: bitwise(2),
  BitwiseXor: bitwise(2),
  BitwiseNot: bitwise(1),
};
