/**
 * The notation that ties axes: one term per input and output, `n i *s, o i *k, o -> n o *z`.
 *
 * Tokens of a term are its axes in order: a name (equal names are one axis, of one size), `_` (tied to nothing),
 * `1` (a size of one), `(a b)` (a merged axis, a outermost, of size a·b), `a+b` (a concatenation, where a number is as many
 * positions that are tied to nothing here, and a part may be a merged axis whose parts' sizes are known), and one `*x` (all axes that are left, tied one by one to the other `*x`).
 * An absent optional input is an empty term.
 *
 * A name may carry its size, `g:4`, where no axis has it alone, and a mark for what happens when positions of it go:
 * `c!` the others change (a mean, a softmax), `c~` nothing else does although the axis ends or begins here (a sum, a fill),
 * `c#` it cannot lose any; or `c@`: what runs side by side along it are heads of attention. A name without a mark that stands in one place only cannot either: its positions have an order
 * or a meaning here (the sides of an image, the rows that a look-up counts).
 */
import type { Dim } from "../base/shape.ts";
import { isConcrete } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Axes, OpSpec } from "./spec.ts";
import { multiply } from "./symbolic.ts";

/** The function form of the notation. */
export type AxesRule = Exclude<Axes, string>;

/** One axis of a term. */
export type Axis =
  | { readonly kind: "name"; readonly name: string }
  | { readonly kind: "free" | "one" }
  | { readonly kind: "merge" | "concat"; readonly parts: readonly string[] }
  | { readonly kind: "rest"; readonly name: string };

/** What the loss of positions of an axis means to an operator: see the notation above. */
export type AxisMark = "mixed" | "summed" | "fixed" | "heads";

export interface AxesTerms {
  readonly inputs: readonly (readonly Axis[])[];
  readonly outputs: readonly (readonly Axis[])[];
  /** Sizes that the notation itself gives. */
  readonly sizes: ReadonlyMap<string, number>;
  readonly marks: ReadonlyMap<string, AxisMark>;
}

const MARKS: Readonly<Record<string, AxisMark>> = { "!": "mixed", "~": "summed", "#": "fixed", "@": "heads" };

