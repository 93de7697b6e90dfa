/** Words in which gradient rules are written: small operator calls that know the opset, and sums that undo broadcasting. */
import { type DType, dtypeCode, isFloat } from "../../base/dtype.ts";
import { PareError } from "../../base/error.ts";
import { float32ToFloat16 } from "../../base/half.ts";
import { type Dim, isConcrete } from "../../base/shape.ts";
import type { Builder } from "../../ir/builder.ts";
import { type Graph, type Node, Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Grad, RuleContext } from "../spec.ts";

/** Where words are written: a builder and the opset that decides their form. */
export interface Site {
  readonly b: Builder;
  readonly opset: number;
}

/** Constants made for one graph, by their contents, so that each is stored once. */
const constants = new WeakMap<Graph, Map<string, Value>>();

function shared(b: Builder, key: string, make: () => Value): Value {
  let known = constants.get(b.graph);
  if (!known) constants.set(b.graph, (known = new Map()));
  let value = known.get(key);
  if (!value || !b.graph.initializers.has(value.name)) known.set(key, (value = make()));
  return value;
}

/** A tensor of a float dtype; no dtype is float32. */
export function floats(dtype: DType | undefined, shape: readonly number[], data: Iterable<number>): Tensor {
  const type = gradientType(dtype);
  if (type === "float16") return Tensor.of(type, shape, float32ToFloat16(Float32Array.from(data)));
  return type === "float64"
    ? Tensor.of(type, shape, Float64Array.from(data))
    : Tensor.float32(shape, Float32Array.from(data));
}

function gradientType(dtype: DType | undefined): "float16" | "float32" | "float64" {
  if (dtype === undefined) return "float32";
  if (dtype === "float16" || dtype === "float32" || dtype === "float64") return dtype;
  throw new PareError("unsupported", `Gradients are computed in float32, float64 or float16, not in ${dtype}`, {
    help: "Convert the model to float32 first",
  });
}

/** A scalar (rank 0) of a float dtype. */
export function scalar(s: Site, dtype: DType | undefined, value: number): Value {
  return shared(s.b, `${dtype ?? "float32"} ${value}`, () => s.b.constant("constant", floats(dtype, [], [value])));
}

/** A stored array of a float dtype. */
export function constantArray(
  s: Site,
  dtype: DType | undefined,
  shape: readonly number[],
  data: Iterable<number>,
): Value {
  return s.b.constant("array", floats(dtype, shape, data));
}

/** An int64 vector. */
export function ints(s: Site, values: readonly number[]): Value {
  return shared(s.b, `int64 ${values.join()}`, () => s.b.constant("indices", Tensor.int64(values)));
}

export const add = (s: Site, x: Value, y: Value): Value => s.b.op("Add", [x, y]);
export const sub = (s: Site, x: Value, y: Value): Value => s.b.op("Sub", [x, y]);
export const mul = (s: Site, x: Value, y: Value): Value => s.b.op("Mul", [x, y]);
export const div = (s: Site, x: Value, y: Value): Value => s.b.op("Div", [x, y]);
export const neg = (s: Site, x: Value): Value => s.b.op("Neg", [x]);
export const shapeOf = (s: Site, x: Value): Value => s.b.op("Shape", [x]);

/** x · factor. */
export function scale(s: Site, x: Value, factor: number, dtype: DType | undefined = x.dtype): Value {
  return factor === 1 ? x : mul(s, x, scalar(s, dtype, factor));
}

/** A value of any dtype in a float dtype. */
export function toFloat(s: Site, x: Value, dtype: DType | undefined): Value {
  return s.b.op("Cast", [x], { attributes: { to: dtypeCode(gradientType(dtype)) } });
}

/** 1 where the condition holds, else 0, in `dtype`. */
export const indicator = (s: Site, condition: Value, dtype: DType | undefined): Value => toFloat(s, condition, dtype);

/** The number of elements of a value as a float scalar, found while the graph runs. */
export function sizeOf(s: Site, x: Value, dtype: DType | undefined): Value {
  return toFloat(s, s.b.op("Size", [x]), dtype);
}

const AXES_INPUT_SINCE: Readonly<Record<string, number>> = { ReduceSum: 13, Squeeze: 13, Unsqueeze: 13 };

