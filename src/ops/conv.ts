/** Convolution and transposed convolution. */
import type { Dim } from "../base/shape.ts";
import type { Node } from "../ir/graph.ts";
import { convGrad, convTransposeGrad } from "./gradients/conv.ts";
import { fusedConvGrad } from "./gradients/fused.ts";
import { type OpTable, type Shape, count, dtypeOf, mismatch, shapeOf } from "./helpers.ts";
import { narrowConv, narrowConvTranspose } from "./narrow.ts";
import type { Axes, Cost, InferContext, OpSpec, Weight } from "./spec.ts";
import { add, ceilDivide, floorDivide, maximum, minimum, multiply, subtract } from "./symbolic.ts";

/** Kernel sizes, strides, dilations and padding of a sliding window over `spatial` axes. */
export interface Window {
  readonly kernel: Shape;
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** Begins, then ends; undefined for automatic padding. */
  readonly pads: readonly number[] | undefined;
  readonly autoPad: string;
}

export function windowOf(node: Node, spatial: number, kernel: Shape): Window {
  const autoPad = node.string("auto_pad") ?? "NOTSET";
  const ones = Array.from({ length: spatial }, (): number => 1);
  return {
    kernel,
    strides: node.ints("strides") ?? ones,
    dilations: node.ints("dilations") ?? ones,
    pads:
      autoPad === "NOTSET" ? (node.ints("pads") ?? Array.from({ length: 2 * spatial }, (): number => 0)) : undefined,
    autoPad,
  };
}

/**
 * Size of a sliding window's output along one axis, with effective kernel e = (k − 1)·d + 1:
 * ⌊(x + p_begin + p_end − e) / s⌋ + 1, or ⌈x / s⌉ for SAME padding, or ⌈(x − e + 1) / s⌉ for VALID.
 * With `ceil` the division rounds up, but a window that would begin in the end padding is dropped.
 */
export function slideSize(x: Dim, window: Window, axis: number, ceil = false): Dim {
  const stride = window.strides[axis] ?? 1;
  const extent = add(multiply(subtract(window.kernel[axis] ?? null, 1), window.dilations[axis] ?? 1), 1);
  if (window.autoPad.startsWith("SAME")) return ceilDivide(x, stride);
  const spatial = window.kernel.length;
  const begin = window.pads?.[axis] ?? 0;
  const end = window.pads?.[axis + spatial] ?? 0;
  const room = subtract(add(x, begin + end), extent);
  if (!ceil) return add(floorDivide(room, stride), 1);
  const size = add(ceilDivide(room, stride), 1);
  if (typeof size !== "number" || typeof x !== "number") return stride === 1 ? size : null;
  return (size - 1) * stride >= x + begin ? size - 1 : size;
}

/** Output shape (n, o, *z) of a convolution of x (n, i, *s) with a kernel (o, i/g, *k). */
export function convShape(context: InferContext, x: Shape | undefined, w: Shape | undefined): Shape | undefined {
  const { node } = context;
  const rank = x?.length ?? w?.length;
  if (rank === undefined) return undefined;
  if (x && w) {
    const group = node.int("group", 1);
    const [, channels] = x;
    const perGroup = w[1];
    if (x.length !== w.length) throw mismatch(context, `ranks ${x.length} and ${w.length}`, "equal ranks");
    if (typeof channels === "number" && typeof perGroup === "number" && channels !== perGroup * group)
      throw mismatch(context, `${channels} input channels`, `${perGroup * group} (${group} groups of ${perGroup})`);
  }
  const kernel = node.ints("kernel_shape") ?? w?.slice(2) ?? Array.from({ length: rank - 2 }, (): Dim => null);
  const window = windowOf(node, rank - 2, kernel);
  const spatial = Array.from({ length: rank - 2 }, (_, axis) =>
    x ? maximumZero(slideSize(x[axis + 2] ?? null, window, axis)) : null,
  );
  return [x?.[0] ?? null, w?.[0] ?? null, ...spatial];
}

/** A size that came out negative is an empty axis; symbolic sizes are left as they are. */
function maximumZero(size: Dim): Dim {
  return typeof size === "number" ? maximum(size, 0) : size;
}

/** MACs of a convolution: n·o·Πz · (i/g)·Πk, the weight's elements over o for each output element. */
export function convCost(weight: number): Cost {
  return ({ inputs, outputs }) => {
    const kernel = inputs[weight];
    const out = count(outputs[0]);
    return {
      macs: kernel ? (out * count(kernel)) / Math.max(1, kernel[0] ?? 1) : 0,
      flops: inputs[weight + 1] && weight === 1 ? out : 0,
    };
  };
}

