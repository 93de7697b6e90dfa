/** Axes of operators that pick, repeat or add positions: Slice, Gather, Pad, Tile, Expand and blocks of space and depth. */
import type { Dim } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import { type AxesRule, names } from "./axes.ts";

/** Numbers of an attribute (older opsets) or of a stored input (newer ones); undefined where neither is there. */
function stored(node: Node, attribute: string, input: number): readonly number[] | undefined {
  return node.ints(attribute) ?? node.inputs[input]?.tensor?.peekNumbers();
}

/**
 * Tokens of an axis of which `indices` are picked, in that order, and of the axis that they become. Neighbours that stay
 * neighbours are one name: picking 4, 5, 0 of six gives `k0:1+3+k4:2` and `k4:2+k0:1`.
 */
export function pickTokens(size: number, indices: readonly number[], letter: string): { from: string; to: string } {
  const picked = new Set(indices);
  // A cut lies before every position that does not follow its predecessor in each place where it is picked.
  const cuts = new Set<number>([0]);
  for (let i = 0; i < size; i++) if (picked.has(i) !== picked.has(i - 1)) cuts.add(i);
  for (const [i, index] of indices.entries()) {
    if (i === 0 || indices[i - 1] !== index - 1) cuts.add(index);
    if (i === indices.length - 1 || indices[i + 1] !== index + 1) cuts.add(index + 1);
  }
  const starts = [...cuts].filter((cut) => cut < size).sort((a, b) => a - b);
  const lengths = new Map(starts.map((start, i) => [start, (starts[i + 1] ?? size) - start]));
  const token = (start: number): string => `${letter}x${start}:${lengths.get(start) ?? 1}`;
  return {
    from: starts.map((start) => (picked.has(start) ? token(start) : String(lengths.get(start)))).join("+"),
    to: indices
      .filter((index) => lengths.has(index))
      .map(token)
      .join("+"),
  };
}

/** Positions of longer axes are not listed: nobody prunes them, and a hostile file may claim any size. */
const MAX_LISTED = 1 << 20;

function isListed(size: Dim | undefined): size is number {
  return typeof size === "number" && size <= MAX_LISTED;
}

/** Picks of each axis by number; undefined: what is picked is not known. An axis that is not in the map is whole. */
type Picks = ReadonlyMap<number, readonly number[] | undefined>;

function pickedTerms(from: readonly Dim[], to: readonly Dim[], picks: Picks): string {
  const left: string[] = [];
  const right: string[] = [];
  for (const [axis, size] of from.entries()) {
    const indices = picks.get(axis);
    if (!picks.has(axis)) left.push(`a${axis}`);
    else if (indices && indices.length > 0 && typeof size === "number") {
      const tokens = pickTokens(size, indices, `a${axis}`);
      left.push(tokens.from);
      right.push(tokens.to);
      continue;
    } else left.push("_");
    right.push(left[axis] !== "_" && size !== null && size === to[axis] ? `a${axis}` : "_");
  }
  return `${left.join(" ")} -> ${right.join(" ")}`;
}

/** Slice: stored bounds pick positions; an axis with bounds that only the data knows is free. */
export const sliceAxes: AxesRule = (node) => {
  const from = node.inputs[0]?.shape;
  const to = node.outputs[0]?.shape;
  if (!from || !to || from.length !== to.length) return undefined;
  const [starts, ends] = [stored(node, "starts", 1), stored(node, "ends", 2)];
  const given = stored(node, "axes", 3);
  if (!given && node.inputs[3]) return undefined;
  const axes = given ?? (starts ?? ends)?.map((_, i) => i) ?? from.map((_, i) => i);
  const steps = node.inputs[4] ? node.inputs[4].tensor?.peekNumbers() : axes.map(() => 1);
  const picks = new Map<number, readonly number[] | undefined>();
  for (const [i, raw] of axes.entries()) {
    const axis = raw < 0 ? raw + from.length : raw;
    const [size, start, end, step] = [from[axis], starts?.[i], ends?.[i], steps?.[i]];
    const isKnown = isListed(size) && start !== undefined && end !== undefined && step !== undefined;
    // Of every second position none could go without the others moving out of step.
    picks.set(axis, isKnown && Math.abs(step) === 1 ? slicedIndices(size, start, end, step) : undefined);
  }
  return pickedTerms(from, to, picks);
};

/** Positions of start:end:step on an axis of `size`, as numpy counts. */
export function slicedIndices(size: number, start: number, end: number, step: number): number[] {
  const from = (bound: number): number => (bound < 0 ? bound + size : bound);
  const result: number[] = [];
  if (step > 0) for (let i = Math.max(0, from(start)); i < Math.min(size, from(end)); i += step) result.push(i);
  if (step < 0) for (let i = Math.min(size - 1, from(start)); i > Math.max(-1, from(end)); i += step) result.push(i);
  return result;
}

