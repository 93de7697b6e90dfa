/** Convolution of blocked images: the forward form, and gradients that stay in the blocked layout. */
import type { Node, Value } from "../../ir/graph.ts";
import type { Grad, GradContext } from "../../ops/spec.ts";
import {
  concreteShape,
  mul,
  pad,
  reduceSum,
  reshape,
  scalar,
  type Site,
  transpose,
} from "../../ops/gradients/words.ts";
import { crop, denseKernel, depthwiseKernel, type Taps, stemKernel, wholeKernel } from "./kernel.ts";
import {
  blockedConv,
  exchangeLeading,
  exchangeRuns,
  filled,
  fromBlocks,
  type Image,
  lanes,
  padVector,
  planeMeans,
  reorderOutput,
  roundUp,
  shaped,
  toBlocks,
} from "./words.ts";

/** A convolution of blocked images with every size known. */
interface Geometry {
  readonly block: number;
  /** Channels without those that fill the last block. */
  readonly inputs: number;
  readonly outputs: number;
  /** One filter per channel. */
  readonly depthwise: boolean;
  /** x is a plain image of few channels. */
  readonly plain: boolean;
  /** As stored: channels are those of the blocks, unless x is plain. */
  readonly x: Image;
  readonly y: Image;
  /** (o, i per group, kh, kw). */
  readonly w: readonly number[];
  readonly kernel: readonly [number, number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  readonly begins: readonly [number, number];
  readonly ends: readonly [number, number];
}

type Pair = readonly [number, number];
const both = <T>(make: (axis: 0 | 1) => T): readonly [T, T] => [make(0), make(1)];

/** Reads a node (x, w, bias) of the own domain, whose attributes were set when it was made. */
function geometryOf(node: Node): Geometry {
  const [x, w] = node.inputs as readonly [Value, Value];
  const weights = concreteShape(node, w);
  const pads = node.ints("pads") ?? [];
  const pair = (name: string): Pair => (node.ints(name) ?? [1, 1]) as unknown as Pair;
  return {
    block: node.int("block", 1),
    inputs: node.int("inputs", 1),
    outputs: weights[0] ?? 1,
    depthwise: node.int("group", 1) > 1,
    plain: node.int("plain", 0) === 1,
    x: concreteShape(node, x) as unknown as Image,
    y: concreteShape(node, node.outputs[0]) as unknown as Image,
    w: weights,
    kernel: [weights[2] ?? 1, weights[3] ?? 1],
    strides: pair("strides"),
    dilations: pair("dilations"),
    begins: [pads[0] ?? 0, pads[1] ?? 0],
    ends: [pads[2] ?? 0, pads[3] ?? 0],
  };
}

/** The forward convolution. */
export function lowerConv(s: Site, node: Node): readonly Value[] {
  const at = geometryOf(node);
  const [x, w, bias] = node.inputs as readonly [Value, Value, Value | undefined];
  const form = { shape: at.w, block: at.block, taps: wholeKernel(...at.kernel) };
  const kernel = at.depthwise
    ? depthwiseKernel(s, w, form)
    : at.plain
      ? stemKernel(s, w, form)
      : denseKernel(s, w, form);
  const y = blockedConv(s, {
    x,
    w: kernel,
    bias: bias && padVector(s, bias, at.outputs, at.y[1]),
    kernel: at.kernel,
    strides: at.strides,
    dilations: at.dilations,
    pads: [...at.begins, ...at.ends],
    group: at.depthwise ? at.x[1] : 1,
  });
  return [shaped(y, at.y)];
}

export const convGrad: Grad = (c) => {
  const at = geometryOf(c.node);
  const [x, w, bias] = c.node.inputs as readonly [Value, Value, Value | undefined];
  const g = c.outputGrad(0) as Value;
  return [
    c.wants(0) ? inputGradient(c, at, g, w) : undefined,
    c.wants(1) ? kernelGradient(c, at, x, g) : undefined,
    bias && c.wants(2) ? biasGradient(c, at, g) : undefined,
  ];
};

function biasGradient(c: GradContext, at: Geometry, g: Value): Value {
  const sum = reduceSum(c, planeMeans(c, g, at.y), [0], false);
  return crop(c, mul(c, sum, scalar(c, "float32", at.y[2] * at.y[3])), [at.y[1]], [at.outputs]);
}

/** One of the stride-1 convolutions that an input gradient consists of, along one axis. */
interface Phase {
  /** Taps of the kernel that meet this phase, in the order of the turned kernel. */
  readonly taps: readonly number[];
  readonly begin: number;
  readonly end: number;
}

// dx[i] = Σ_k g[(i + p − k)/s]·w[k] over taps k ≡ i + p (mod s). For i = s·j + ρ these are k = k₀ + s·t, t < T, and
// dx[s·j + ρ] = Σ_u g[j + m − T + 1 + u]·w[k₀ + s·(T − 1 − u)], m = (ρ + p − k₀)/s: a convolution of g with stride 1
function phasesOf(at: Geometry, axis: 0 | 1): Phase[] {
  const [k, s, d, p] = [at.kernel[axis], at.strides[axis], at.dilations[axis], at.begins[axis]];
  const [size, positions] = [at.x[2 + axis] ?? 1, at.y[2 + axis] ?? 1];
  const count = Math.ceil(size / s);
  return Array.from({ length: s }, (_, phase) => {
    const first = (phase + p) % s;
    const length = Math.max(0, Math.ceil((k - first) / s));
    const taps = Array.from({ length }, (_t, u) => first + s * (length - 1 - u));
    const begin = d * (length - 1) - (phase + p - first) / s; // d > 1 only where s is 1
    return { taps, begin, end: count - 1 + d * (length - 1) - begin - (positions - 1) };
  });
}

/** dx, blocked (or plain where x is). */
function inputGradient(c: GradContext, at: Geometry, g: Value, w: Value): Value {
  const { block } = at;
  const [n, , h, width] = at.x;
  const channels = at.plain ? roundUp(at.inputs, block) : at.x[1];
  const phases = both((axis) => phasesOf(at, axis));
  const sizes = both((axis) => Math.ceil((at.x[2 + axis] ?? 1) / at.strides[axis]));
  const rows = phases[0].map((vertical) => {
    const parts = phases[1].map((horizontal) =>
      phaseGradient(c, at, g, w, [vertical, horizontal], [n, channels, ...sizes]),
    );
    if (parts.length === 1) return parts[0] as Value;
    const pixels = (n * channels * sizes[0] * sizes[1]) / block;
    return interleave(
      c,
      parts.map((part) => reshape(c, part, [pixels, block])),
    );
  });
  const whole = [sizes[0] * at.strides[0], sizes[1] * at.strides[1]] as const;
  const joined =
    rows.length === 1
      ? (rows[0] as Value)
      : interleave(
          c,
          rows.map((row) => reshape(c, row, [(n * channels * sizes[0]) / block, whole[1] * block])),
        );
  const cut =
    whole[0] === h && whole[1] === width
      ? joined
      : crop(
          c,
          reshape(c, joined, [(n * channels) / block, ...whole, block]),
          [(n * channels) / block, ...whole, block],
          [(n * channels) / block, h, width, block],
        );
  const dx = shaped(reshape(c, cut, [n, channels, h, width]), [n, channels, h, width]);
  return at.plain ? fromBlocks(c, dx, at.x) : dx;
}

/** Rows of several equal matrices in turn. */
function interleave(c: GradContext, parts: readonly Value[]): Value {
  return c.b.op("Concat", parts, { attributes: { axis: 1 } });
}

function phaseGradient(
  c: GradContext,
  at: Geometry,
  g: Value,
  w: Value,
  [vertical, horizontal]: readonly [Phase, Phase],
  shape: Image,
): Value {
  if (vertical.taps.length === 0 || horizontal.taps.length === 0) return filled(c, shape, 0);
  const taps: Taps = {
    size: [vertical.taps.length, horizontal.taps.length],
    from: vertical.taps.flatMap((row) => horizontal.taps.map((column) => row * at.kernel[1] + column)),
  };
  const form = { shape: at.w, block: at.block, taps };
  const pads = [vertical.begin, horizontal.begin, vertical.end, horizontal.end];
  const trimmed = trim(c, at, g, pads);
  return blockedConv(c, {
    x: trimmed,
    w: at.depthwise ? depthwiseKernel(c, w, form) : denseKernel(c, w, form, true),
    kernel: taps.size,
    dilations: at.dilations,
    pads: pads.map((amount) => Math.max(0, amount)),
    group: at.depthwise ? shape[1] : 1,
  });
}

/** Negative pads cut g's borders. */
function trim(c: GradContext, at: Geometry, g: Value, pads: readonly number[]): Value {
  if (pads.every((amount) => amount >= 0)) return g;
  const [n, channels, h, w] = at.y;
  const [top = 0, left = 0, bottom = 0, right = 0] = pads.map((amount) => Math.min(0, amount));
  const cut = pad(c, reshape(c, g, [(n * channels) / at.block, h, w, at.block]), [
    0,
    top,
    left,
    0,
    0,
    bottom,
    right,
    0,
  ]);
  return reshape(c, cut, [n, channels, h + top + bottom, w + left + right]);
}

/** dw (o, i per group, kh, kw). */
function kernelGradient(c: GradContext, at: Geometry, x: Value, g: Value): Value {
  if (at.depthwise) return depthwiseGradient(c, at, x, g);
  const n = roundUp(at.x[0], at.block);
  const whole = (value: Value, shape: Image): Value => pad(c, value, [0, 0, 0, 0, n - shape[0], 0, 0, 0]);
  const even: Geometry = { ...at, x: [n, at.x[1], at.x[2], at.x[3]], y: [n, at.y[1], at.y[2], at.y[3]] };
  const pointwise =
    at.w[2] === 1 &&
    at.w[3] === 1 &&
    [...at.begins, ...at.ends].every((amount) => amount === 0) &&
    at.x[2] === at.y[2] &&
    at.x[3] === at.y[3];
  const rule = pointwise ? pointwiseGradient : windowGradient;
  return rule(c, even, whole(x, at.x), whole(g, at.y));
}

/** Size of the border at the end, and how many positions too many a kernel of g's size then has. */
function endOf(at: Geometry, axis: 0 | 1): { readonly end: number; readonly positions: number } {
  const [k, s, d] = [at.kernel[axis], at.strides[axis], at.dilations[axis]];
  const [size, outside] = [at.x[2 + axis] ?? 1, at.y[2 + axis] ?? 1];
  const wanted = s * (outside - 1) + 1 + d * (k - 1);
  const end = Math.max(0, wanted - size - at.begins[axis]);
  return { end, positions: Math.floor((at.begins[axis] + size + end - s * (outside - 1) - 1) / d) + 1 };
}

// dw[c,k] = Σ_n Σ_p g[n,c,p]·x[n,c,p·stride + k·dilation − pad]: for each image and channel a convolution of x's plane with
// g's plane as the kernel. Blocked planes are blocked kernels as they are.
function depthwiseGradient(c: GradContext, at: Geometry, x: Value, g: Value): Value {
  const [n, channels, h, w] = at.x;
  const ends = both((axis) => endOf(at, axis));
  const product = blockedConv(c, {
    x: reshape(c, x, [1, n * channels, h, w]),
    w: reshape(c, g, [n * channels, 1, at.y[2], at.y[3]]),
    kernel: [at.y[2], at.y[3]],
    strides: at.dilations,
    dilations: at.strides,
    pads: [...at.begins, ends[0].end, ends[1].end],
    group: n * channels,
  });
  const taps = ends[0].positions * ends[1].positions;
  const sum = reduceSum(c, reshape(c, product, [n, channels * taps]), [0], false);
  const blocks = channels / at.block;
  const plain = reshape(c, transpose(c, reshape(c, sum, [blocks, taps, at.block]), [0, 2, 1]), [
    channels,
    1,
    ends[0].positions,
    ends[1].positions,
  ]);
  return crop(c, plain, [channels, 1, ends[0].positions, ends[1].positions], at.w);
}

// dw[o,i,k] = Σ_n Σ_p g[n,o,p]·x[n,i,p·stride + k·dilation − pad]: a convolution over the images as channels, of x as i images
// with g as o kernels of the size of g's planes. Blocks are then blocks of images.
function windowGradient(c: GradContext, at: Geometry, x: Value, g: Value): Value {
  const { block } = at;
  const [n, stored, h, w] = at.x;
  const ends = both((axis) => endOf(at, axis));
  const pads = [...at.begins, ends[0].end, ends[1].end];
  const turned = at.plain
    ? transpose(c, x, [1, 0, 2, 3])
    : reorderOutput(
        c,
        reshape(c, exchangeLeading(c, x, n, stored / block, h * w * block), [stored / block, block, n, h * w]),
        block,
      ); // (i, n, s)
  const images = lanes(c, turned, (stored * n) / block, h * w, block);
  // The engine treats positions near a border one by one: with so few positions it pays to store the border.
  const size: Pair = [h + (pads[0] ?? 0) + (pads[2] ?? 0), w + (pads[1] ?? 0) + (pads[3] ?? 0)];
  const bordered = pads.every((amount) => amount === 0)
    ? images
    : blockedConv(c, {
        x: reshape(c, images, [1, stored * n, h, w]),
        w: filled(c, [stored * n, 1, 1, 1], 1),
        kernel: [1, 1],
        pads,
        group: stored * n,
      });
  const product = blockedConv(c, {
    x: reshape(c, bordered, [stored, n, ...size]),
    w: kernelsOf(c, at, g),
    kernel: [at.y[2], at.y[3]],
    strides: at.dilations,
    dilations: at.strides,
  }); // (i, o, *k)
  const taps = [ends[0].positions, ends[1].positions];
  const parts = reshape(c, product, [stored, at.y[1] / block, ...taps, block]);
  const dw = reshape(c, transpose(c, parts, [1, 4, 0, 2, 3]), [at.y[1], stored, ...taps]);
  return crop(c, dw, [at.y[1], stored, ...taps], at.w);
}

/** g as kernels over images: (o/b, n/b, p, n, o). */
function kernelsOf(c: GradContext, at: Geometry, g: Value): Value {
  const [n, outputs, h, w] = at.y;
  const [groups, blocks] = [n / at.block, outputs / at.block];
  const runs = exchangeRuns(c, g, groups, blocks * h * w, at.block); // (n/b, o/b, p, n, o)
  return reshape(c, exchangeLeading(c, runs, groups, blocks, h * w * at.block * at.block), [outputs, n, h, w]);
}

// One tap: dw[o,i] = Σ_n Σ_p g[n,o,p]·x[n,i,p], a convolution of one row of i pixels over (n, p) as channels. Every block of
// images is a group of its own, so that threads share the work, and the groups are added up.
function pointwiseGradient(c: GradContext, at: Geometry, x: Value, g: Value): Value {
  const { block } = at;
  const [n, stored, h, w] = at.x;
  const groups = n / block;
  const last = at.plain ? transpose(c, x, [0, 2, 3, 1]) : stored === block ? x : reorderOutput(c, x, stored, true); // (n, s, i)
  const pixels = lanes(c, last, groups, h * w * stored, block); // (n/b, s, i, n)
  const kernels = exchangeRuns(c, g, groups, (at.y[1] / block) * h * w, block); // (n/b, o/b, p, n, o)
  const product = blockedConv(c, {
    x: reshape(c, pixels, [1, n * h * w, 1, stored]),
    w: reshape(c, kernels, [groups * at.y[1], block * h * w, 1, 1]),
    kernel: [1, 1],
    group: groups,
  });
  const sum = reduceSum(c, reshape(c, product, [groups, at.y[1] * stored]), [0], false);
  const parts = transpose(c, reshape(c, sum, [at.y[1] / block, stored, block]), [0, 2, 1]);
  return crop(c, reshape(c, parts, [at.y[1], stored, 1, 1]), [at.y[1], stored, 1, 1], at.w);
}

export const reorderInputGrad: Grad = (c) => [
  fromBlocks(c, c.outputGrad(0) as Value, concreteShape(c.node, c.node.inputs[0]) as unknown as Image),
];

export const reorderOutputGrad: Grad = (c) => {
  const [, stored] = concreteShape(c.node, c.node.inputs[0]);
  const shape = concreteShape(c.node, c.node.outputs[0]) as unknown as Image;
  return [toBlocks(c, c.outputGrad(0) as Value, shape, stored ?? 1)];
};
