/** How a node's own numbers follow when axes of its values lose positions: groups, heads, sizes, bounds, indices. */
import type { Dim } from "../base/shape.ts";
import type { Node } from "../ir/graph.ts";
import { slicedIndices } from "./picked-axes.ts";

/** Asked by the rules about the node at hand, before it is changed. */
export interface NarrowContext {
  readonly node: Node;
  /** Sizes of an axis before and after; undefined where the value is absent or its rank unknown. */
  readonly before: {
    input(index: number): readonly Dim[] | undefined;
    output(index: number): readonly Dim[] | undefined;
  };
  readonly after: {
    input(index: number): readonly Dim[] | undefined;
    output(index: number): readonly Dim[] | undefined;
  };
  /** Positions that stay on an axis, ascending; undefined where all do. */
  readonly kept: {
    input(index: number, axis: number): readonly number[] | undefined;
    output(index: number, axis: number): readonly number[] | undefined;
  };
}

/** What changes; what is not named stays. */
export interface Narrowed {
  /** Integer attributes; undefined takes one away. */
  readonly attributes?: Readonly<Record<string, number | readonly number[] | undefined>>;
  /** Stored integer inputs, by index, whole. */
  readonly inputs?: Readonly<Record<number, readonly number[]>>;
  /** Entries of an input that holds sizes, stored or computed: entry by index. */
  readonly sizes?: { readonly input: number; readonly entries: ReadonlyMap<number, number> };
}

export type Narrow = (context: NarrowContext) => Narrowed;

function numbers(node: Node, input: number): readonly number[] | undefined {
  return node.inputs[input]?.tensor?.peekNumbers();
}

function size(dim: Dim | undefined): number {
  return typeof dim === "number" ? dim : 0;
}

/** Groups of a convolution: channels of input `x` over those that each kernel of `w` sees. */
export function narrowConv(x: number, w: number): Narrow {
  return ({ node, after }) =>
    node.int("group", 1) === 1
      ? {}
      : { attributes: { group: size(after.input(x)?.[1]) / Math.max(1, size(after.input(w)?.[1])) } };
}

/** Groups of a transposed convolution: output channels over those of one group. */
export const narrowConvTranspose: Narrow = ({ node, after }) =>
  node.int("group", 1) === 1
    ? {}
    : { attributes: { group: size(after.output(0)?.[1]) / Math.max(1, size(after.input(1)?.[1])) } };

/** Sizes of output 0 that changed, as entries of input `input`. A stored 0 or −1 of Reshape, and a 1 of Expand, say the same of the new sizes. */
export function narrowSizes(input: number, relative: readonly number[] = []): Narrow {
  return ({ node, before, after }) => {
    const given = numbers(node, input);
    const [old, now] = [before.output(0) ?? [], after.output(0) ?? []];
    const entries = new Map<number, number>();
    for (const [axis, dim] of now.entries())
      if (dim !== old[axis] && typeof dim === "number" && !relative.includes(given?.[axis] ?? Number.NaN))
        entries.set(axis, dim);
    return entries.size > 0 ? { sizes: { input, entries } } : {};
  };
}

/** Tile: repeats of single positions, as many as there are places now. */
export const narrowRepeats: Narrow = ({ node, before, after }) => {
  const [old, now] = [before.output(0) ?? [], after.output(0) ?? []];
  const repeats = numbers(node, 1);
  const given = repeats?.map((times, axis) => (before.input(0)?.[axis] === 1 ? size(now[axis]) || times : times));
  return given && now.some((dim, axis) => dim !== old[axis]) ? { inputs: { 1: given } } : {};
};

/** Sizes of the parts, as they are now. */
export const narrowSplit: Narrow = ({ node, before, after }) => {
  const rank = before.input(0)?.length ?? 0;
  const axis = (node.int("axis", 0) + rank) % rank;
  const sizes = node.outputs.map((_, i) => size(after.output(i)?.[axis]));
  if (sizes.every((each, i) => each === before.output(i)?.[axis])) return {};
  return node.ints("split")
    ? { attributes: { split: sizes } }
    : { attributes: { num_outputs: undefined }, inputs: { 1: sizes } };
};

