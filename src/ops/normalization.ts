/** Normalization: batch, instance, layer, group, RMS, local response; the fused skip forms of com.microsoft. */
import type { DType } from "../base/dtype.ts";
import { names } from "./axes.ts";
import {
  batchNormGrad,
  groupNormGrad,
  instanceNormGrad,
  layerNormGrad,
  meanVarianceGrad,
  rmsNormGrad,
  skipLayerNormGrad,
  skipRmsNormGrad,
} from "./gradients/normalization.ts";
import { localResponseGrad, lpNormalizationGrad } from "./gradients/scaling.ts";
import {
  differentiable,
  type OpTable,
  dtypeOf,
  normalizeAxis,
  perInput,
  perOutput,
  sameAsInput,
  shapeOf,
} from "./helpers.ts";
import { narrowGroupNorm } from "./narrow.ts";
import type { Axes, Infer, OpSpec, ValueType, Weight } from "./spec.ts";

/** y, then running mean and variance of the channels when training. */
const batchInfer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const channels = { dtype: dtypeOf(context, 3) ?? dtype, shape: shapeOf(context, 3) };
  return [{ dtype, shape: shapeOf(context, 0) }, channels, channels, channels, channels];
};

const batchWeights: readonly Weight[] = [
  { input: 1, role: "scale", channelAxis: 0 },
  { input: 2, role: "bias", channelAxis: 0 },
  { input: 3, role: "statistic", channelAxis: 0 },
  { input: 4, role: "statistic", channelAxis: 0 },
];

const batch: OpSpec = {
  since: 7,
  infer: batchInfer,
  // One multiply-add per element once the statistics are folded.
  cost: perOutput(2),
  axes: "n c *s, c, c, c, c -> n c *s, c, c",
  weights: batchWeights,
  grad: "none",
};

const scaleAndBias: readonly Weight[] = [
  { input: 1, role: "scale", channelAxis: 0 },
  { input: 2, role: "bias", channelAxis: 0 },
];

/** The normalized shape from `axis` on; mean and inverse deviation have ones there. */
function layerInfer(statistics: DType | undefined): Infer {
  return (context) => {
    const shape = shapeOf(context, 0);
    const dtype = dtypeOf(context, 0);
    const axis = shape && normalizeAxis(context, context.node.int("axis", -1), shape.length);
    const reduced: ValueType = {
      dtype: statistics ?? dtype,
      shape: shape?.map((dim, i) => (i >= (axis ?? 0) ? 1 : dim)),
    };
    return [{ dtype, shape }, reduced, reduced];
  };
}

/** Scale and bias lie along the normalized axes. */
const layerAxes: Axes = (node, ranks) => {
  const rank = ranks[0] ?? 0;
  const axis = node.int("axis", -1);
  const first = axis < 0 ? axis + rank : axis;
  const letters = Array.from({ length: rank }, (_, i) => (i >= first ? `a${i}!` : `a${i}`));
  const parameters = node.inputs.slice(1).map((input) => {
    const size = input?.shape?.length ?? rank - first;
    return letters
      .slice(Math.max(0, rank - size))
      .map((letter, i) => (input?.shape?.[i] === 1 ? "_" : letter))
      .join(" ");
  });
  return `${[letters.join(" "), ...parameters].join(", ")} -> ${letters.join(" ")}`;
};

const layer: OpSpec = {
  since: 17,
  infer: layerInfer("float32"),
  // mean, difference, square, mean, root and divide, scale and shift
  cost: perOutput(7),
  axes: layerAxes,
  weights: scaleAndBias,
  grad: layerNormGrad,
};

const rms: OpSpec = {
  ...layer,
  since: 23,
  infer: layerInfer("float32"),
  cost: perOutput(4),
  weights: [{ input: 1, role: "scale", channelAxis: 0 }],
  grad: rmsNormGrad,
};

const instance: OpSpec = {
  since: 6,
  infer: sameAsInput(),
  cost: perOutput(7),
  axes: "n c *s!, c, c -> n c *s!",
  weights: scaleAndBias,
  grad: instanceNormGrad,
};

/** Groups of channels are computed together, so that only whole ones can go; `scale` says where its elements lie. */
function groupAxes(scale: string): Axes {
  return (node) => {
    const groups = node.int("num_groups", 1);
    return `n (g:${groups} k!) *s!, ${scale}, ${scale} -> n (g k) *s`;
  };
}