/** An operator whose axes became an input at some opset: ReduceSum, Squeeze and Unsqueeze at 13, other reductions at 18. */
function withAxes(s: Site, opType: string, x: Value, axes: readonly number[], keepdims?: boolean): Value {
  const attributes = keepdims === undefined ? {} : { keepdims: keepdims ? 1 : 0 };
  return s.opset >= (AXES_INPUT_SINCE[opType] ?? 18)
    ? s.b.op(opType, [x, ints(s, axes)], { attributes })
    : s.b.op(opType, [x], { attributes: { ...attributes, axes } });
}

export function reduceSum(s: Site, x: Value, axes: readonly number[], keepdims: boolean): Value {
  return axes.length === 0 ? x : withAxes(s, "ReduceSum", x, axes, keepdims);
}

export function reduceMean(s: Site, x: Value, axes: readonly number[], keepdims: boolean): Value {
  return axes.length === 0 ? x : withAxes(s, "ReduceMean", x, axes, keepdims);
}

export function unsqueeze(s: Site, x: Value, axes: readonly number[]): Value {
  return axes.length === 0 ? x : withAxes(s, "Unsqueeze", x, axes);
}

export function transpose(s: Site, x: Value, perm: readonly number[]): Value {
  return s.b.op("Transpose", [x], { attributes: { perm } });
}

/** Reshapes to a constant shape (0 is not used; -1 is inferred). */
export function reshape(s: Site, x: Value, shape: readonly number[]): Value {
  return s.b.op("Reshape", [x, ints(s, shape)]);
}

/** Reshapes to the shape of `like`: a constant where it is known up to one dimension, through Shape elsewhere. */
export function reshapeLike(s: Site, x: Value, like: Value): Value {
  const shape = like.shape;
  if (shape && shape.filter((dim) => typeof dim !== "number").length <= 1 && !shape.includes(0))
    return reshape(
      s,
      x,
      shape.map((dim) => (typeof dim === "number" ? dim : -1)),
    );
  return s.b.op("Reshape", [x, shapeOf(s, like)]);
}

/** The shape of a value as an int64 vector, constant where it is known. */
export function shapeVector(s: Site, like: Value): Value {
  return isConcrete(like.shape) ? ints(s, like.shape) : shapeOf(s, like);
}

export function expandLike(s: Site, x: Value, like: Value): Value {
  return s.b.op("Expand", [x, shapeVector(s, like)]);
}

/** Slices along some axes; `ends` may exceed the size. */
export function slice(
  s: Site,
  x: Value,
  axes: readonly number[],
  starts: readonly number[],
  ends: readonly number[],
  steps?: readonly number[],
): Value {
  if (s.opset < 10) {
    if (steps?.some((step) => step !== 1))
      throw new PareError("unsupported", "A strided Slice needs opset 10", {
        help: "Convert the model to a newer opset",
      });
    return s.b.op("Slice", [x], { attributes: { axes, starts, ends } });
  }
  const strided = steps?.some((step) => step !== 1);
  return s.b.op("Slice", [
    x,
    ints(s, starts),
    ints(s, ends),
    ints(s, axes),
    ...(strided ? [ints(s, steps ?? [])] : []),
  ]);
}

/** Pads with zeros: all the begins, then all the ends; negative pads cut. */
export function pad(s: Site, x: Value, pads: readonly number[]): Value {
  if (pads.every((amount) => amount === 0)) return x;
  return s.opset >= 11 ? s.b.op("Pad", [x, ints(s, pads)]) : s.b.op("Pad", [x], { attributes: { pads } });
}

/** A tensor of a value's dtype and shape with every element the same; integers that carry a gradient get float32. */
function filled(s: Site, like: Value, value: number): Value {
  const dtype = like.dtype !== undefined && isFloat(like.dtype) ? like.dtype : "float32";
  if (like.shape?.length === 0) return scalar(s, dtype, value);
  const attributes = { value: { type: "tensor", value: floats(dtype, [1], [value]) } } as const;
  return s.b.op("ConstantOfShape", [shapeVector(s, like)], { attributes });
}

export const onesLike = (s: Site, like: Value): Value => filled(s, like, 1);
export const zerosLike = (s: Site, like: Value): Value => filled(s, like, 0);

/** An axis counted from the front. */
export function axisOf(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}

