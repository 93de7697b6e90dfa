/** Slicing, gathering and scattering. */
import { type Dim, isConcrete } from "../base/shape.ts";
import type { Node } from "../ir/graph.ts";
import {
  compressGrad,
  gatherElementsGrad,
  gatherGrad,
  gatherNDGrad,
  scatterElementsGrad,
  scatterNDGrad,
} from "./gradients/indexing.ts";
import { sliceGrad } from "./gradients/movement.ts";
import {
  differentiable,
  FREE,
  type OpTable,
  contentsOf,
  dtypeOf,
  integers,
  isStored,
  mapCoordinates,
  mismatch,
  normalizeAxis,
  sameAsInput,
  shapeOf,
  unknownShape,
  withContents,
} from "./helpers.ts";
import { moving } from "./movement.ts";
import { narrowGather, narrowSlice } from "./narrow.ts";
import { gatherAxes, sliceAxes } from "./picked-axes.ts";
import type { Infer, InferContext, OpSpec, Weight } from "./spec.ts";
import { add, ceilDivide, maximum, minimum, signOf, subtract } from "./symbolic.ts";

/** Beyond this, a bound means "to the end": exporters write a thousand million, or the largest int32 or int64. */
const FAR = 1e9;

/** A bound of a slice on an axis of size `size`, counted from the front and clamped to [0, size]. */
function bound(value: Dim, size: Dim): Dim {
  if (value === null) return null;
  if (typeof value === "number" && value >= FAR) return size;
  const sign = signOf(value);
  if (sign === "negative") return maximum(0, add(value, size));
  if (sign === undefined) return null;
  return minimum(value, size);
}

/** Length of start:end:step on an axis of size `size`. */
export function sliceLength(size: Dim, start: Dim, end: Dim, step: Dim): Dim {
  if (typeof step !== "number" || step === 0) return null;
  if (step > 0) {
    const from = bound(start, size);
    // The last n elements: at most n, at most all.
    if (step === 1 && typeof start === "number" && start < 0 && bound(end, size) === size) return minimum(size, -start);
    const length = subtract(bound(end, size), from);
    return ceilDivide(signOf(length) === "non-negative" ? length : maximum(0, length), step);
  }
  if (typeof start !== "number" || typeof end !== "number") return null;
  if (typeof size !== "number") return start === -1 && end < -FAR && step === -1 ? size : null;
  const from = Math.min(Math.max(start < 0 ? start + size : start, 0), size - 1);
  const to = end < 0 ? Math.max(-1, end + size) : end;
  return Math.max(0, Math.ceil((from - to) / -step));
}

interface SliceBounds {
  readonly starts: readonly Dim[] | undefined;
  readonly ends: readonly Dim[] | undefined;
  readonly axes: readonly number[] | undefined;
  readonly steps: readonly Dim[] | undefined;
}

function sliceBounds(context: InferContext, rank: number): SliceBounds {
  const read = (name: string, input: number): readonly Dim[] | undefined => {
    const value = integers(context, name, input);
    return value === "absent" ? undefined : value;
  };
  const starts = read("starts", 1);
  const ends = read("ends", 2);
  const count = starts?.length ?? shapeOf(context, 1)?.[0];
  const first = typeof count === "number" && count <= rank ? Array.from({ length: count }, (_, i) => i) : undefined;
  const given = integers(context, "axes", 3);
  const axes = given === "absent" ? first : isConcrete(given) ? given : undefined;
  const steps = integers(context, "steps", 4);
  return {
    starts,
    ends,
    axes: axes?.map((axis) => normalizeAxis(context, axis, rank)),
    steps: steps === "absent" ? starts?.map(() => 1) : steps,
  };
}

const sliceInfer: Infer = (context) => {
  const input = context.inputs[0];
  const shape = input?.shape;
  if (!shape) return [{ dtype: input?.dtype, shape: undefined }];
  const { starts, ends, axes, steps } = sliceBounds(context, shape.length);
  if (!axes) return [{ dtype: input.dtype, shape: unknownShape(shape.length) }];
  const result = [...shape];
  for (const [i, axis] of axes.entries())
    result[axis] = sliceLength(shape[axis] ?? null, starts?.[i] ?? null, ends?.[i] ?? null, steps?.[i] ?? null);
  return [withContents(input.dtype, result, sliceContents(shape, result, input.contents, axes, starts, steps))];
};