/** Parses the notation. Text is written in this repository, so a mistake is an internal one and throws. */
export function parseAxes(text: string): AxesTerms {
  const [left, right, more] = text.split("->");
  if (left === undefined || right === undefined || more !== undefined)
    throw new SyntaxError(`Axes '${text}' need one '->'`);
  const sizes = new Map<string, number>();
  const marks = new Map<string, AxisMark>();
  const named = (token: string): string => {
    const [, name = token, size, mark] = /^(\w+)(?::(\d+))?([!~#@])?$/.exec(token) ?? [];
    if (size !== undefined) sizes.set(name, Number(size));
    const meaning = mark === undefined ? undefined : MARKS[mark];
    if (meaning) marks.set(name, meaning);
    return name;
  };
  const term = (each: string): Axis[] => parseTerm(each, named);
  return { inputs: left.split(",").map(term), outputs: right.split(",").map(term), sizes, marks };
}

function parseTerm(text: string, named: (token: string) => string): Axis[] {
  const mergedParts = (piece: string): string[] => piece.slice(1, -1).trim().split(/\s+/).map(named);
  const pattern = /\*(\w+[!~#@]?)|((?:\([^)]*\)|[^\s()*+]+)(?:\+(?:\([^)]*\)|[^\s()*+]+))*)/g;
  return [...text.matchAll(pattern)].map(([, rest, token = ""]): Axis => {
    if (rest !== undefined) return { kind: "rest", name: named(rest) };
    if (token === "_") return { kind: "free" };
    if (token === "1") return { kind: "one" };
    const pieces = token.match(/\([^)]*\)|[^+]+/g) ?? [];
    const isMerge = (piece: string): boolean => piece.startsWith("(");
    if (pieces.length > 1)
      return {
        kind: "concat",
        parts: pieces.map((piece) => (isMerge(piece) ? `(${mergedParts(piece).join(" ")})` : named(piece))),
      };
    return isMerge(token) ? { kind: "merge", parts: mergedParts(token) } : { kind: "name", name: named(token) };
  });
}

/** Parts of a merged axis that stands in a concatenation, whose name is `(a b)`; undefined for any other name. */
export function partsOfMerge(name: string): readonly string[] | undefined {
  return name.startsWith("(") ? name.slice(1, -1).split(" ") : undefined;
}

/** Replaces `*x` by names x0, x1, … so that a term has as many axes as the value's rank. */
export function expandRest(term: readonly Axis[], rank: number): readonly Axis[] {
  return term.flatMap((axis): Axis[] =>
    axis.kind === "rest"
      ? Array.from({ length: Math.max(0, rank - term.length + 1) }, (_, i) => ({
          kind: "name",
          name: `${axis.name}${i}`,
        }))
      : [axis],
  );
}

/** The terms of a node's axes, one per input and output that the notation covers; undefined if opaque. */
export function axesOf(node: Node, spec: OpSpec): AxesTerms | undefined {
  if (spec.axes === "opaque") return undefined;
  const text =
    typeof spec.axes === "string"
      ? spec.axes
      : spec.axes(
          node,
          node.inputs.map((input) => input?.shape?.length ?? 0),
        );
  if (text === undefined) return undefined;
  const terms = parseAxes(text);
  const expand = (term: readonly Axis[], value: Value | undefined): readonly Axis[] =>
    value?.shape ? expandRest(term, value.shape.length) : [];
  const inputs = terms.inputs.map((term, i) => expand(term, node.inputs[i]));
  const outputs = terms.outputs.map((term, i) => expand(term, node.outputs[i]));
  return { inputs, outputs, sizes: terms.sizes, marks: expandMarks(terms, [...inputs, ...outputs]) };
}

/** The mark of `*s!` holds for s0, s1, … */
function expandMarks(terms: AxesTerms, expanded: readonly (readonly Axis[])[]): ReadonlyMap<string, AxisMark> {
  const marks = new Map(terms.marks);
  for (const axis of [...terms.inputs, ...terms.outputs].flat()) {
    const mark = axis.kind === "rest" ? terms.marks.get(axis.name) : undefined;
    if (axis.kind !== "rest" || !mark) continue;
    for (const each of expanded.flat())
      if (each.kind === "name" && each.name.startsWith(axis.name) && /^\d+$/.test(each.name.slice(axis.name.length)))
        marks.set(each.name, mark);
  }
  return marks;
}

/** Names for n axes: `a0 a1 …` with the given letter. */
export function names(letter: string, n: number): string[] {
  return Array.from({ length: n }, (_, i) => `${letter}${i}`);
}

/**
 * Numpy broadcasting: axes are tied from the right where both sizes are known to be equal. Where one of them may or may
 * not be 1, nobody knows which are stretched: the axis is tied to nothing in any term.
 */
export const broadcastAxes: AxesRule = (node) => {
  const output = node.outputs[0]?.shape;
  if (!output) return undefined;
  const isSure = (axis: number): boolean =>
    node.inputs.every((input) => {
      const dim = input?.shape?.[axis - output.length + input.shape.length];
      return !input || (input.shape && (dim === undefined || dim === 1 || (dim !== null && dim === output[axis])));
    });
  const letters = names("a", output.length).map((letter, axis) => (isSure(axis) ? letter : "_"));
  const term = (value: Value | undefined): string => {
    const shape = value?.shape;
    if (!shape) return "";
    const skip = output.length - shape.length;
    return shape.map((dim, i) => (dim !== null && dim === output[skip + i] ? letters[skip + i] : "_")).join(" ");
  };
  return `${node.inputs.map(term).join(", ")} -> ${letters.join(" ")}`;
};

/** Input 0 and output 0 have the same axes; other inputs are not looked at. */
export const SAME_AXES = "*a -> *a";

/**
 * Reshape: the shortest runs of axes with equal products are merged or split; where both sides have several axes, sizes
 * are taken apart into common factors, (12, 10) to (4, 30) into (4 3) 10 and 4 (3 10). Runs without any are free.
 */
export const reshapeAxes: AxesRule = (node) => {
  const from = node.inputs[0]?.shape;
  const to = node.outputs[0]?.shape;
  if (!from || !to) return undefined;
  const left = from.map(() => "_");
  const right = to.map(() => "_");
  const token = (parts: readonly string[]): string => (parts.length === 1 ? (parts[0] ?? "_") : `(${parts.join(" ")})`);
  for (const [index, [first, last, toFirst, toLast]] of matchRuns(from, to).entries()) {
    const letter = `a${index}`;
    const many = Math.max(last - first, toLast - toFirst);
    if (Math.min(last - first, toLast - toFirst) === 1) {
      const parts = many === 1 ? [letter] : names(`${letter}x`, many);
      for (let i = first; i < last; i++) left[i] = last - first === 1 ? token(parts) : (parts[i - first] ?? "_");
      for (let i = toFirst; i < toLast; i++)
        right[i] = toLast - toFirst === 1 ? token(parts) : (parts[i - toFirst] ?? "_");
      continue;
    }
    const factors = commonFactors(from.slice(first, last), to.slice(toFirst, toLast), `${letter}x`);
    for (const [i, parts] of factors?.from.entries() ?? []) left[first + i] = token(parts);
    for (const [i, parts] of factors?.to.entries() ?? []) right[toFirst + i] = token(parts);
  }
  return `${left.join(" ")} -> ${right.join(" ")}`;
};

/** The coarsest factors, outermost first, that both lists of sizes are products of runs of; undefined if there are none. */
function commonFactors(
  from: readonly Dim[],
  to: readonly Dim[],
  letter: string,
): { from: string[][]; to: string[][] } | undefined {
  if (!isConcrete(from) || !isConcrete(to) || [...from, ...to].includes(0)) return undefined;
  const result = { from: from.map((): string[] => []), to: to.map((): string[] => []) };
  const rest = { from: [...from], to: [...to] };
  for (let i = 0, j = 0, count = 0; i < from.length && j < to.length; ) {
    const [a, b] = [rest.from[i] ?? 1, rest.to[j] ?? 1];
    const size = Math.min(a, b);
    if (Math.max(a, b) % size !== 0) return undefined;
    if (size > 1) {
      const factor = `${letter}${count++}:${size}`;
      result.from[i]?.push(factor);
      result.to[j]?.push(factor);
    }
    rest.from[i] = a / size;
    rest.to[j] = b / size;
    if (rest.from[i] === 1) i++;
    if (rest.to[j] === 1) j++;
  }
  const orFree = (list: string[][]): string[][] => list.map((parts) => (parts.length > 0 ? parts : ["_"]));
  return { from: orFree(result.from), to: orFree(result.to) };
}

/** Half-open runs [from, fromEnd, to, toEnd) of two shapes with equal products; sizes of one are left out. */
function matchRuns(from: readonly Dim[], to: readonly Dim[]): [number, number, number, number][] {
  const runs: [number, number, number, number][] = [];
  let i = 0;
  let j = 0;
  for (;;) {
    while (from[i] === 1) i++;
    while (to[j] === 1) j++;
    if (i >= from.length || j >= to.length) return runs;
    let endI = i + 1;
    let endJ = j + 1;
    let a: Dim = from[i] ?? null;
    let b: Dim = to[j] ?? null;
    while (a !== b) {
      if (a === null || b === null) return runs;
      const growLeft = typeof a === "number" && typeof b === "number" ? a < b : String(a).length < String(b).length;
      if (growLeft && endI < from.length) a = multiply(a, from[endI++] ?? null);
      else if (endJ < to.length) b = multiply(b, to[endJ++] ?? null);
      else if (endI < from.length) a = multiply(a, from[endI++] ?? null);
      else return runs;
    }
    if (a === null) return runs;
    runs.push([i, endI, j, endJ]);
    i = endI;
    j = endJ;
  }
}

/** True if every size that the notation makes equal is equal in these concrete shapes: the check of a record's axes. */
export function axesAgree(
  terms: AxesTerms,
  inputs: readonly (readonly number[] | undefined)[],
  outputs: readonly (readonly number[] | undefined)[],
): boolean {
  const sizes = new Map<string, number>(terms.sizes);
  const pairs = [
    ...terms.inputs.map((term, i) => [term, inputs[i]] as const),
    ...terms.outputs.map((term, i) => [term, outputs[i]] as const),
  ].filter(
    (pair): pair is readonly [readonly Axis[], readonly number[]] => pair[1] !== undefined && pair[0].length > 0,
  );
  for (const [term, shape] of pairs) {
    if (term.length !== shape.length || !isConcrete(shape)) return false;
    for (const [i, axis] of term.entries()) {
      const size = shape[i] as number;
      if (axis.kind === "one" && size !== 1) return false;
      const name = axis.kind === "name" ? axis.name : axis.kind === "merge" ? `(${axis.parts.join(" ")})` : undefined;
      if (name === undefined) continue;
      const before = sizes.get(name);
      if (before !== undefined && before !== size) return false;
      sizes.set(name, size);
    }
  }
  for (const [term, shape] of pairs)
    for (const [i, axis] of term.entries()) {
      if (axis.kind !== "merge" && axis.kind !== "concat") continue;
      const parts = axis.parts.map((part) => (/^\d+$/.test(part) ? Number(part) : sizes.get(part)));
      if (parts.some((part) => part === undefined)) continue;
      const total = (parts as number[]).reduce((a, b) => (axis.kind === "merge" ? a * b : a + b));
      if (total !== shape[i]) return false;
    }
  return true;
}
