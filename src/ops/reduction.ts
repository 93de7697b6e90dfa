/** Reductions over axes, arg-max and arg-min, cumulative sums. */
import { type Dim, isConcrete } from "../base/shape.ts";
import type { Node } from "../ir/graph.ts";
import { topKGrad } from "./gradients/indexing.ts";
import {
  cumProdGrad,
  cumSumGrad,
  reduceExtremumGrad,
  reduceL1Grad,
  reduceL2Grad,
  reduceLogSumExpGrad,
  reduceLogSumGrad,
  reduceMeanGrad,
  reduceProdGrad,
  reduceSumGrad,
  reduceSumSquareGrad,
} from "./gradients/reduction.ts";
import {
  differentiable,
  type OpTable,
  count,
  dtypeOf,
  integers,
  normalizeAxis,
  perInput,
  perOutput,
  shapeOf,
  unknownShape,
  withContents,
} from "./helpers.ts";
import type { Axes, Cost, Infer, InferContext, OpSpec, Traits } from "./spec.ts";
import { add, maximum, minimum, multiply } from "./symbolic.ts";

/** Axes that a reduction removes or makes 1: attribute or input; all when absent, unless `noop_with_empty_axes`. */
function reducedAxes(context: InferContext, rank: number): Set<number> | undefined {
  const axes = integers(context, "axes", 1);
  if (axes === undefined || (axes !== "absent" && !isConcrete(axes))) return undefined;
  if (axes === "absent" || axes.length === 0)
    return new Set(context.node.int("noop_with_empty_axes", 0) ? [] : Array.from({ length: rank }, (_, i) => i));
  return new Set((axes as readonly number[]).map((axis) => normalizeAxis(context, axis, rank)));
}

function reduceInfer(combine: ((a: Dim, b: Dim) => Dim) | undefined): Infer {
  return (context) => {
    const dtype = dtypeOf(context, 0);
    const shape = shapeOf(context, 0);
    if (!shape) return [{ dtype, shape: undefined }];
    const keep = context.node.int("keepdims", 1) !== 0;
    const axes = reducedAxes(context, shape.length);
    if (!axes) return [{ dtype, shape: keep ? unknownShape(shape.length) : undefined }];
    const result = shape.flatMap((dim, i): Dim[] => (axes.has(i) ? (keep ? [1] : []) : [dim]));
    const contents = context.inputs[0]?.contents;
    const whole = contents && combine && contents.length > 0 && axes.size === shape.length;
    return [withContents(dtype, result, whole ? [contents.reduce(combine)] : undefined)];
  };
}

/** Kept axes are tied; reduced ones end: without a trace of zeros in sums, changing the result of the others. */
function reduceAxes(mark: "~" | "!"): Axes {
  return (node) => reducedTerms(node, mark);
}

function reducedTerms(node: Node, mark: "~" | "!"): string | undefined {
  const input = node.inputs[0]?.shape;
  const output = node.outputs[0]?.shape;
  if (!input || !output) return undefined;
  const given = node.ints("axes") ?? node.inputs[1]?.tensor?.peekNumbers();
  if (!given && node.inputs[1]) return undefined;
  const rank = input.length;
  const all = given === undefined || given.length === 0;
  if (all && node.int("noop_with_empty_axes", 0)) return "*a -> *a";
  const reduced = new Set(all ? input.map((_, i) => i) : given.map((axis) => (axis < 0 ? axis + rank : axis)));
  const keep = node.int("keepdims", 1) !== 0;
  const letters = input.map((_, i) => `a${i}`);
  const out = letters.flatMap((letter, i) => (reduced.has(i) ? (keep ? ["1"] : []) : [letter]));
  return `${letters.map((letter, i) => (reduced.has(i) ? letter + mark : letter)).join(" ")} -> ${out.join(" ")}`;
}

/** Axes were an attribute before opset `turn`, and are an input from it on. A `sum` does not notice elements that are zero. */
function reduceBoth(
  turn: number,
  flops: number,
  kind: "sum" | "statistic",
  combine?: (a: Dim, b: Dim) => Dim,
  traits: Traits = {},
): readonly OpSpec[] {
  const axes = reduceAxes(kind === "sum" ? "~" : "!");
  const infer = reduceInfer(combine);
  return [1, turn].map((since) => ({ since, infer, cost: perInput(flops), axes, grad: "none", traits }));
}