/** The error of a rule whose operators came with a newer opset. */
export function needsOpset(c: RuleContext, opset: number): PareError {
  return new PareError("unsupported", `The gradient of ${c.node.opType} needs opset ${opset}`, {
    where: `node '${c.node.name}' (${c.node.opType})`,
    found: `opset ${c.opset}`,
    help: "Convert the model to a newer opset",
  });
}

/** The rank of an input or output of the node being differentiated. */
export function rankOf(node: Node, value: Value | undefined): number {
  if (!value?.shape)
    throw new PareError("not-differentiable", `The rank of '${value?.name ?? ""}' is unknown`, {
      where: `node '${node.name}' (${node.opType})`,
      help: "Infer shapes first, or declare the shapes of the inputs",
    });
  return value.shape.length;
}

/** The concrete sizes, from axis `from` on, of a value of the node being differentiated. */
export function concreteShape(node: Node, value: Value | undefined, from = 0): readonly number[] {
  const shape = value?.shape?.slice(from);
  if (!value || !isConcrete(shape))
    throw new PareError("not-differentiable", `The shape of '${value?.name ?? ""}' must be known here`, {
      where: `node '${node.name}' (${node.opType})`,
      help: "Give the inputs fixed sizes",
    });
  return shape;
}

/**
 * Sums a gradient of shape `from` over the axes along which `to` was broadcast, so that it has `to`'s shape.
 * Where a dimension is not known to be 1 or to agree, the axes are found while the graph runs.
 */
export function sumTo(s: Site, gradient: Value, from: readonly Dim[] | undefined, to: Value): Value {
  if (!from || !to.shape) return sumToDynamic(s, gradient, to);
  const extra = from.length - to.shape.length;
  const axes = Array.from({ length: Math.max(0, extra) }, (_, axis) => axis);
  for (const [axis, size] of to.shape.entries()) {
    const whole = from[axis + extra];
    if (size === 1) {
      if (whole !== 1) axes.push(axis + extra);
    } else if (typeof size !== "number" && (size === null || size !== whole)) return sumToDynamic(s, gradient, to);
  }
  if (axes.length === 0) return gradient;
  const leading = axes.every((axis) => axis < extra);
  const sum = reduceSum(s, gradient, axes, !leading);
  return leading || extra === 0 ? sum : reshapeLike(s, sum, to);
}

/** axes = { i : shape(to) left-padded with 1 differs from shape(gradient) }. */
function sumToDynamic(s: Site, gradient: Value, to: Value): Value {
  if (s.opset < 13)
    throw new PareError("unsupported", `The gradient of '${to.name}' needs opset 13: its shape is not known`, {
      help: "Convert the model to opset 13 or newer, or give the inputs fixed sizes",
    });
  const whole = shapeOf(s, gradient);
  const part = shapeOf(s, to);
  const missing = sub(s, s.b.op("Size", [whole]), s.b.op("Size", [part]));
  const one = { type: "tensor", value: Tensor.int64([1]) } as const;
  const ones = s.b.op("ConstantOfShape", [unsqueeze(s, missing, [0])], { attributes: { value: one } });
  const padded = s.b.op("Concat", [ones, part], { attributes: { axis: 0 } });
  const differs = s.b.op("Not", [s.b.op("Equal", [whole, padded])]);
  const axes = reshape(s, s.b.op("NonZero", [differs]), [-1]);
  const sum = s.b.op("ReduceSum", [gradient, axes], { attributes: { keepdims: 1, noop_with_empty_axes: 1 } });
  return s.b.op("Reshape", [sum, part]);
}

/** A rule whose gradients have the output's shape: each is summed to its input's shape. */
export function broadcasting(rule: Grad): Grad {
  return (c) => {
    const from = c.node.outputs[0]?.shape;
    return rule(c).map((gradient, index) => {
      const input = c.node.inputs[index];
      return gradient && input ? sumTo(c, gradient, from, input) : gradient;
    });
  };
}

/** An optional output of a forward node, added to it when it was not asked for. */
export function outputOf(node: Node, index: number, dtype?: DType, shape?: readonly Dim[]): Value {
  while (node.outputs.length <= index) {
    const value = new Value(node.graph?.uniqueName(`${node.name || node.opType}_output`) ?? "", dtype, shape);
    value.producer = node;
    node.outputs.push(value);
  }
  const output = node.outputs[index] as Value;
  if (output.name === "" && node.graph) output.name = node.graph.uniqueName(`${node.name || node.opType}_output`);
  return output;
}
