/** Operators that move elements without computing: reshape, transpose, concat, split, expand, tile, pad and their kin. */
import { type Dim, formatShape, isConcrete } from "../base/shape.ts";
import type { Node } from "../ir/graph.ts";
import { col2ImGrad } from "./gradients/conv.ts";
import { SAME_AXES, names, reshapeAxes } from "./axes.ts";
import {
  centerCropPadGrad,
  concatGrad,
  depthToSpaceGrad,
  dropoutGrad,
  expandGrad,
  identityGrad,
  padGrad,
  reshapeGrad,
  sameMoveGrad,
  spaceToDepthGrad,
  splitGrad,
  tileGrad,
  transposeGrad,
} from "./gradients/movement.ts";
import {
  differentiable,
  FREE,
  MAX_CONTENTS,
  type OpTable,
  type Shape,
  broadcastContents,
  broadcastShapes,
  contentsOf,
  dtypeOf,
  integers,
  knownIntegers,
  mapCoordinates,
  mismatch,
  normalizeAxis,
  sameAsInput,
  shapeOf,
  unknownShape,
  withContents,
} from "./helpers.ts";
import { narrowPad, narrowRepeats, narrowSizes, narrowSplit } from "./narrow.ts";
import { depthToSpaceAxes, expandAxes, padAxes, spaceToDepthAxes, tileAxes } from "./picked-axes.ts";
import type { Axes, Infer, InferContext, OpSpec } from "./spec.ts";
import { add, exactDivide, floorDivide, multiply, product } from "./symbolic.ts";

/** A record of the family: no arithmetic, quantization parameters pass through. */
export function moving(since: number, infer: Infer, axes: Axes, quantizable = true): OpSpec {
  return {
    since,
    infer,
    cost: FREE,
    axes,
    grad: "none",
    traits: quantizable ? { movement: true, quantizable } : { movement: true },
  };
}

/** Reshape's target: 0 copies the input's size (unless `allowzero`), -1 takes what is left. */
const reshapeInfer: Infer = (context) => {
  const input = context.inputs[0];
  const target = integers(context, "shape", 1);
  const dtype = input?.dtype;
  if (target === "absent" || target === undefined) {
    const rank = shapeOf(context, 1)?.[0];
    return [{ dtype, shape: typeof rank === "number" ? unknownShape(rank) : undefined }];
  }
  const from = input?.shape;
  const copies = context.node.int("allowzero", 0) === 0;
  const sizes = target.map((dim, i): Dim => (dim === 0 && copies ? (from?.[i] ?? null) : dim));
  const free = sizes.indexOf(-1);
  const total = from ? product(from) : null;
  if (free >= 0) {
    const rest = sizes.filter((_, i) => i !== free);
    sizes[free] = restOf(from, target, rest, free, copies, total);
  } else {
    // One unknown size among known ones is what is left, too.
    const unknown = sizes.flatMap((dim, i) => (dim === null ? [i] : []));
    const [only] = unknown;
    if (unknown.length === 1 && only !== undefined && total !== null) {
      const rest = product(sizes.filter((_, i) => i !== only));
      if (rest !== 0) sizes[only] = exactDivide(total, rest);
    }
  }
  if (isConcrete(from) && isConcrete(sizes) && product(from) !== product(sizes))
    throw mismatch(context, `${formatShape(from)} reshaped to ${formatShape(sizes)}`, "as many elements as before");
  return [withContents(dtype, sizes, input?.contents)];
};

/** The size at -1: total / rest, with the sizes that were copied cancelled first, so that unknown ones do no harm. */
function restOf(from: Shape | undefined, target: Shape, rest: Shape, free: number, copies: boolean, total: Dim): Dim {
  if (!from) return null;
  const known = product(rest);
  if (total !== null && known !== null) return known === 0 ? null : exactDivide(total, known);
  if (!copies) return null;
  const left = from.filter((_, i) => target[i] !== 0);
  const others = target.filter((dim, i) => i !== free && dim !== 0);
  return exactDivide(product(left), product(others));
}

