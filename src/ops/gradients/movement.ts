/** Gradients of operators that move elements: Reshape, Transpose, Slice, Concat, Split, Pad, Gather, Expand, Cast and their kin. */
import { dtypeCode, isFloat } from "../../base/dtype.ts";
import { type Dim, isConcrete } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Grad, GradContext } from "../spec.ts";
import { gatherBack } from "./along-axis.ts";
import { scatterSlice } from "./indexing.ts";
import { constantInts } from "./reduction.ts";
import {
  axisOf,
  concreteShape,
  div,
  indicator,
  ints,
  mul,
  needsOpset,
  outputOf,
  pad,
  rankOf,
  reduceSum,
  reshape,
  reshapeLike,
  scalar,
  shapeOf,
  shapeVector,
  slice,
  sub,
  sumTo,
  transpose,
  unsqueeze,
  zerosLike,
} from "./words.ts";

const input = (c: GradContext): Value => c.node.inputs[0] as Value;
const flow = (c: GradContext): Value => c.outputGrad(0) as Value;

// y = x under another shape (Reshape, Flatten, Squeeze, Unsqueeze): ∂x = g under x's shape
export const reshapeGrad: Grad = (c) => [reshapeLike(c, flow(c), input(c))];

// y = x: ∂x = g
export const identityGrad: Grad = (c) => [flow(c)];

// y = xᵀ by perm: ∂x = gᵀ by the inverse permutation
export const transposeGrad: Grad = (c) => {
  const rank = rankOf(c.node, input(c));
  const perm = c.node.ints("perm") ?? Array.from({ length: rank }, (_, axis) => rank - 1 - axis);
  return [
    transpose(
      c,
      flow(c),
      perm.map((_, axis) => perm.indexOf(axis)),
    ),
  ];
};

// y = (x₁, …, xₙ) along an axis: ∂xᵢ = the i-th part of g
export const concatGrad: Grad = (c) => {
  const axis = axisOf(c.node.int("axis", 0), rankOf(c.node, c.node.outputs[0]));
  const sizes = c.node.inputs.map((value) => value?.shape?.[axis]);
  if (sizes.every((size) => typeof size === "number")) {
    let end = 0;
    return (sizes as number[]).map((size, index) => {
      const start = end;
      end += size;
      return c.wants(index) ? slice(c, flow(c), [axis], [start], [end]) : undefined;
    });
  }
  const lengths = c.node.inputs.map((value) => slice(c, shapeOf(c, value as Value), [0], [axis], [axis + 1]));
  const split = c.b.op("Concat", lengths, { attributes: { axis: 0 } });
  if (c.opset < 13) throw needsOpset(c, 13);
  return c.b.ops("Split", [flow(c), split], { attributes: { axis }, outputs: lengths.length });
};

// (y₁, …, yₙ) = parts of x: ∂x = (g₁, …, gₙ) joined, zeros where nothing flows
export const splitGrad: Grad = (c) => {
  const axis = axisOf(c.node.int("axis", 0), rankOf(c.node, input(c)));
  const parts = c.node.outputs.map((output, index) => c.outputGrad(index) ?? zerosLike(c, output));
  return [c.b.op("Concat", parts, { attributes: { axis } })];
};

// y = x[start:end:step]: ∂x = g at the places it came from, zeros elsewhere
export const sliceGrad: Grad = (c) => {
  const { node } = c;
  const x = input(c);
  const rank = rankOf(node, x);
  const list = (index: number): readonly number[] | undefined => {
    const value = node.inputs[index];
    return value?.tensor?.peekNumbers() ?? c.contents(value);
  };
  if ([1, 2, 3, 4].some((index) => node.inputs[index] && !list(index))) return scatterSlice(c);
  const starts = list(1) ?? [];
  const axes = (list(3) ?? starts.map((_, i) => i)).map((axis) => axisOf(axis, rank));
  const steps = list(4) ?? starts.map(() => 1);
  const ends = list(2) ?? [];
  let gradient = flow(c);
  const pads = Array.from({ length: 2 * rank }, () => 0);
  for (const [i, axis] of axes.entries()) {
    const size = x.shape?.[axis];
    const [start, end, step] = [starts[i] ?? 0, ends[i] ?? 0, steps[i] ?? 1];
    if (typeof size !== "number") {
      if (start === 0 && step === 1 && end > 2 ** 30) continue;
      return scatterSlice(c);
    }
    const first = Math.min(Math.max(start < 0 ? start + size : start, 0), step < 0 ? size - 1 : size);
    const limit = end < 0 ? Math.max(end + size, -1) : Math.min(end, size);
    const stop = end < -size && step < 0 ? -1 : limit;
    const count = Math.max(0, Math.ceil((stop - first) / step));
    if (count === 0) return [zerosLike(c, x)];
    if (step < 0) gradient = slice(c, gradient, [axis], [-1], [-(2 ** 31)], [-1]);
    const stride = Math.abs(step);
    const low = step < 0 ? first + (count - 1) * step : first;
    if (stride > 1) gradient = spread(c, gradient, axis, stride, rank);
    const high = low + (count - 1) * stride + 1;
    // Spreading leaves `stride − 1` zeros after the last element; a negative pad cuts those past the end.
    pads[axis] = low;
    pads[axis + rank] = size - (stride > 1 ? low + count * stride : high);
  }
  return [pad(c, gradient, pads)];
};