const argInfer: Infer = (context) => {
  const shape = shapeOf(context, 0);
  if (!shape) return [{ dtype: "int64", shape: undefined }];
  const axis = normalizeAxis(context, context.node.int("axis", 0), shape.length);
  const keep = context.node.int("keepdims", 1) !== 0;
  return [{ dtype: "int64", shape: shape.flatMap((dim, i): Dim[] => (i === axis ? (keep ? [1] : []) : [dim])) }];
};

const argAxes: Axes = (node) => {
  const rank = node.inputs[0]?.shape?.length;
  if (rank === undefined) return undefined;
  const axis = (node.int("axis", 0) + rank) % rank;
  const letters = Array.from({ length: rank }, (_, i) => `a${i}`);
  const keep = node.int("keepdims", 1) !== 0;
  return `${letters.join(" ")} -> ${letters.flatMap((letter, i) => (i === axis ? (keep ? ["1"] : []) : [letter])).join(" ")}`;
};

const arg: OpSpec = { since: 1, infer: argInfer, cost: perInput(), axes: argAxes, grad: "none" };

const cumulative: OpSpec = {
  since: 11,
  infer: (context) => [{ dtype: dtypeOf(context, 0), shape: shapeOf(context, 0) }],
  cost: perOutput(),
  // Elements after one that goes keep their sum only where it was zero.
  axes: "*a!, -> *a!",
  grad: "none",
};

const topKCost: Cost = ({ inputs }) => {
  const elements = count(inputs[0]);
  return { macs: 0, flops: elements * Math.max(1, Math.ceil(Math.log2(Math.max(2, inputs[0]?.at(-1) ?? 2)))) };
};

const topK: OpSpec = {
  since: 1,
  infer: (context) => {
    const dtype = dtypeOf(context, 0);
    const shape = shapeOf(context, 0);
    const k = integers(context, "k", 1);
    const axis = shape && normalizeAxis(context, context.node.int("axis", -1), shape.length);
    const result = shape?.map((dim, i) => (i === axis ? (k !== "absent" ? (k?.[0] ?? null) : null) : dim));
    return [
      { dtype, shape: result },
      { dtype: "int64", shape: result },
    ];
  },
  cost: topKCost,
  axes: (node) => {
    const rank = node.inputs[0]?.shape?.length;
    if (rank === undefined) return undefined;
    const axis = (node.int("axis", -1) + rank) % rank;
    const letters = Array.from({ length: rank }, (_, i) => `a${i}`);
    const out = letters.map((letter, i) => (i === axis ? "_" : letter)).join(" ");
    return `${letters.join(" ")}, _ -> ${out}, ${out}`;
  },
  grad: "none",
};

export const reduction: OpTable = {
  ReduceSum: differentiable(reduceBoth(13, 1, "sum", add, { homogeneous: true }), reduceSumGrad),
  ReduceMean: differentiable(reduceBoth(18, 1, "statistic", undefined, { homogeneous: true }), reduceMeanGrad),
  ReduceMax: differentiable(reduceBoth(18, 1, "statistic", maximum, { homogeneous: true }), reduceExtremumGrad),
  ReduceMin: differentiable(reduceBoth(18, 1, "statistic", minimum, { homogeneous: true }), reduceExtremumGrad),
  ReduceProd: differentiable(reduceBoth(18, 1, "statistic", multiply), reduceProdGrad),
  ReduceL1: differentiable(reduceBoth(18, 2, "sum", undefined, { homogeneous: true }), reduceL1Grad),
  ReduceL2: differentiable(reduceBoth(18, 2, "sum", undefined, { homogeneous: true }), reduceL2Grad),
  ReduceSumSquare: differentiable(reduceBoth(18, 2, "sum"), reduceSumSquareGrad),
  ReduceLogSum: differentiable(reduceBoth(18, 1, "statistic"), reduceLogSumGrad),
  ReduceLogSumExp: differentiable(reduceBoth(18, 2, "statistic"), reduceLogSumExpGrad),
  ArgMax: arg,
  ArgMin: arg,
  CumSum: { ...cumulative, grad: cumSumGrad },
  CumProd: { ...cumulative, since: 26, grad: cumProdGrad },
  // k was an attribute before opset 10.
  TopK: differentiable([topK, { ...topK, since: 10 }], topKGrad),
};