function sliceContents(
  shape: readonly Dim[],
  result: readonly Dim[],
  contents: readonly Dim[] | undefined,
  axes: readonly number[],
  starts: readonly Dim[] | undefined,
  steps: readonly Dim[] | undefined,
): readonly Dim[] | undefined {
  if (!contents || !isConcrete(shape) || !isConcrete(result) || !isConcrete(starts) || !isConcrete(steps))
    return undefined;
  const firsts = shape.map(() => 0);
  const strides = shape.map(() => 1);
  for (const [i, axis] of axes.entries()) {
    const size = shape[axis] ?? 0;
    const step = steps[i] ?? 1;
    const start = starts[i] ?? 0;
    const positive = start < 0 ? start + size : start;
    firsts[axis] = Math.min(Math.max(positive, 0), step > 0 ? size : size - 1);
    strides[axis] = step;
  }
  return mapCoordinates(result, (coordinates) => {
    let offset = 0;
    for (const [axis, size] of shape.entries())
      offset = offset * size + (firsts[axis] ?? 0) + (coordinates[axis] ?? 0) * (strides[axis] ?? 1);
    return contents[offset] ?? null;
  });
}

const gatherInfer: Infer = (context) => {
  const data = context.inputs[0];
  const indices = context.inputs[1];
  if (!data?.shape || !indices?.shape) return [{ dtype: data?.dtype, shape: undefined }];
  const axis = normalizeAxis(context, context.node.int("axis", 0), data.shape.length);
  const shape = [...data.shape.slice(0, axis), ...indices.shape, ...data.shape.slice(axis + 1)];
  const from = data.shape;
  const rank = indices.shape.length;
  const picks = indices.contents;
  const indexShape = indices.shape;
  if (!data.contents || !isConcrete(picks) || !isConcrete(from) || !isConcrete(shape) || !isConcrete(indexShape))
    return [{ dtype: data.dtype, shape }];
  const contents = mapCoordinates(shape, (coordinates): Dim => {
    let at = 0;
    for (const [i, size] of indexShape.entries()) at = at * size + (coordinates[axis + i] ?? 0);
    const pick = picks[at] ?? 0;
    const own = [
      ...coordinates.slice(0, axis),
      pick < 0 ? pick + (from[axis] ?? 0) : pick,
      ...coordinates.slice(axis + rank),
    ];
    let offset = 0;
    for (const [i, size] of from.entries()) offset = offset * size + (own[i] ?? 0);
    return data.contents?.[offset] ?? null;
  });
  return [withContents(data.dtype, shape, contents)];
};

/** A stored table of floats is learned: rows along `axis`; blocks of block-wise quantization lie along the last axis. */
const gatherWeights = (node: Node): readonly Weight[] => {
  const rank = node.inputs[0]?.shape?.length ?? 2;
  if (!isStored(node, 0) && node.inputs[0]?.producer === undefined) return [];
  return rank < 2
    ? []
    : [{ input: 0, role: "table", channelAxis: (node.int("axis", 0) + rank) % rank, reductionAxis: rank - 1 }];
};

const gatherElementsInfer: Infer = (context) => [{ dtype: dtypeOf(context, 0), shape: shapeOf(context, 1) }];

/** data (*b, *d), indices (*b, …, q): output is batch, then indices' middle axes, then what q does not index. */
const gatherNDInfer: Infer = (context) => {
  const data = shapeOf(context, 0);
  const indices = shapeOf(context, 1);
  const q = indices?.at(-1);
  if (!data || !indices || typeof q !== "number") return [{ dtype: dtypeOf(context, 0), shape: undefined }];
  const batch = context.node.int("batch_dims", 0);
  if (batch + q > data.length) throw mismatch(context, `indices of length ${q}`, `at most ${data.length - batch}`);
  return [{ dtype: dtypeOf(context, 0), shape: [...indices.slice(0, -1), ...data.slice(batch + q)] }];
};