const flattenInfer: Infer = (context) => {
  const input = context.inputs[0];
  const shape = input?.shape;
  if (!shape) return [{ dtype: input?.dtype, shape: [null, null] }];
  const axis = context.node.int("axis", 1);
  const at = axis < 0 ? axis + shape.length : axis;
  return [{ dtype: input.dtype, shape: [product(shape.slice(0, at)), product(shape.slice(at))] }];
};

const squeezeInfer: Infer = (context) => {
  const input = context.inputs[0];
  const shape = input?.shape;
  const given = integers(context, "axes", 1);
  if (!shape || given === undefined || (given !== "absent" && !isConcrete(given)))
    return [{ dtype: input?.dtype, shape: undefined }];
  if (given === "absent") {
    const sure = shape.every((dim) => typeof dim === "number");
    return [withContents(input.dtype, sure ? shape.filter((dim) => dim !== 1) : undefined, input.contents)];
  }
  const axes = new Set((given as readonly number[]).map((axis) => normalizeAxis(context, axis, shape.length)));
  for (const axis of axes)
    if (typeof shape[axis] === "number" && shape[axis] !== 1)
      throw mismatch(context, `size ${shape[axis]} on axis ${axis}`, "a size of 1 where it is squeezed");
  return [
    withContents(
      input.dtype,
      shape.filter((_, i) => !axes.has(i)),
      input.contents,
    ),
  ];
};

const unsqueezeInfer: Infer = (context) => {
  const input = context.inputs[0];
  const shape = input?.shape;
  const given = knownIntegers(context, "axes", 1);
  if (!shape || !given) {
    const more = shapeOf(context, 1)?.[0];
    return [
      { dtype: input?.dtype, shape: shape && typeof more === "number" ? unknownShape(shape.length + more) : undefined },
    ];
  }
  const rank = shape.length + given.length;
  const axes = new Set(given.map((axis) => normalizeAxis(context, axis, rank)));
  const rest = [...shape];
  const result = Array.from({ length: rank }, (_, i): Dim => (axes.has(i) ? 1 : (rest.shift() ?? null)));
  return [withContents(input.dtype, result, input.contents)];
};

function permutation(node: Node, rank: number): number[] {
  return node.ints("perm") ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
}

const transposeInfer: Infer = (context) => {
  const input = context.inputs[0];
  const given = context.node.ints("perm");
  const shape = input?.shape ?? (given && unknownShape(given.length));
  if (!shape) return [{ dtype: input?.dtype, shape: undefined }];
  const perm = permutation(context.node, shape.length);
  if (perm.length !== shape.length)
    throw mismatch(context, `a tensor of rank ${shape.length}`, `rank ${perm.length}, as perm says`);
  const result = perm.map((axis) => shape[axis] ?? null);
  const contents =
    input?.contents && isConcrete(result) && isConcrete(shape)
      ? mapCoordinates(result, (coordinates) => {
          let offset = 0;
          for (const [axis, size] of shape.entries()) offset = offset * size + (coordinates[perm.indexOf(axis)] ?? 0);
          return input.contents?.[offset] ?? null;
        })
      : undefined;
  return [withContents(input?.dtype, result, contents)];
};

const transposeAxes: Axes = (node, ranks) => {
  const letters = names("a", ranks[0] ?? 0);
  return `${letters.join(" ")} -> ${permutation(node, letters.length)
    .map((axis) => letters[axis])
    .join(" ")}`;
};

