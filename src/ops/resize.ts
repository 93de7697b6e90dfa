/** Resampling of images: Resize, Upsample, grid sampling and region pooling. */
import type { Dim } from "../base/shape.ts";
import { isConcrete } from "../base/shape.ts";
import { resizeGrad } from "./gradients/resampling.ts";
import { type OpTable, contentsOf, dtypeOf, perOutput, shapeOf, unknownShape } from "./helpers.ts";
import { equalSizeAxes } from "./movement.ts";
import { narrowSizes } from "./narrow.ts";
import { lowerRoiAlign } from "./lowered/regions.ts";
import { lowerAffineGrid, lowerGridSample } from "./lowered/sampling.ts";
import type { Infer, InferContext, OpSpec } from "./spec.ts";
import { multiply } from "./symbolic.ts";

/** ⌊size · scale⌋ in single precision, as the engine computes it; whole scales keep symbols. */
function scaled(size: Dim, scale: Dim): Dim {
  if (typeof scale !== "number") return null;
  if (typeof size === "number") return Math.floor(Math.fround(size * Math.fround(scale)));
  return Number.isInteger(scale) ? multiply(size, scale) : null;
}

function scaleAll(shape: readonly Dim[], scales: readonly Dim[] | undefined): readonly Dim[] {
  return shape.map((dim, i) => scaled(dim, scales?.[i] ?? null));
}

/** Sizes, if given; else scales. From opset 18 on they may be for some axes only, and may keep the aspect ratio. */
function resizeInfer(scalesInput: number, sizesInput: number): Infer {
  return (context) => {
    const dtype = dtypeOf(context, 0);
    const shape = shapeOf(context, 0);
    if (!shape) return [{ dtype, shape: undefined }];
    const axes = (context.node.ints("axes") ?? shape.map((_, i) => i)).map((axis) =>
      axis < 0 ? axis + shape.length : axis,
    );
    const place = (sizes: readonly Dim[]): readonly Dim[] =>
      shape.map((dim, i) => (axes.includes(i) ? (sizes[axes.indexOf(i)] ?? null) : dim));
    const own = axes.map((axis) => shape[axis] ?? null);
    const given = context.inputs[sizesInput];
    if (given && given.shape?.[0] !== 0) {
      if (!given.contents) return [{ dtype, shape: unknownShape(shape.length) }];
      return [{ dtype, shape: place(keepAspect(context, own, given.contents)) }];
    }
    const scales = contentsOf(context, scalesInput);
    return [{ dtype, shape: place(scaleAll(own, scales)) }];
  };
}

/** `not_larger` and `not_smaller` use one scale for all axes: the least or greatest ratio of sizes. */
function keepAspect(context: InferContext, own: readonly Dim[], sizes: readonly Dim[]): readonly Dim[] {
  const policy = context.node.string("keep_aspect_ratio_policy") ?? "stretch";
  if (policy === "stretch") return sizes;
  if (!isConcrete(own) || !isConcrete(sizes)) return sizes.map(() => null);
  const ratios = sizes.map((size, i) => size / (own[i] ?? 1));
  const scale = policy === "not_larger" ? Math.min(...ratios) : Math.max(...ratios);
  return own.map((size) => Math.round(size * scale));
}

function resize(since: number, infer: Infer, quantizable = true): OpSpec {
  return {
    since,
    infer,
    cost: ({ node, outputs }) =>
      perOutput((node.string("mode") ?? "nearest") === "nearest" ? 1 : 8)({ node, inputs: [], outputs }),
    axes: equalSizeAxes,
    grad: resizeGrad,
    narrow: ({ node, ...context }) =>
      node.inputs[3] && !node.ints("axes") ? narrowSizes(3)({ node, ...context }) : {},
    traits: quantizable ? { quantizable, homogeneous: true } : { homogeneous: true },
  };
}

const upsampleInfer: Infer = (context) => {
  const shape = shapeOf(context, 0);
  const scales = context.node.floats("scales") ?? contentsOf(context, 1);
  return [{ dtype: dtypeOf(context, 0), shape: shape && scaleAll(shape, scales) }];
};

/** x (n, c, *s) sampled at grid (n, *z, r) gives (n, c, *z). */
const gridSampleInfer: Infer = (context) => {
  const x = shapeOf(context, 0);
  const grid = shapeOf(context, 1);
  return [{ dtype: dtypeOf(context, 0), shape: x && grid && [x[0] ?? null, x[1] ?? null, ...grid.slice(1, -1)] }];
};

const affineGridInfer: Infer = (context) => {
  const size = contentsOf(context, 1);
  return [{ dtype: dtypeOf(context, 0), shape: size && [size[0] ?? null, ...size.slice(2), size.length - 2] }];
};

/** One (c, height, width) patch for each region. */
const roiAlignInfer: Infer = (context) => {
  const { node } = context;
  const shape = [
    shapeOf(context, 1)?.[0] ?? null,
    shapeOf(context, 0)?.[1] ?? null,
    node.int("output_height", 1),
    node.int("output_width", 1),
  ];
  return [{ dtype: dtypeOf(context, 0), shape }];
};

/** Boxes kept by non-maximum suppression: as many as the data says. */
const suppressionInfer: Infer = () => [{ dtype: "int64", shape: [null, 3] }];

const upsample: OpSpec = { ...resize(7, upsampleInfer, false), grad: "none" };

export const resampling: OpTable = {
  Resize: [resize(10, resizeInfer(1, -1)), resize(11, resizeInfer(2, 3)), resize(18, resizeInfer(2, 3))],
  Upsample: [upsample, { ...upsample, since: 9 }],
  GridSample: {
    since: 16,
    infer: gridSampleInfer,
    cost: perOutput(8),
    axes: "n c *s, n *z _ -> n c *z",
    grad: "lower",
    lower: lowerGridSample,
  },
  AffineGrid: {
    since: 20,
    infer: affineGridInfer,
    cost: perOutput(6),
    axes: "opaque",
    grad: "lower",
    lower: lowerAffineGrid,
  },
  RoiAlign: {
    since: 10,
    infer: roiAlignInfer,
    cost: perOutput(16),
    axes: "n c _ _, r _, r -> r c _ _",
    grad: "lower",
    lower: lowerRoiAlign,
  },
  NonMaxSuppression: { since: 10, infer: suppressionInfer, cost: () => ({ macs: 0 }), axes: "opaque", grad: "none" },
};