/** Normalizes x + skip along the last axis; outputs y, mean, inverse deviation and the sum. */
function skipNormalization(biasInput: number | undefined): OpSpec {
  return {
    since: 1,
    infer: (context) => {
      const dtype = dtypeOf(context, 0);
      const shape = shapeOf(context, 0);
      const reduced = { dtype: "float32" as const, shape: shape && [...shape.slice(0, -1), 1] };
      return [{ dtype, shape }, reduced, reduced, { dtype, shape }];
    },
    cost: perOutput(8),
    axes:
      biasInput === undefined
        ? (node) =>
            `b s h!, ${(node.inputs[1]?.shape?.length ?? 3) === 2 ? "s h" : "_ s h"}, h, h -> b s h, _ _ _, _ _ _, b s h`
        : (node) =>
            `b s h!, ${(node.inputs[1]?.shape?.length ?? 3) === 2 ? "s h" : "_ s h"}, h, h, h -> b s h, _ _ _, _ _ _, b s h`,
    weights: [
      { input: 2, role: "scale", channelAxis: 0 },
      { input: 3, role: "bias", channelAxis: 0 },
      ...(biasInput === undefined ? [] : [{ input: biasInput, role: "bias" as const, channelAxis: 0 }]),
    ],
    grad: skipLayerNormGrad,
    traits: { sum: { terms: 2, alone: "LayerNormalization" } },
  };
}

/** Same axes, those of `mixed` computed together. */
function along(rank: number, mixed: readonly number[]): string {
  const together = new Set(mixed.map((axis) => (axis < 0 ? axis + rank : axis)));
  const term = names("a", rank).map((letter, i) => (together.has(i) ? `${letter}!` : letter));
  return `${term.join(" ")} -> ${term.join(" ")}`;
}

const simplifiedLayer: OpSpec = { ...rms, since: 1 };

export const normalization: OpTable = {
  BatchNormalization: differentiable(
    [
      batch,
      // From opset 14 on, training is an attribute, and the running statistics are outputs 1 and 2.
      { ...batch, since: 14 },
    ],
    batchNormGrad,
  ),
  InstanceNormalization: instance,
  LayerNormalization: layer,
  // Before opset 21 the scale had one element per group.
  GroupNormalization: differentiable(
    [
      { ...instance, since: 18, axes: groupAxes("g"), narrow: narrowGroupNorm },
      { ...instance, since: 21, axes: groupAxes("(g k)"), narrow: narrowGroupNorm },
    ],
    groupNormGrad,
  ),
  RMSNormalization: rms,
  LRN: {
    since: 1,
    infer: sameAsInput(),
    cost: ({ node, outputs }) => perOutput(2 * node.int("size", 1) + 3)({ node, inputs: [], outputs }),
    axes: "n c# *s -> n c# *s", // neighbouring channels are computed together
    grad: localResponseGrad,
  },
  LpNormalization: {
    since: 1,
    infer: sameAsInput(),
    cost: perInput(3),
    axes: (node, [rank = 0]) => along(rank, [node.int("axis", -1)]),
    grad: lpNormalizationGrad,
  },
  MeanVarianceNormalization: {
    since: 9,
    infer: sameAsInput(),
    cost: perInput(6),
    axes: (node, [rank = 0]) => along(rank, node.ints("axes") ?? [0, 2, 3]),
    grad: meanVarianceGrad,
  },
  // ONNX Runtime's own, found in the standard domain of models that it has optimized.
  SimplifiedLayerNormalization: simplifiedLayer,
  "com.microsoft::SkipLayerNormalization": skipNormalization(4),
  "com.microsoft::SkipSimplifiedLayerNormalization": {
    ...skipNormalization(undefined),
    axes: (node) =>
      `b s h!, ${(node.inputs[1]?.shape?.length ?? 3) === 2 ? "s h" : "_ s h"}, h, h -> b s h, _ _ _, _ _ _, b s h`,
    weights: [
      { input: 2, role: "scale", channelAxis: 0 },
      { input: 3, role: "bias", channelAxis: 0 },
    ],
    grad: skipRmsNormGrad,
    traits: { sum: { terms: 2, alone: "SimplifiedLayerNormalization" } },
  },
};