const concatInfer: Infer = (context) => {
  const dtype = context.inputs.find((input) => input?.dtype)?.dtype;
  const shapes = context.inputs.map((input) => input?.shape);
  const known = shapes.filter((shape) => shape !== undefined);
  const rank = known[0]?.length;
  if (rank === undefined) return [{ dtype, shape: undefined }];
  if (known.some((shape) => shape.length !== rank))
    throw mismatch(context, known.map(formatShape).join(" and "), "equal ranks");
  const axis = normalizeAxis(context, context.node.int("axis", 1), rank);
  const result = Array.from({ length: rank }, (_, i): Dim => {
    if (i === axis) return shapes.reduce<Dim>((sum, shape) => add(sum, shape?.[axis] ?? null), 0);
    const sizes = known.map((shape) => shape[i] ?? null);
    const numbers = new Set(sizes.filter((size) => typeof size === "number"));
    if (numbers.size > 1)
      throw mismatch(context, known.map(formatShape).join(" and "), `equal sizes except on axis ${axis}`);
    return [...numbers][0] ?? sizes.find((size) => size !== null) ?? null;
  });
  const parts = context.inputs.map((input) => input?.contents);
  const flat = rank === 1 && parts.every((part) => part !== undefined) ? parts.flat() : undefined;
  return [withContents(dtype, result, flat as readonly Dim[] | undefined)];
};

/** The axis of concatenation is the sum of the inputs' axes; the others are tied. */
const concatAxes: Axes = (node, ranks) => {
  const rank = Math.max(...ranks);
  const axis = (node.int("axis", 1) + rank) % rank;
  const term = (own: string): string =>
    names("a", rank)
      .map((letter, i) => (i === axis ? own : letter))
      .join(" ");
  const own = names("c", node.inputs.length);
  return `${own.map(term).join(", ")} -> ${term(own.length === 1 ? "c0" : own.join("+"))}`;
};

/** Sizes of a Split's outputs: given, or equal parts (the last one smaller from opset 18 on). */
function splitSizes(context: InferContext, size: Dim): readonly Dim[] {
  const given = integers(context, "split", 1);
  if (given !== "absent") return given ?? context.node.outputs.map(() => null);
  const parts = context.node.int("num_outputs", context.node.outputs.length);
  if (typeof size !== "number") {
    const part = exactDivide(size, parts);
    // Only before opset 18 is it sure that the parts are equal.
    const equal = context.opset < 18 || (part !== null && multiply(part, parts) === size);
    return context.node.outputs.map(() => (equal ? part : null));
  }
  const chunk = Math.ceil(size / parts);
  return context.node.outputs.map((_, i) => Math.max(0, Math.min(chunk, size - i * chunk)));
}

const splitInfer: Infer = (context) => {
  const input = context.inputs[0];
  const shape = input?.shape;
  if (!shape) return context.node.outputs.map(() => ({ dtype: input?.dtype, shape: undefined }));
  const axis = normalizeAxis(context, context.node.int("axis", 0), shape.length);
  let start = 0;
  return splitSizes(context, shape[axis] ?? null).map((size) => {
    const part =
      typeof size === "number" && shape.length === 1 ? input.contents?.slice(start, start + size) : undefined;
    start += typeof size === "number" ? size : Number.NaN;
    return withContents(
      input.dtype,
      shape.map((dim, i) => (i === axis ? size : dim)),
      part,
    );
  });
};

const splitAxes: Axes = (node, ranks) => {
  const rank = ranks[0] ?? 0;
  const axis = (node.int("axis", 0) + rank) % rank;
  const term = (own: string): string =>
    names("a", rank)
      .map((letter, i) => (i === axis ? own : letter))
      .join(" ");
  const own = names("c", node.outputs.length);
  return `${term(own.length === 1 ? "c0" : own.join("+"))}, -> ${own.map(term).join(", ")}`;
};

const expandInfer: Infer = (context) => {
  const input = context.inputs[0];
  const target = contentsOf(context, 1);
  if (!target) return [{ dtype: input?.dtype, shape: undefined }];
  const shape = broadcastShapes(context, [input?.shape, target]);
  return [
    withContents(
      input?.dtype,
      shape,
      broadcastContents([input], shape, (x) => x),
    ),
  ];
};