/** Puts `stride − 1` zeros after every element along an axis: (…, n, …) becomes (…, n·stride, …). */
function spread(c: GradContext, x: Value, axis: number, stride: number, rank: number): Value {
  const pads = Array.from({ length: 2 * (rank + 1) }, () => 0);
  pads[axis + 1 + rank + 1] = stride - 1;
  const wide = pad(c, unsqueeze(c, x, [axis + 1]), pads); // (…, n, stride, …)
  const shape = c.node.outputs[0]?.shape?.map((dim, i) => (i === axis && typeof dim === "number" ? dim * stride : dim));
  const target = Array.from({ length: rank }, (_, i) => (i === axis ? -1 : 0));
  return c.b.op("Reshape", [wide, c.b.constant("spread", Tensor.int64(flatten(target, axis, shape)))]);
}

/** A Reshape target that merges axis and axis + 1: zeros copy the sizes before it, the rest must be spelled out. */
function flatten(target: readonly number[], axis: number, shape: readonly unknown[] | undefined): readonly number[] {
  return target.map((_, i) => {
    const dim = shape?.[i];
    if (i < axis) return 0;
    if (i === axis) return typeof dim === "number" ? dim : -1;
    return typeof dim === "number" ? dim : -1;
  });
}

// y = x with borders: constant ones: ∂x = g without the borders, ∂(constant) = Σ of g over the borders; borders that repeat x
// (edge, reflect, wrap): ∂x[j] = Σ { g[i] : y[i] = x[j] }, axis by axis
export const padGrad: Grad = (c) => {
  const { node } = c;
  const x = input(c);
  const mode = node.string("mode") ?? "constant";
  const rank = rankOf(node, x);
  const padsInput = node.inputs[1];
  const given = node.ints("pads") ?? (padsInput ? constantInts(c, padsInput) : []);
  const axesInput = node.inputs[3];
  const axes = axesInput ? constantInts(c, axesInput).map((axis) => axisOf(axis, rank)) : undefined;
  const half = given.length / 2;
  const [begins, ends] = [Array.from({ length: rank }, () => 0), Array.from({ length: rank }, () => 0)];
  for (let i = 0; i < half; i++) {
    begins[axes?.[i] ?? i] = given[i] ?? 0;
    ends[axes?.[i] ?? i] = given[i + half] ?? 0;
  }
  const touched = begins.flatMap((begin, axis) => (begin || ends[axis] ? [axis] : []));
  if (touched.length === 0) return [flow(c)];
  if (mode !== "constant") return [borderBack(c, mode, begins, ends, touched)];
  const inner = withoutBorders(c, begins, ends, touched);
  if (!c.wants(2) || !node.inputs[2]) return [inner];
  const all = Array.from({ length: rank }, (_, axis) => axis);
  const border = sub(c, reduceSum(c, flow(c), all, false), reduceSum(c, inner, all, false));
  return [inner, undefined, reshapeLike(c, border, node.inputs[2])];
};

function withoutBorders(
  c: GradContext,
  begins: readonly number[],
  ends: readonly number[],
  touched: readonly number[],
): Value {
  if (begins.some((n) => n < 0) || ends.some((n) => n < 0))
    return pad(
      c,
      flow(c),
      [...begins, ...ends].map((n) => -n),
    );
  const stops = touched.map((axis) => (ends[axis] ? -(ends[axis] ?? 0) : 2 ** 31));
  return slice(
    c,
    flow(c),
    touched,
    touched.map((axis) => begins[axis] ?? 0),
    stops,
  );
}

function borderBack(
  c: GradContext,
  mode: string,
  begins: readonly number[],
  ends: readonly number[],
  touched: readonly number[],
): Value {
  const x = input(c);
  let g = flow(c);
  const shape: Dim[] = [...(c.node.outputs[0]?.shape ?? [])];
  for (const axis of touched) {
    const size = concreteShape(c.node, x, axis)[0] ?? 1;
    shape[axis] = size;
    const length = size + (begins[axis] ?? 0) + (ends[axis] ?? 0);
    const sources = Array.from({ length }, (_, i) => borderSource(mode, i - (begins[axis] ?? 0), size));
    g = gatherBack(c, g, axis, sources, { dtype: x.dtype, shape: shape.slice() });
  }
  return g;
}

