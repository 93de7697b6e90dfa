/**
 * The notation that ties axes: one term per input and output, `n i *s, o i *k, o -> n o *z`.
 *
 * Tokens of a term are its axes in order: a name (equal names are one axis, of one size), `_` (tied to nothing),
 * `1` (a size of one), `(a b)` (a merged axis, a outermost, of size a·b), `a+b` (a concatenation), and one `*x` (all axes
 * that are left, tied one by one to the other `*x`). An absent optional input is an empty term.
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

export interface AxesTerms {
  readonly inputs: readonly (readonly Axis[])[];
  readonly outputs: readonly (readonly Axis[])[];
}

/** Parses the notation. Text is written in this repository, so a mistake is an internal one and throws. */
export function parseAxes(text: string): AxesTerms {
  const [left, right, more] = text.split("->");
  if (left === undefined || right === undefined || more !== undefined)
    throw new SyntaxError(`Axes '${text}' need one '->'`);
  return { inputs: left.split(",").map(parseTerm), outputs: right.split(",").map(parseTerm) };
}

function parseTerm(text: string): Axis[] {
  return [...text.matchAll(/\(([^)]*)\)|\*(\w+)|([^\s()*]+)/g)].map(([, merged, rest, token]): Axis => {
    if (merged !== undefined) return { kind: "merge", parts: merged.trim().split(/\s+/) };
    if (rest !== undefined) return { kind: "rest", name: rest };
    if (token === "_") return { kind: "free" };
    if (token === "1") return { kind: "one" };
    if (token?.includes("+")) return { kind: "concat", parts: token.split("+") };
    return { kind: "name", name: token ?? "" };
  });
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
  return {
    inputs: terms.inputs.map((term, i) => expand(term, node.inputs[i])),
    outputs: terms.outputs.map((term, i) => expand(term, node.outputs[i])),
  };
}

/** Names for n axes: `a0 a1 …` with the given letter. */
export function names(letter: string, n: number): string[] {
  return Array.from({ length: n }, (_, i) => `${letter}${i}`);
}

/** Numpy broadcasting: axes are tied from the right where both sizes are known to be equal. */
export const broadcastAxes: AxesRule = (node) => {
  const output = node.outputs[0]?.shape;
  if (!output) return undefined;
  const letters = names("a", output.length);
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

/** Reshape: the shortest runs of axes with equal products are merged or split. Runs that are neither are free. */
export const reshapeAxes: AxesRule = (node) => {
  const from = node.inputs[0]?.shape;
  const to = node.outputs[0]?.shape;
  if (!from || !to) return undefined;
  const runs = matchRuns(from, to);
  const left = from.map(() => "_");
  const right = to.map(() => "_");
  for (const [index, run] of runs.entries()) {
    const letter = `a${index}`;
    const [first, last, toFirst, toLast] = run;
    if (last - first === 1 && toLast - toFirst === 1) left[first] = right[toFirst] = letter;
    else if (toLast - toFirst === 1) {
      const parts = names(`${letter}x`, last - first);
      for (const [i, part] of parts.entries()) left[first + i] = part;
      right[toFirst] = `(${parts.join(" ")})`;
    } else if (last - first === 1) {
      const parts = names(`${letter}x`, toLast - toFirst);
      for (const [i, part] of parts.entries()) right[toFirst + i] = part;
      left[first] = `(${parts.join(" ")})`;
    }
  }
  return `${left.join(" ")} -> ${right.join(" ")}`;
};

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
  const sizes = new Map<string, number>();
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