const tileInfer: Infer = (context) => {
  const input = context.inputs[0];
  const repeats = contentsOf(context, 1);
  const shape = input?.shape?.map((dim, i) => multiply(dim, repeats?.[i] ?? null));
  const once = input?.shape;
  const contents =
    isConcrete(shape) && isConcrete(once) && once.length === 1 && (shape[0] ?? 0) <= MAX_CONTENTS && input?.contents
      ? mapCoordinates(shape, ([i = 0]) => input.contents?.[i % (once[0] ?? 1)] ?? null)
      : undefined;
  return [withContents(input?.dtype, shape, contents)];
};

/** Pads: begins, then ends, of all axes or of those in input 3. */
const padInfer: Infer = (context) => {
  const input = context.inputs[0];
  const shape = input?.shape;
  if (!shape) return [{ dtype: input?.dtype, shape: undefined }];
  const pads = integers(context, "pads", 1);
  const axes = context.inputs[3] ? contentsOf(context, 3) : shape.map((_, i) => i);
  if (pads === "absent" || !pads || !isConcrete(axes))
    return [{ dtype: input.dtype, shape: unknownShape(shape.length) }];
  const result = [...shape];
  for (const [i, axis] of axes.entries()) {
    const at = normalizeAxis(context, axis, shape.length);
    result[at] = add(result[at] ?? null, add(pads[i] ?? null, pads[i + axes.length] ?? null));
  }
  return [{ dtype: input.dtype, shape: result }];
};

/** Axes whose size stays are tied; the padded ones are free. */
export const equalSizeAxes: Axes = (node) => {
  const from = node.inputs[0]?.shape;
  const to = node.outputs[0]?.shape;
  if (!from || !to || from.length !== to.length) return undefined;
  const term = from.map((dim, i) => (dim !== null && dim === to[i] ? `a${i}` : "_")).join(" ");
  return `${term} -> ${term}`;
};

const depthToSpaceInfer: Infer = (context) => {
  const x = shapeOf(context, 0);
  const block = context.node.int("blocksize", 1);
  const shape = x && [
    x[0] ?? null,
    floorDivide(x[1] ?? null, block * block),
    ...x.slice(2).map((dim) => multiply(dim, block)),
  ];
  return [{ dtype: dtypeOf(context, 0), shape }];
};

const spaceToDepthInfer: Infer = (context) => {
  const x = shapeOf(context, 0);
  const block = context.node.int("blocksize", 1);
  const shape = x && [
    x[0] ?? null,
    multiply(x[1] ?? null, block * block),
    ...x.slice(2).map((dim) => floorDivide(dim, block)),
  ];
  return [{ dtype: dtypeOf(context, 0), shape }];
};

const identityInfer: Infer = (context) => [context.inputs[0] ?? { dtype: undefined, shape: undefined }];

/** y and, where asked, the mask of what was kept. */
function dropoutInfer(mask: "bool" | "same"): Infer {
  return (context) => {
    const dtype = dtypeOf(context, 0);
    const shape = shapeOf(context, 0);
    return [
      { dtype, shape },
      { dtype: mask === "bool" ? "bool" : dtype, shape },
    ];
  };
}

/** Rows of column-wise patches become an image: (n, c·Πblock, L) to (n, c, *image). */
const col2ImInfer: Infer = (context) => {
  const x = shapeOf(context, 0);
  const image = contentsOf(context, 1);
  const block = contentsOf(context, 2);
  return [
    {
      dtype: dtypeOf(context, 0),
      shape: x && image && [x[0] ?? null, block ? floorDivide(x[1] ?? null, product(block)) : null, ...image],
    },
  ];
};

const centerCropPadInfer: Infer = (context) => {
  const shape = shapeOf(context, 0);
  const target = contentsOf(context, 1);
  const axes = context.node.ints("axes") ?? shape?.map((_, i) => i);
  const positive = shape && axes?.map((axis) => normalizeAxis(context, axis, shape.length));
  return [
    {
      dtype: dtypeOf(context, 0),
      shape: shape?.map((dim, i) => (positive?.includes(i) ? (target?.[positive.indexOf(i)] ?? null) : dim)),
    },
  ];
};

