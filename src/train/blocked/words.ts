/**
 * Words for images in the engine's blocked layout: (n, c, h, w) stored as (n, c/b, h, w, b) with the b channels of a block
 * side by side, b being the width of a vector register. The engine's convolutions in that layout (domain `com.microsoft.nchwc`)
 * need no copies of their inputs, and at one tap and one channel per group they are vector arithmetic at memory speed.
 */
import { type Dim, elementCount } from "../../base/shape.ts";
import type { AttributeInput } from "../../ir/attribute.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { pad, reshape, type Site, transpose } from "../../ops/gradients/words.ts";

/** Domain of the engine's operators on blocked images. */
export const ENGINE_DOMAIN = "com.microsoft.nchwc";
/** Domain of nodes that exist only while a step graph is made. */
export const OWN_DOMAIN = "pare.blocked";

/** (n, c, h, w); in blocked values c is a multiple of the block. */
export type Image = readonly [number, number, number, number];

export const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;

/** Sets what is known of a made value. */
export function shaped(value: Value, shape: readonly Dim[]): Value {
  [value.dtype, value.shape] = ["float32", shape];
  return value;
}

export interface ConvParts {
  readonly x: Value;
  /** In the layout that the engine wants: see `kernel.ts`. */
  readonly w: Value;
  readonly bias?: Value | undefined;
  /** Added to the result before the activation; its memory may be reused for the result. */
  readonly sum?: Value | undefined;
  readonly kernel: readonly number[];
  readonly strides?: readonly number[] | undefined;
  readonly dilations?: readonly number[] | undefined;
  /** Begins, then ends. */
  readonly pads?: readonly number[] | undefined;
  readonly group?: number | undefined;
  readonly activation?: Activation | undefined;
}

/** What the engine applies to the result of a convolution while it is in registers. */
export interface Activation {
  readonly name: "Relu" | "Clip";
  readonly low?: number;
  readonly high?: number;
}

/** The engine's convolution of blocked images (or of a plain image of few channels) to a blocked image. */
export function blockedConv(s: Site, parts: ConvParts): Value {
  const { x, w, bias, sum, kernel, strides, dilations, pads, group, activation } = parts;
  const attributes: Record<string, AttributeInput | undefined> = {
    kernel_shape: kernel,
    strides,
    dilations,
    pads,
    group,
    activation: activation?.name,
    activation_params:
      activation?.name === "Clip" ? { type: "floats", value: [activation.low ?? 0, activation.high ?? 0] } : undefined,
  };
  return s.b.op("Conv", [x, w, bias, sum], { domain: ENGINE_DOMAIN, attributes });
}

/** act(x·factor + bias + sum) with a factor and a bias (c) per channel, in one pass over memory. */
export function affine(
  s: Site,
  x: Value,
  factor: Value,
  more: Pick<ConvParts, "bias" | "sum" | "activation"> & { readonly channels: number },
): Value {
  const { channels, ...rest } = more;
  return blockedConv(s, { x, w: reshape(s, factor, [channels, 1, 1, 1]), kernel: [1, 1], group: channels, ...rest });
}

/** Σ x·y over each image and channel: (n, c) from blocked x and y (n, c, h, w). Each plane of y is a kernel laid over x's. */
export function planeProducts(s: Site, x: Value, y: Value, [n, c, h, w]: Image): Value {
  const image = reshape(s, x, [1, n * c, h, w]);
  const kernels = reshape(s, y, [n * c, 1, h, w]);
  return reshape(s, blockedConv(s, { x: image, w: kernels, kernel: [h, w], group: n * c }), [n, c]);
}

/** Mean of x over each image and channel: (n, c). */
export function planeMeans(s: Site, x: Value, [n, c]: Image): Value {
  return reshape(s, s.b.op("GlobalAveragePool", [x], { domain: ENGINE_DOMAIN }), [n, c]);
}

/** Blocks of a plain image (n, c, h, w); added channels are zero. */
export function toBlocks(s: Site, x: Value, [n, c, h, w]: Image, block: number): Value {
  const missing = c % 4 === 0 ? 0 : roundUp(c, block) - c; // the engine's operator fills up multiples of 4 itself
  const full = missing === 0 ? x : shaped(pad(s, x, [0, 0, 0, 0, 0, missing, 0, 0]), [n, c + missing, h, w]);
  return shaped(s.b.op("ReorderInput", [full], { domain: ENGINE_DOMAIN }), [n, roundUp(c, block), h, w]);
}

/** The plain image (n, c, h, w) of blocks; added channels are dropped. */
export function fromBlocks(s: Site, x: Value, [n, c, h, w]: Image): Value {
  return shaped(reorderOutput(s, x, c), [n, c, h, w]);
}

export function reorderOutput(s: Site, x: Value, channels: number, last = false): Value {
  const attributes = { channels, channels_last: last ? 1 : undefined };
  return s.b.op("ReorderOutput", [x], { domain: ENGINE_DOMAIN, attributes });
}

/** (g, b, k·b) to (g, k, b, b): runs of b elements change places, as if a channels-last image were taken to blocks. */
export function exchangeRuns(s: Site, x: Value, groups: number, runs: number, block: number): Value {
  const image = reshape(s, x, [groups, block, 1, runs * block]);
  return s.b.op("ReorderInput", [image], { domain: ENGINE_DOMAIN, attributes: { channels_last: 1 } });
}

/** (g, b, k) to (g, k, b), b the block. */
export function lanes(s: Site, x: Value, groups: number, runs: number, block: number): Value {
  return s.b.op("ReorderInput", [reshape(s, x, [groups, block, runs, 1])], { domain: ENGINE_DOMAIN });
}

/** A vector (c) made longer with zeros. */
export function padVector(s: Site, x: Value, from: number, to: number): Value {
  return from === to ? x : pad(s, x, [0, to - from]);
}

/** A float32 constant with every element the same. */
export function filled(s: Site, shape: readonly number[], value: number): Value {
  return s.b.constant("filled", Tensor.float32(shape, new Float32Array(elementCount(shape)).fill(value)));
}

/** Exchanges two leading axes (a, b, rest). */
export function exchangeLeading(s: Site, x: Value, a: number, b: number, rest: number): Value {
  return a === 1 || b === 1 ? x : transpose(s, reshape(s, x, [a, b, rest]), [1, 0, 2]);
}