/** The gathered axis goes; the axes of the indices take its place. Stored indices of rank 0 or 1 pick positions. */
export const gatherAxes: AxesRule = (node) => {
  const data = node.inputs[0]?.shape;
  const indices = node.inputs[1]?.shape;
  if (!data || !indices) return undefined;
  const axis = (node.int("axis", 0) + data.length) % data.length;
  const letters = names("d", data.length);
  const own = names("i", indices.length);
  const size = data[axis];
  const list = indices.length < 2 ? node.inputs[1]?.tensor?.peekNumbers() : undefined;
  const outer = letters.slice(0, axis);
  const inner = letters.slice(axis + 1);
  if (!list || list.length === 0 || !isListed(size))
    return `${letters.join(" ")}, ${own.join(" ")} -> ${[...outer, ...own, ...inner].join(" ")}`;
  const tokens = pickTokens(
    size,
    list.map((index) => (index < 0 ? index + size : index)),
    "p",
  );
  // A single position that is asked for has to stay.
  const from = indices.length === 0 ? tokens.from.replace(/(px\d+:1)/, "$1#") : tokens.from;
  const to = indices.length === 0 ? [] : [tokens.to];
  return `${[...outer, from, ...inner].join(" ")}, ${indices.length === 0 ? "" : "_"} -> ${[...outer, ...to, ...inner].join(" ")}`;
};

/** Constant padding adds positions that are tied to nothing; other modes repeat some, which must stay. */
export const padAxes: AxesRule = (node) => {
  const from = node.inputs[0]?.shape;
  const to = node.outputs[0]?.shape;
  if (!from || !to || from.length !== to.length) return undefined;
  const pads = stored(node, "pads", 1) ?? node.ints("paddings");
  const given = node.inputs[3] ? node.inputs[3].tensor?.peekNumbers() : from.map((_, i) => i);
  const axes = given?.map((axis) => (axis < 0 ? axis + from.length : axis));
  const isConstant = (node.string("mode") ?? "constant") === "constant";
  const terms = from.map((dim, axis): [string, string] => {
    const letter = `a${axis}`;
    const at = axes?.indexOf(axis);
    if (!pads || !axes || at === undefined) return dim !== null && dim === to[axis] ? [letter, letter] : ["_", "_"];
    const [begin, end] = at < 0 ? [0, 0] : [pads[at] ?? 0, pads[at + axes.length] ?? 0];
    if (begin === 0 && end === 0) return [letter, letter];
    if (!isConstant || begin < 0 || end < 0) return ["_", "_"];
    return [letter, [begin, letter, end].filter((part) => part !== 0).join("+")];
  });
  return `${terms.map(([left]) => left).join(" ")} -> ${terms.map(([, right]) => right).join(" ")}`;
};

/** Repeats of an axis are an outer part of it; of a single position any number can be made, as Expand does. */
export const tileAxes: AxesRule = (node) => {
  const from = node.inputs[0]?.shape;
  const to = node.outputs[0]?.shape;
  if (!from || !to) return undefined;
  const repeats = node.inputs[1]?.tensor?.peekNumbers();
  const left = from.map((dim, axis) => (repeats || (dim !== null && dim === to[axis]) ? `a${axis}` : "_"));
  const right = left.map((letter, axis) => {
    const times = repeats?.[axis] ?? 1;
    if (letter === "_" || times === 1) return letter;
    return from[axis] === 1 ? `r${axis}:${times}~` : `(r${axis}:${times}# ${letter})`;
  });
  return `${left.join(" ")}, -> ${right.join(" ")}`;
};

/** Axes of equal size are tied; those that are stretched begin here. The second input holds sizes, not data. */
export const expandAxes: AxesRule = (node) => {
  const from = node.inputs[0]?.shape;
  const to = node.outputs[0]?.shape;
  if (!from || !to) return undefined;
  const skip = to.length - from.length;
  const isStretched = (axis: number): boolean => axis < skip || from[axis - skip] === 1;
  const isTied = (axis: number): boolean => axis >= skip && to[axis] !== null && from[axis - skip] === to[axis];
  const right = to.map((_, axis) => (isTied(axis) ? `a${axis}` : isStretched(axis) ? `a${axis}~` : "_"));
  const left = from.map((_, i) => (isTied(i + skip) ? `a${i + skip}` : "_"));
  return `${left.join(" ")}, -> ${right.join(" ")}`;
};

function isImage(value: Value | undefined): boolean {
  return value?.shape?.length === 4;
}

/** Blocks of channels become squares of pixels; the channels of one square go together. */
export const depthToSpaceAxes: AxesRule = (node) => {
  if (!isImage(node.inputs[0])) return undefined;
  const block = node.int("blocksize", 1);
  const depth = node.string("mode") === "CRD" ? `c y:${block}# x:${block}#` : `y:${block}# x:${block}# c`;
  return `n (${depth}) h w -> n c (h y) (w x)`;
};

export const spaceToDepthAxes: AxesRule = (node) => {
  if (!isImage(node.inputs[0])) return undefined;
  const block = node.int("blocksize", 1);
  return `n c (h y:${block}#) (w x:${block}#) -> n (y x c) h w`;
};
