/** Gradients of operators that move elements: Reshape, Transpose, Slice, Concat, Split, Pad, Gather, Expand, Cast and their kin. */
import { dtypeCode } from "../../base/dtype.ts";
import { PareError } from "../../base/error.ts";
import { isConcrete } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Grad, GradContext } from "../spec.ts";
import { constantInts } from "./reduction.ts";
import {
  axisOf,
  ints,
  pad,
  rankOf,
  reduceSum,
  reshape,
  reshapeLike,
  shapeOf,
  slice,
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
  const list = (attribute: string, index: number): readonly number[] | undefined => {
    const value = node.inputs[index];
    return node.ints(attribute) ?? (value ? constantInts(c, value) : undefined);
  };
  const starts = list("starts", 1) ?? [];
  const axes = (list("axes", 3) ?? starts.map((_, i) => i)).map((axis) => axisOf(axis, rank));
  const steps = list("steps", 4) ?? starts.map(() => 1);
  const ends = list("ends", 2) ?? [];
  let gradient = flow(c);
  const pads = Array.from({ length: 2 * rank }, () => 0);
  for (const [i, axis] of axes.entries()) {
    const size = x.shape?.[axis];
    const [start, end, step] = [starts[i] ?? 0, ends[i] ?? 0, steps[i] ?? 1];
    if (typeof size !== "number") {
      if (start === 0 && step === 1 && end > 2 ** 30) continue;
      throw new PareError("not-differentiable", `The size of axis ${axis} of '${x.name}' must be known here`, {
        where: `node '${node.name}' (Slice)`,
        help: "Give the inputs fixed sizes",
      });
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

// y = x with constant borders: ∂x = g without the borders
export const padGrad: Grad = (c) => {
  const { node } = c;
  const mode = node.string("mode") ?? "constant";
  if (mode !== "constant")
    throw new PareError("not-differentiable", `Pad with mode '${mode}' has no gradient yet`, {
      where: `node '${node.name}' (Pad)`,
    });
  const rank = rankOf(node, input(c));
  const padsInput = node.inputs[1];
  const given = node.ints("pads") ?? (padsInput ? constantInts(c, padsInput) : []);
  const axesInput = node.inputs[3];
  const axes = axesInput ? constantInts(c, axesInput).map((axis) => axisOf(axis, rank)) : undefined;
  const pads = Array.from({ length: 2 * rank }, () => 0);
  const half = given.length / 2;
  for (let i = 0; i < half; i++) {
    const axis = axes?.[i] ?? i;
    pads[axis] = -(given[i] ?? 0);
    pads[axis + rank] = -(given[i + half] ?? 0);
  }
  const cut = pads.every((amount) => amount <= 0);
  if (!cut) return [pad(c, flow(c), pads)];
  const touched = Array.from({ length: rank }, (_, axis) => axis).filter((axis) => pads[axis] || pads[axis + rank]);
  if (touched.length === 0) return [flow(c)];
  const starts = touched.map((axis) => -(pads[axis] ?? 0));
  const ends = touched.map((axis) => (pads[axis + rank] ? (pads[axis + rank] ?? 0) : 2 ** 31));
  return [slice(c, flow(c), touched, starts, ends)];
};

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

// y = x in another dtype: ∂x = g in x's dtype
export const castGrad: Grad = (c) => {
  const { dtype } = input(c);
  return [
    dtype
      ? c.b.op("Cast", [flow(c)], { attributes: { to: dtypeCode(dtype) } })
      : c.b.op("CastLike", [flow(c), input(c)]),
  ];
};

// y = x[i] along an axis: ∂x = zeros, to which g is added at i (rows may be taken several times)
export const gatherGrad: Grad = (c) => {
  const [x, indices] = c.node.inputs as readonly [Value, Value];
  const axis = axisOf(c.node.int("axis", 0), rankOf(c.node, x));
  if (c.opset < 16) throw needsOpset(c, 16);
  const rank = rankOf(c.node, x);
  const indexRank = rankOf(c.node, indices);
  // The gathered axes come first: g (i…, rest…), zeros (axis, rest…), added row by row.
  const outRank = rank - 1 + indexRank;
  const front = Array.from({ length: outRank }, (_, i) => i);
  const moved = front.splice(axis, indexRank);
  const g = axis === 0 ? flow(c) : transpose(c, flow(c), [...moved, ...front]);
  const perm = [axis, ...Array.from({ length: rank }, (_, i) => i).filter((i) => i !== axis)];
  const zeros = zerosLike(c, x);
  const base = axis === 0 ? zeros : transpose(c, zeros, perm);
  const size = shapeOf(c, base);
  const positive = c.b.op("Where", [
    c.b.op("Less", [indices, indexConstant(c, indices, 0)]),
    c.b.op("Add", [indices, castTo(c, reshape(c, slice(c, size, [0], [0], [1]), []), indices)]),
    indices,
  ]);
  const wide = indices.dtype === "int64" ? positive : c.b.op("Cast", [positive], { attributes: { to: 7 } });
  const rows = unsqueeze(c, wide, [indexRank]); // (i…, 1)
  const sum = c.b.op("ScatterND", [base, rows, g], { attributes: { reduction: "add" } });
  return [
    axis === 0
      ? sum
      : transpose(
          c,
          sum,
          perm.map((_, i) => perm.indexOf(i)),
        ),
  ];
};

function indexConstant(c: GradContext, like: Value, value: number): Value {
  const tensor = like.dtype === "int32" ? Tensor.of("int32", [], Int32Array.of(value)) : Tensor.int64([value], []);
  return c.b.constant("index", tensor);
}

function castTo(c: GradContext, x: Value, like: Value): Value {
  return like.dtype === "int32" ? c.b.op("Cast", [x], { attributes: { to: 6 } }) : x;
}

function needsOpset(c: GradContext, opset: number): PareError {
  return new PareError("unsupported", `The gradient of ${c.node.opType} needs opset ${opset}`, {
    where: `node '${c.node.name}' (${c.node.opType})`,
    found: `opset ${c.opset}`,
    help: "Convert the model to a newer opset",
  });
}

// Dropout that is not training is the identity; one that drops needs its mask: ∂x = g·mask/(1 − ratio)
export const dropoutGrad: Grad = (c) => {
  const training = c.node.inputs[2];
  const constant = training?.tensor?.peekNumbers()?.[0] ?? (training ? undefined : 0);
  if (constant === 0) return [flow(c)];
  throw new PareError("not-differentiable", "Dropout in training mode has no gradient here", {
    where: `node '${c.node.name}' (Dropout)`,
    help: "Train with dropout switched off (training_mode false)",
  });
};
