/** Shapes as data and made tensors: Shape, Size, Constant, ConstantOfShape, Range, EyeLike. */
import { dtypeFromCode } from "../base/dtype.ts";
import { type Dim, elementCount, isConcrete } from "../base/shape.ts";
import type { Tensor } from "../ir/tensor.ts";
import {
  FREE,
  MAX_CONTENTS,
  type OpTable,
  contentsOf,
  dtypeOf,
  shapeOf,
  unknownShape,
  withContents,
} from "./helpers.ts";
import { narrowSizes } from "./narrow.ts";
import type { Infer, OpSpec, ValueType } from "./spec.ts";
import { ceilDivide, maximum, product, signOf, subtract } from "./symbolic.ts";

function making(since: number, infer: Infer, axes: OpSpec["axes"] = "opaque"): OpSpec {
  return { since, infer, cost: FREE, axes, grad: "none" };
}

/** What inference knows of a stored tensor; contents only where they are small and in memory. */
export function typeOfTensor(tensor: Tensor): ValueType {
  const small = tensor.elements <= MAX_CONTENTS && tensor.dtype !== "string";
  const packed = /^u?int[24]$|^float[48]/.test(tensor.dtype);
  return withContents(tensor.dtype, tensor.shape, small && !packed ? tensor.peekNumbers() : undefined);
}

const shapeInfer: Infer = (context) => {
  const shape = shapeOf(context, 0);
  if (!shape) return [{ dtype: "int64", shape: [null] }];
  const rank = shape.length;
  const clamp = (axis: number): number => Math.min(Math.max(axis < 0 ? axis + rank : axis, 0), rank);
  const part = shape.slice(clamp(context.node.int("start", 0)), clamp(context.node.int("end", rank)));
  return [{ dtype: "int64", shape: [part.length], contents: part }];
};

const sizeInfer: Infer = (context) => {
  const shape = shapeOf(context, 0);
  return [{ dtype: "int64", shape: [], ...(shape ? { contents: [product(shape)] } : {}) }];
};

const constantInfer: Infer = ({ node }) => {
  const tensor = node.attributes.get("value");
  if (tensor?.type === "tensor") return [typeOfTensor(tensor.value)];
  const int = node.int("value_int");
  if (int !== undefined) return [{ dtype: "int64", shape: [], contents: [int] }];
  const ints = node.ints("value_ints");
  if (ints) return [withContents("int64", [ints.length], ints)];
  const float = node.float("value_float");
  if (float !== undefined) return [{ dtype: "float32", shape: [], contents: [float] }];
  const floats = node.floats("value_floats");
  if (floats) return [withContents("float32", [floats.length], floats)];
  if (node.attributes.has("value_string")) return [{ dtype: "string", shape: [] }];
  const strings = node.attributes.get("value_strings");
  if (strings?.type === "strings") return [{ dtype: "string", shape: [strings.value.length] }];
  return [{ dtype: undefined, shape: undefined }];
};

const constantOfShapeInfer: Infer = (context) => {
  const sizes = contentsOf(context, 0);
  const rank = shapeOf(context, 0)?.[0];
  const shape = sizes ?? (typeof rank === "number" ? unknownShape(rank) : undefined);
  const attribute = context.node.attributes.get("value");
  const value = attribute?.type === "tensor" ? typeOfTensor(attribute.value) : undefined;
  const fill = attribute ? value?.contents?.[0] : 0;
  const small = isConcrete(shape) && elementCount(shape) <= MAX_CONTENTS && fill !== undefined;
  return [
    withContents(
      value?.dtype ?? "float32",
      shape,
      small ? Array.from({ length: elementCount(shape) }, (): Dim => fill) : undefined,
    ),
  ];
};

/** max(0, ⌈(limit − start) / delta⌉) elements. */
const rangeInfer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const [start = null, limit = null, delta = null] = [0, 1, 2].map((i) => contentsOf(context, i)?.[0] ?? null);
  if (typeof delta !== "number" || delta === 0) return [{ dtype, shape: [null] }];
  const span = delta > 0 ? subtract(limit, start) : subtract(start, limit);
  const length = ceilDivide(signOf(span) === "non-negative" ? span : maximum(0, span), Math.abs(delta));
  if (typeof length !== "number") return [{ dtype, shape: [Number.isInteger(delta) ? length : null] }];
  const first = typeof start === "number" ? start : undefined;
  const contents =
    first !== undefined && length <= MAX_CONTENTS ? Array.from({ length }, (_, i) => first + i * delta) : undefined;
  return [withContents(dtype, [length], contents)];
};

const eyeInfer: Infer = (context) => {
  const code = context.node.int("dtype");
  return [{ dtype: code === undefined ? dtypeOf(context, 0) : dtypeFromCode(code), shape: shapeOf(context, 0) }];
};

/** A window function of the given length. */
const windowInfer: Infer = (context) => [
  { dtype: dtypeFromCode(context.node.int("output_datatype", 1)), shape: [contentsOf(context, 0)?.[0] ?? null] },
];

const uniqueInfer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const shape = shapeOf(context, 0);
  const axis = context.node.int("axis");
  const y =
    axis === undefined ? [null] : shape?.map((dim, i) => (i === (axis < 0 ? axis + shape.length : axis) ? null : dim));
  const indices: ValueType = { dtype: "int64", shape: [null] };
  const along = axis === undefined ? (shape ? product(shape) : null) : (shape?.at(axis) ?? null);
  return [{ dtype, shape: y }, indices, { dtype: "int64", shape: [along] }, indices];
};

export const shape: OpTable = {
  // They read sizes, not elements.
  Shape: making(1, shapeInfer, "*a~ -> _"),
  Size: making(1, sizeInfer, "*a~ -> "),
  Constant: making(1, constantInfer),
  ConstantOfShape: { ...making(9, constantOfShapeInfer, " -> *a~"), narrow: narrowSizes(0) },
  Range: making(11, rangeInfer),
  EyeLike: { ...making(9, eyeInfer, "*a# -> *a#"), grad: "zero" },
  HannWindow: making(17, windowInfer),
  HammingWindow: making(17, windowInfer),
  BlackmanWindow: making(17, windowInfer),
  Unique: making(11, uniqueInfer),
};