/** Bounds in the new positions; steps are 1 or −1 on axes that shrink. */
export const narrowSlice: Narrow = ({ node, before, kept }) => {
  const shape = before.input(0) ?? [];
  const [starts, ends] = [node.ints("starts") ?? numbers(node, 1), node.ints("ends") ?? numbers(node, 2)];
  if (!starts || !ends) return {};
  const axes = node.ints("axes") ?? numbers(node, 3) ?? starts.map((_, i) => i);
  const steps = numbers(node, 4);
  const [from, to] = [[...starts], [...ends]];
  let changed = false;
  for (const [i, raw] of axes.entries()) {
    const axis = raw < 0 ? raw + shape.length : raw;
    const stay = kept.input(0, axis);
    const step = steps?.[i] ?? 1;
    if (!stay || Math.abs(step) !== 1) continue;
    const picked = new Set(slicedIndices(size(shape[axis]), starts[i] ?? 0, ends[i] ?? 0, step));
    const now = stay.flatMap((position, index) => (picked.has(position) ? [index] : []));
    const [first, last] = [now[0] ?? 0, now.at(-1) ?? -1];
    from[i] = step > 0 ? first : last;
    to[i] = step > 0 ? last + 1 : first - 1 - stay.length;
    changed = true;
  }
  if (!changed) return {};
  return node.ints("starts") ? { attributes: { starts: from, ends: to } } : { inputs: { 1: from, 2: to } };
};

/** Stored indices in the new positions. */
export const narrowGather: Narrow = ({ node, before, kept }) => {
  const shape = before.input(0) ?? [];
  const axis = (node.int("axis", 0) + shape.length) % shape.length;
  const stay = kept.input(0, axis);
  const indices = numbers(node, 1);
  if (!stay || !indices) return {};
  const now = new Map(stay.map((position, index) => [position, index]));
  const total = size(shape[axis]);
  return { inputs: { 1: indices.flatMap((index) => now.get(index < 0 ? index + total : index) ?? []) } };
};

/** Padded positions that stay, before and after the data's. */
export const narrowPad: Narrow = ({ node, before, kept }) => {
  const shape = before.input(0) ?? [];
  const name = node.ints("pads") ? "pads" : "paddings";
  const pads = node.ints(name) ?? numbers(node, 1);
  if (!pads) return {};
  const axes = (numbers(node, 3) ?? shape.map((_, i) => i)).map((axis) => (axis < 0 ? axis + shape.length : axis));
  const now = [...pads];
  for (const [i, axis] of axes.entries()) {
    const stay = kept.output(0, axis);
    const [begin, end] = [pads[i] ?? 0, pads[i + axes.length] ?? 0];
    if (!stay) continue;
    now[i] = stay.filter((position) => position < begin).length;
    now[i + axes.length] = stay.filter((position) => position >= size(before.output(0)?.[axis]) - end).length;
  }
  if (now.every((each, i) => each === pads[i])) return {};
  return node.ints(name) ? { attributes: { [name]: now } } : { inputs: { 1: now } };
};

/** An integer attribute that is the size of an axis of an input, where it is given at all. */
export function narrowAttribute(name: string, input: number, axis: number): Narrow {
  return ({ node, after }) => {
    const now = size(after.input(input)?.at(axis));
    return node.int(name) === undefined || now === 0 ? {} : { attributes: { [name]: now } };
  };
}

/** Counts of heads, each in proportion to the width of an input (the width of a head stays). */
export function narrowHeads(counts: Readonly<Record<string, number>>, axis = -1): Narrow {
  return ({ node, before, after }) => ({
    attributes: Object.fromEntries(
      Object.entries(counts).flatMap(([name, input]) => {
        const heads = node.int(name);
        const [old, now] = [size(before.input(input)?.at(axis)), size(after.input(input)?.at(axis))];
        return heads === undefined || old === 0 || old === now ? [] : [[name, (heads * now) / old]];
      }),
    ),
  });
}

/** Groups of channels that are normalized together: those of which channels stay. */
export const narrowGroupNorm: Narrow = ({ node, before, kept }) => {
  const stay = kept.input(0, 1);
  const groups = node.int("num_groups", 1);
  const width = size(before.input(0)?.[1]) / groups;
  return stay ? { attributes: { num_groups: new Set(stay.map((channel) => Math.floor(channel / width))).size } } : {};
};