/** ScatterND keeps the data's shape; contents of small vectors are written where the indices are known. */
const scatterNDInfer: Infer = (context) => {
  const data = context.inputs[0];
  const indices = contentsOf(context, 1);
  const updates = contentsOf(context, 2);
  if (!data?.contents || data.shape?.length !== 1 || !isConcrete(indices) || updates?.length !== indices.length)
    return [{ dtype: data?.dtype, shape: data?.shape }];
  const contents = [...data.contents];
  for (const [i, index] of indices.entries())
    contents[index < 0 ? index + contents.length : index] = updates[i] ?? null;
  return [withContents(data.dtype, data.shape, contents)];
};

function scatter(since: number, infer: Infer, grad: OpSpec["grad"] = "none"): OpSpec {
  return { since, infer, cost: FREE, axes: "opaque", grad };
}

/** Elements of a one-dimensional condition that are true: a size that only the data knows. */
const compressInfer: Infer = (context) => {
  const shape = shapeOf(context, 0);
  const axis = context.node.int("axis");
  if (axis === undefined || !shape)
    return [{ dtype: dtypeOf(context, 0), shape: axis === undefined ? [null] : undefined }];
  const at = normalizeAxis(context, axis, shape.length);
  return [{ dtype: dtypeOf(context, 0), shape: shape.map((dim, i) => (i === at ? null : dim)) }];
};

/** indices (…) become (…, depth), the new axis at `axis`; the dtype is that of the values. */
const oneHotInfer: Infer = (context) => {
  const indices = shapeOf(context, 0);
  const depth = contentsOf(context, 1)?.[0] ?? null;
  if (!indices) return [{ dtype: dtypeOf(context, 2), shape: undefined }];
  const axis = normalizeAxis(context, context.node.int("axis", -1), indices.length + 1);
  return [{ dtype: dtypeOf(context, 2), shape: [...indices.slice(0, axis), depth, ...indices.slice(axis)] }];
};

/** As many columns as there are elements that are not zero. */
const nonZeroInfer: Infer = (context) => {
  const shape = shapeOf(context, 0);
  const contents = contentsOf(context, 0);
  if (!shape) return [{ dtype: "int64", shape: [null, null] }];
  if (!isConcrete(contents) || !isConcrete(shape)) return [{ dtype: "int64", shape: [shape.length, null] }];
  const hits = mapCoordinates(shape, (coordinates) => [...coordinates]).filter((_, i) => contents[i] !== 0);
  const rows = shape.flatMap((_, axis) => hits.map((hit) => hit[axis] ?? 0));
  return [withContents("int64", [shape.length, hits.length], rows)];
};

const slice: OpSpec = { ...moving(1, sliceInfer, sliceAxes), narrow: narrowSlice };

export const indexing: OpTable = {
  // Bounds were attributes before opset 10.
  Slice: differentiable([slice, { ...slice, since: 10 }], sliceGrad),
  Gather: {
    ...moving(1, gatherInfer, gatherAxes),
    weights: gatherWeights,
    narrow: narrowGather,
    traits: { movement: true, lookup: true, quantizable: true },
    grad: gatherGrad,
  },
  GatherElements: { ...moving(11, gatherElementsInfer, "opaque", false), grad: gatherElementsGrad },
  GatherND: { ...moving(11, gatherNDInfer, "opaque", false), grad: gatherNDGrad },
  ScatterND: scatter(11, scatterNDInfer, scatterNDGrad),
  ScatterElements: scatter(11, sameAsInput(), scatterElementsGrad),
  Scatter: scatter(9, sameAsInput()),
  TensorScatter: scatter(24, sameAsInput()),
  Compress: scatter(9, compressInfer, compressGrad),
  OneHot: scatter(9, oneHotInfer),
  NonZero: scatter(9, nonZeroInfer),
};
