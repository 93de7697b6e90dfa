/** Convolution kernels as the engine's blocked convolutions want them. */
import type { Value } from "../../ir/graph.ts";
import { ints, pad, reshape, type Site, slice, transpose } from "../../ops/gradients/words.ts";
import { roundUp } from "./words.ts";

/** A choice of taps, row by row, in the order in which the new kernel has them. */
export interface Taps {
  readonly size: readonly [number, number];
  /** Flat positions in the old kernel. */
  readonly from: readonly number[];
}

/** All taps in their order, or turned by 180°. */
export function wholeKernel(kh: number, kw: number, turned = false): Taps {
  const from = Array.from({ length: kh * kw }, (_, i) => i);
  return { size: [kh, kw], from: turned ? from.reverse() : from };
}

export interface KernelShape {
  /** (o, i, kh, kw), i per group. */
  readonly shape: readonly number[];
  readonly block: number;
  readonly taps: Taps;
}

function choose(s: Site, w: Value, shape: readonly number[], taps: Taps): Value {
  const count = (shape[2] ?? 1) * (shape[3] ?? 1);
  const flat = reshape(s, w, [shape[0] ?? 1, shape[1] ?? 1, count]);
  const same = taps.from.length === count && taps.from.every((tap, i) => tap === i);
  return same ? flat : s.b.op("Gather", [flat, ints(s, taps.from)], { attributes: { axis: 2 } });
}

/** Kernel (o, i, kh, kw) as (o/b, i/b, kh, kw, i, o), or with the roles of o and i exchanged; missing channels are zero. */
export function denseKernel(s: Site, w: Value, { shape, block, taps }: KernelShape, exchanged = false): Value {
  const [o, i] = [shape[0] ?? 1, shape[1] ?? 1];
  const [op, ip] = [roundUp(o, block), roundUp(i, block)];
  const full = pad(s, choose(s, w, shape, taps), [0, 0, 0, op - o, ip - i, 0]);
  const parts = reshape(s, full, [op / block, block, ip / block, block, taps.from.length]);
  const perm = exchanged ? [2, 0, 4, 1, 3] : [0, 2, 4, 3, 1];
  const outer = exchanged ? [ip, op] : [op, ip];
  return reshape(s, transpose(s, parts, perm), [...outer, ...taps.size]);
}

/** Kernel (o, i, kh, kw) over a plain image of i < b channels: (o/b, i, kh, kw, o). */
export function stemKernel(s: Site, w: Value, { shape, block, taps }: KernelShape): Value {
  const [o, i] = [shape[0] ?? 1, shape[1] ?? 1];
  const op = roundUp(o, block);
  const full = pad(s, choose(s, w, shape, taps), [0, 0, 0, op - o, 0, 0]);
  const parts = reshape(s, full, [op / block, block, i * taps.from.length]);
  return reshape(s, transpose(s, parts, [0, 2, 1]), [op, i, ...taps.size]);
}

/** Kernel (c, 1, kh, kw) of one filter per channel: (c/b, kh, kw, c). */
export function depthwiseKernel(s: Site, w: Value, { shape, block, taps }: KernelShape): Value {
  const c = shape[0] ?? 1;
  const cp = roundUp(c, block);
  const full = pad(s, choose(s, w, shape, taps), [0, 0, 0, cp - c, 0, 0]);
  const parts = reshape(s, full, [cp / block, block, taps.from.length]);
  return reshape(s, transpose(s, parts, [0, 2, 1]), [cp, 1, ...taps.size]);
}

/** Cuts a tensor down to its first `to[i]` elements along every axis. */
export function crop(s: Site, x: Value, from: readonly number[], to: readonly number[]): Value {
  const axes = to.flatMap((size, axis) => (size === from[axis] ? [] : [axis]));
  if (axes.length === 0) return x;
  return slice(
    s,
    x,
    axes,
    axes.map(() => 0),
    axes.map((axis) => to[axis] ?? 0),
  );
}