/** Channels of each group are tied: depthwise kernels have one axis for input and output, grouped ones are merged axes. */
export function convAxesTerms(node: Node, weight: number): { x: string; w: string; bias: string; y: string } {
  const group = node.int("group", 1);
  if (group === 1) return { x: "n i *s", w: "o i *k", bias: "o", y: "n o *z" };
  const kernel = node.inputs[weight]?.shape;
  if (kernel?.[0] === group && kernel[1] === 1) return { x: "n c *s", w: "c 1 *k", bias: "c", y: "n c *z" };
  return { x: `n (g:${group} i) *s`, w: "(g o) i *k", bias: "(g o)", y: "n (g o) *z" };
}

const convAxes: Axes = (node) => {
  const { x, w, bias, y } = convAxesTerms(node, 1);
  return `${x}, ${w}, ${bias} -> ${y}`;
};

const convWeights: readonly Weight[] = [
  { input: 1, role: "kernel", channelAxis: 0, reductionAxis: 1 },
  { input: 2, role: "bias", channelAxis: 0 },
];

export const convRecord: OpSpec = {
  since: 1,
  infer: (context) => [
    { dtype: dtypeOf(context, 0), shape: convShape(context, shapeOf(context, 0), shapeOf(context, 1)) },
  ],
  cost: convCost(1),
  axes: convAxes,
  weights: convWeights,
  grad: "none",
  narrow: narrowConv(0, 1),
  traits: { linear: "conv", quantizable: true },
};

/** Output of a transposed convolution of x (n, i, *s) with a kernel (i, o/g, *k). */
function transposeShape(context: InferContext): Shape | undefined {
  const x = shapeOf(context, 0);
  const w = shapeOf(context, 1);
  if (!x || !w) return undefined;
  const { node } = context;
  const spatial = x.length - 2;
  if (typeof x[1] === "number" && typeof w[0] === "number" && x[1] !== w[0])
    throw mismatch(context, `${x[1]} input channels`, `${w[0]}, the kernel's first axis`);
  const window = windowOf(node, spatial, node.ints("kernel_shape") ?? w.slice(2));
  const extra = node.ints("output_padding") ?? [];
  const fixed = node.ints("output_shape");
  const sizes = Array.from({ length: spatial }, (_, axis): Dim => {
    if (fixed) return fixed.slice(-spatial)[axis] ?? null;
    const size = x[axis + 2] ?? null;
    const stride = window.strides[axis] ?? 1;
    const extent = add(multiply(subtract(window.kernel[axis] ?? null, 1), window.dilations[axis] ?? 1), 1);
    // s·(x − 1) + e + output_padding − p_begin − p_end, where SAME takes as much padding as leads to s·x, if any.
    const whole = add(add(multiply(subtract(size, 1), stride), extent), extra[axis] ?? 0);
    if (window.autoPad.startsWith("SAME")) return minimum(whole, multiply(size, stride));
    return subtract(whole, (window.pads?.[axis] ?? 0) + (window.pads?.[axis + spatial] ?? 0));
  });
  return [x[0] ?? null, multiply(w[1] ?? null, node.int("group", 1)), ...sizes];
}

/** Every input element meets every kernel element of its channel: n·i·Πs · (o/g)·Πk. */
const transposeCost: Cost = ({ inputs, outputs }) => ({
  macs: inputs[1] ? (count(inputs[0]) * count(inputs[1])) / Math.max(1, inputs[1][0] ?? 1) : 0,
  flops: inputs[2] ? count(outputs[0]) : 0,
});

const transposeAxes: Axes = (node) => {
  if (node.int("group", 1) === 1) return "n i *s, i o *k, o -> n o *z";
  const kernel = node.inputs[1]?.shape;
  if (kernel?.[0] === node.int("group", 1) && kernel[1] === 1) return "n c *s, c 1 *k, c -> n c *z";
  return `n (g:${node.int("group", 1)} i) *s, (g i) o *k, (g o) -> n (g o) *z`;
};

const convTranspose: OpSpec = {
  since: 1,
  infer: (context) => [{ dtype: dtypeOf(context, 0), shape: transposeShape(context) }],
  cost: transposeCost,
  axes: transposeAxes,
  weights: [
    { input: 1, role: "kernel", channelAxis: 1, reductionAxis: 0 },
    { input: 2, role: "bias", channelAxis: 0 },
  ],
  grad: "none",
  narrow: narrowConvTranspose,
  traits: { linear: "conv-transpose" },
};

export const conv: OpTable = {
  Conv: { ...convRecord, grad: convGrad },
  ConvTranspose: { ...convTranspose, grad: convTransposeGrad },
  "com.microsoft::FusedConv": {
    ...convRecord,
    axes: (node) => {
      const { x, w, bias, y } = convAxesTerms(node, 1);
      return `${x}, ${w}, ${bias}, ${y} -> ${y}`;
    },
    grad: fusedConvGrad,
  },
};