/** The element of an axis of `size` that stands at place i, which may lie outside. */
function borderSource(mode: string, i: number, size: number): number {
  const modulo = (n: number, period: number): number => ((n % period) + period) % period;
  if (mode === "edge") return Math.min(Math.max(i, 0), size - 1);
  if (mode === "wrap") return modulo(i, size);
  const period = Math.max(1, 2 * (size - 1)); // reflect: … 2 1 | 0 1 2 | 1 0 …
  const folded = modulo(i, period);
  return folded < size ? folded : period - folded;
}

// y = x repeated to a larger shape: ∂x = g summed over the repeated axes
export const expandGrad: Grad = (c) => [sumTo(c, flow(c), c.node.outputs[0]?.shape, input(c))];

// y = x repeated r times along each axis: (d₁, …) becomes (r₁·d₁, …); ∂x = g under (r₁, d₁, …), summed over the rᵢ
export const tileGrad: Grad = (c) => {
  const [x, repeats] = c.node.inputs as readonly [Value, Value];
  const rank = rankOf(c.node, x);
  const known = repeats.tensor?.peekNumbers() ?? c.contents(repeats);
  const even = Array.from({ length: rank }, (_, axis) => 2 * axis);
  let target: Value;
  if (known && isConcrete(x.shape))
    target = ints(
      c,
      x.shape.flatMap((size, axis) => [known[axis] ?? 1, size]),
    );
  else {
    const pairs = [repeats, shapeOf(c, x)].map((list) => unsqueeze(c, list, [1]));
    target = reshape(c, c.b.op("Concat", pairs, { attributes: { axis: 1 } }), [-1]);
  }
  return [reduceSum(c, c.b.op("Reshape", [flow(c), target]), even, false)];
};

// y = x in another dtype: ∂x = g in x's dtype; integers that carry a gradient carry it in floats
export const castGrad: Grad = (c) => {
  const { dtype } = input(c);
  if (dtype !== undefined && !isFloat(dtype)) return [flow(c)];
  return [
    dtype
      ? c.b.op("Cast", [flow(c)], { attributes: { to: dtypeCode(dtype) } })
      : c.b.op("CastLike", [flow(c), input(c)]),
  ];
};

// y = x·mask/(1 − ratio) in training, the mask being what the forward pass drew; y = x otherwise: ∂x = g·mask/(1 − ratio) or g
export const dropoutGrad: Grad = (c) => {
  const [x, ratio, training] = c.node.inputs as readonly [Value, Value | undefined, Value | undefined];
  const constant = training ? training.tensor?.peekNumbers()?.[0] : 0;
  if (constant === 0) return [flow(c)];
  const mask = indicator(c, outputOf(c.node, 1, "bool", c.node.outputs[0]?.shape), x.dtype);
  const one = scalar(c, x.dtype, 1);
  const known = ratio ? ratio.tensor?.peekNumbers()?.[0] : 0.5;
  const share = ratio && x.dtype !== ratio.dtype ? c.b.op("CastLike", [ratio, x]) : ratio;
  let factor =
    known === undefined && share ? div(c, one, sub(c, one, share)) : scalar(c, x.dtype, 1 / (1 - (known ?? 0)));
  if (training && constant === undefined) factor = c.b.op("Where", [training, factor, one]);
  return [mul(c, mul(c, flow(c), mask), factor)];
};

// y = blocks of channels as blocks of pixels (or back): ∂x moves them back
export const depthToSpaceGrad: Grad = (c) => {
  const blocksize = c.node.int("blocksize", 1);
  if (c.node.string("mode") !== "CRD") return [c.b.op("SpaceToDepth", [flow(c)], { attributes: { blocksize } })];
  const [channels = 1, height = 1, width = 1] = concreteShape(c.node, input(c), 1);
  const inner = channels / blocksize ** 2;
  const apart = reshape(c, flow(c), [-1, inner, height, blocksize, width, blocksize]);
  return [reshape(c, transpose(c, apart, [0, 1, 3, 5, 2, 4]), [-1, channels, height, width])];
};

export const spaceToDepthGrad: Grad = (c) => [
  c.b.op("DepthToSpace", [flow(c)], { attributes: { blocksize: c.node.int("blocksize", 1) } }),
];

// y = x in the same places or zero (Trilu), or with parts reversed (ReverseSequence): ∂x = the same of g
export const sameMoveGrad: Grad = (c) => [
  c.b.op(c.node.opType, [flow(c), ...c.node.inputs.slice(1)], { attributes: Object.fromEntries(c.node.attributes) }),
];

// y = the centre of x, cut or padded to a size: ∂x = the centre of g, padded or cut to x's size
export const centerCropPadGrad: Grad = (c) => {
  const shape = shapeVector(c, input(c));
  const axes = c.node.ints("axes");
  const target = axes
    ? c.b.op("Gather", [
        shape,
        ints(
          c,
          axes.map((axis) => axisOf(axis, rankOf(c.node, input(c)))),
        ),
      ])
    : shape;
  return [c.b.op("CenterCropPad", [flow(c), target], { attributes: { axes } })];
};
