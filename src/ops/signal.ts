/** Signal processing: Fourier transforms and mel weights. */
import { type Dim } from "../base/shape.ts";
import { dtypeFromCode } from "../base/dtype.ts";
import { dftGrad } from "./gradients/fourier.ts";
import { FREE, type OpTable, contentsOf, count, dtypeOf, normalizeAxis, shapeOf } from "./helpers.ts";
import { lowerStft } from "./lowered/signal.ts";
import type { Infer } from "./spec.ts";
import { add, floorDivide, subtract } from "./symbolic.ts";

/** Frequencies of a transform of length n: all, or ⌊n/2⌋ + 1 for a one-sided one. */
function bins(length: Dim, onesided: boolean): Dim {
  return onesided ? add(floorDivide(length, 2), 1) : length;
}

/** signal (b, n, 1 or 2) gives (b, frames, bins, 2) with ⌊(n − frame) / step⌋ + 1 frames. */
const stftInfer: Infer = (context) => {
  const signal = shapeOf(context, 0);
  const step = contentsOf(context, 1)?.[0] ?? null;
  const frame = context.inputs[3] ? (contentsOf(context, 3)?.[0] ?? null) : (shapeOf(context, 2)?.[0] ?? null);
  const frames = add(floorDivide(subtract(signal?.[1] ?? null, frame), step), 1);
  const onesided = context.node.int("onesided", 1) !== 0;
  return [{ dtype: dtypeOf(context, 0), shape: [signal?.[0] ?? null, frames, bins(frame, onesided), 2] }];
};

/** (…, n, …, 1 or 2) gives (…, bins, …, 2). */
const dftInfer: Infer = (context) => {
  const x = shapeOf(context, 0);
  if (!x) return [{ dtype: dtypeOf(context, 0), shape: undefined }];
  const given = context.opset >= 20 ? contentsOf(context, 2)?.[0] : context.node.int("axis", 1);
  const known = context.opset >= 20 && !context.inputs[2] ? -2 : given;
  if (typeof known !== "number") return [{ dtype: dtypeOf(context, 0), shape: [...x.slice(0, -1).map(() => null), 2] }];
  const axis = normalizeAxis(context, known, x.length);
  const length = context.inputs[1] ? (contentsOf(context, 1)?.[0] ?? null) : (x[axis] ?? null);
  const onesided = context.node.int("onesided", 0) !== 0;
  const inverse = onesided && context.node.int("inverse", 0) !== 0;
  const shape = x.map(
    (dim, i): Dim =>
      i === axis ? (inverse ? length : bins(length, onesided)) : i === x.length - 1 ? (inverse ? 1 : 2) : dim,
  );
  return [{ dtype: dtypeOf(context, 0), shape }];
};

const melInfer: Infer = (context) => {
  const length = contentsOf(context, 1)?.[0] ?? null;
  return [
    {
      dtype: dtypeFromCode(context.node.int("output_datatype", 1)),
      shape: [add(floorDivide(length, 2), 1), contentsOf(context, 0)?.[0] ?? null],
    },
  ];
};

export const signal: OpTable = {
  STFT: {
    since: 17,
    infer: stftInfer,
    // A fast transform of n points: 5 n log2 n operations.
    cost: ({ inputs, outputs }) => {
      const frame = inputs[2]?.[0] ?? 2 * (outputs[0]?.[2] ?? 1);
      return {
        macs: 0,
        flops: (outputs[0]?.[0] ?? 0) * (outputs[0]?.[1] ?? 0) * 5 * frame * Math.log2(Math.max(2, frame)),
      };
    },
    axes: "b *s, , _ -> b _ _ _",
    grad: "lower",
    lower: lowerStft,
  },
  DFT: {
    since: 17,
    infer: dftInfer,
    cost: ({ inputs }) => {
      const elements = count(inputs[0]);
      return { macs: 0, flops: 5 * elements * Math.log2(Math.max(2, elements)) };
    },
    axes: "opaque",
    grad: dftGrad,
  },
  MelWeightMatrix: { since: 17, infer: melInfer, cost: FREE, axes: "opaque", grad: "none" },
};