/** Positions along time have an order, and each sample a length. */
const reverseAxes: Axes = (node, ranks) => {
  const fixed = new Set([node.int("time_axis", 0), node.int("batch_axis", 1)]);
  const term = names("a", ranks[0] ?? 0).map((letter, i) => (fixed.has(i) ? `${letter}#` : letter));
  return `${term.join(" ")}, -> ${term.join(" ")}`;
};

const squeeze = moving(1, squeezeInfer, reshapeAxes);
const unsqueeze = moving(1, unsqueezeInfer, reshapeAxes);
const split: OpSpec = { ...moving(2, splitInfer, splitAxes), narrow: narrowSplit };
const pad: OpSpec = { ...moving(2, padInfer, padAxes, false), narrow: narrowPad };

const dropout: OpSpec = {
  since: 7,
  infer: dropoutInfer("same"),
  cost: FREE,
  axes: "*a -> *a, *a",
  grad: "none",
  traits: { identity: true, movement: true },
};

export const movement: OpTable = {
  Identity: { ...moving(1, identityInfer, SAME_AXES), traits: { identity: true, movement: true }, grad: identityGrad },
  Reshape: { ...moving(5, reshapeInfer, reshapeAxes), grad: reshapeGrad, narrow: narrowSizes(1, [0, -1]) },
  Flatten: { ...moving(1, flattenInfer, reshapeAxes), grad: reshapeGrad },
  // Axes were an attribute before opset 13, and are an input from it on.
  Squeeze: differentiable([squeeze, { ...squeeze, since: 13 }], reshapeGrad),
  Unsqueeze: differentiable([unsqueeze, { ...unsqueeze, since: 13 }], reshapeGrad),
  Transpose: { ...moving(1, transposeInfer, transposeAxes), grad: transposeGrad },
  Concat: { ...moving(4, concatInfer, concatAxes), grad: concatGrad },
  // Sizes were an attribute before opset 13; `num_outputs` came with 18.
  Split: differentiable([split, { ...split, since: 13 }, { ...split, since: 18 }], splitGrad),
  Expand: { ...moving(8, expandInfer, expandAxes, false), grad: expandGrad, narrow: narrowSizes(1, [1]) },
  Tile: { ...moving(6, tileInfer, tileAxes, false), grad: tileGrad, narrow: narrowRepeats },
  // Pads were an attribute before opset 11.
  // With its value as an input, it works on integer codes: their zero point is padded.
  Pad: differentiable([pad, { ...pad, since: 11, traits: { movement: true, quantizable: true } }], padGrad),
  DepthToSpace: { ...moving(1, depthToSpaceInfer, depthToSpaceAxes), grad: depthToSpaceGrad },
  SpaceToDepth: { ...moving(1, spaceToDepthInfer, spaceToDepthAxes), grad: spaceToDepthGrad },
  // Before opset 12 a model could not ask for training, so that Dropout is the identity at inference in every one.
  Dropout: differentiable(
    [
      dropout,
      { ...dropout, since: 10, infer: dropoutInfer("bool") },
      { ...dropout, since: 12, infer: dropoutInfer("bool"), axes: "*a, , -> *a, *a" },
    ],
    dropoutGrad,
  ),
  ReverseSequence: { ...moving(10, sameAsInput(), reverseAxes, false), grad: sameMoveGrad },
  Trilu: { ...moving(14, sameAsInput(), "*a r# c#, -> *a r# c#", false), grad: sameMoveGrad },
  Col2Im: { ...moving(18, col2ImInfer, "n _ _ -> n *z", false), grad: col2ImGrad },
  CenterCropPad: { ...moving(18, centerCropPadInfer, equalSizeAxes, false), grad: centerCropPadGrad },
};
