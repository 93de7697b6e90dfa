/** Ties of single positions: which channels of which axes go together, through concatenations and merged axes. */
import type { AxisClass, AxisTies, Compound } from "./axis-ties.ts";

/** Axes of fixed size, laid one after another, and the positions that are tied among them. */
export interface TiedPositions {
  /** The first position of each class, by its root. */
  readonly offset: ReadonlyMap<number, number>;
  /** The class that a position lies in. */
  classOf(position: number): AxisClass;
  /** The representative of the positions that go together with this one. */
  root(position: number): number;
  /** Why a position must stay, by its representative. */
  readonly frozen: ReadonlyMap<number, string>;
}

/** How heads of queries that share a head of keys go: with that head, or one (the same) of each head's. */
export type GroupedQueries = "together" | "evenly";

/** An axis with more positions (sound; the largest vocabularies have fewer) is held as a whole. */
const MAX_POSITIONS = 1 << 18;

/**
 * Lays out every class of known size and ties positions of compounds: concatenations by their offsets, a merged axis with
 * one of its parts, its carrier, so that position i·m + j goes with position i (or j) of it; the other parts keep their
 * sizes. The carrier is the axis of heads, else one that is not computed together, else the longest, else the innermost. Where
 * several axes are heads (those of keys, and the queries that share one) `queries` says which comes first.
 */
export function tiePositions(
  ties: AxisTies,
  classes: ReadonlyMap<number, AxisClass>,
  queries: GroupedQueries = "together",
): TiedPositions {
  const offset = new Map<number, number>();
  const laid: AxisClass[] = [];
  let total = 0;
  for (const each of classes.values()) {
    if (each.size === undefined || each.size > MAX_POSITIONS) {
      each.frozen ??= each.size === undefined ? "its size is not known" : "it is too long";
      continue;
    }
    offset.set(each.root, total);
    laid.push(each);
    total += each.size;
  }
  const parent = Int32Array.from({ length: total }, (_, i) => i);
  const root = (position: number): number => {
    let at = position;
    while (parent[at] !== at) {
      parent[at] = parent[parent[at] as number] as number;
      at = parent[at] as number;
    }
    return at;
  };
  const join = (a: number, b: number): void => {
    const [x, y] = [root(a), root(b)];
    if (x < y) parent[y] = x;
    else parent[x] = y;
  };
  const classOfId = (id: number): AxisClass => classes.get(ties.root(id)) as AxisClass;
  const freeze = (each: AxisClass, reason: string): void => {
    each.frozen ??= reason;
  };
  for (const compound of compoundsInOrder(ties)) {
    const whole = classOfId(compound.whole);
    const parts = compound.parts.map((part) => (typeof part === "number" ? classOfId(part) : part));
    const start = offset.get(whole.root);
    const known = parts.every((part) => part.size !== undefined && (!("root" in part) || offset.has(part.root)));
    const sizes = parts.map((part) => part.size ?? 0);
    const agreed = compound.kind === "concat" ? sizes.reduce((a, b) => a + b, 0) : sizes.reduce((a, b) => a * b, 1);
    if (start === undefined || !known || agreed !== whole.size) {
      for (const each of [whole, ...parts])
        if ("root" in each) freeze(each, `${compound.where} takes it apart in a way that is not known`);
      continue;
    }
    if (compound.kind === "concat") {
      let at = start;
      for (const part of parts) {
        if ("root" in part) for (let i = 0; i < (part.size ?? 0); i++) join(at + i, (offset.get(part.root) ?? 0) + i);
        at += part.size ?? 0;
      }
      continue;
    }
    const carrier = carrierOf(parts as AxisClass[], queries);
    for (const [i, part] of (parts as AxisClass[]).entries())
      if (i !== carrier && part.size !== 1)
        freeze(part, `${compound.where} merges it with another axis, which is the one that shrinks`);
    const own = parts[carrier] as AxisClass | undefined;
    if (!own) {
      const weightOf = ({ isHeads, size }: AxisClass): number => (size === 1 ? 0 : isHeads ? whole.size : size) ?? 0;
      const first = (parts as AxisClass[]).reduce((best, part) => (weightOf(part) > weightOf(best) ? part : best));
      freeze(whole, first.frozen ?? `${compound.where} merges axes of which none can shrink`);
      continue;
    }
    const inner = sizes.slice(carrier + 1).reduce((a, b) => a * b, 1);
    const base = offset.get(own.root) ?? 0;
    for (let i = 0; i < (whole.size ?? 0); i++) join(start + i, base + (Math.floor(i / inner) % (own.size ?? 1)));
  }
  const frozen = new Map<number, string>();
  for (const each of laid) {
    if (each.frozen === undefined) continue;
    const start = offset.get(each.root) ?? 0;
    for (let i = start; i < start + (each.size ?? 0); i++) if (!frozen.has(root(i))) frozen.set(root(i), each.frozen);
  }
  const starts = laid.map((each) => offset.get(each.root) ?? 0);
  return {
    offset,
    frozen,
    root,
    classOf(position) {
      let [low, high] = [0, starts.length - 1];
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if ((starts[middle] as number) <= position) low = middle;
        else high = middle - 1;
      }
      return laid[low] as AxisClass;
    },
  };
}

/** Merges after concatenations: which part can carry depends on what is frozen by then. */
function compoundsInOrder(ties: AxisTies): Compound[] {
  const merges = ties.compounds.filter(({ kind }) => kind === "merge");
  return [...ties.compounds.filter(({ kind }) => kind === "concat"), ...merges];
}

/** Index of the part that shrinks when the merged axis does; -1 if none can. */
function carrierOf(parts: readonly AxisClass[], queries: GroupedQueries): number {
  let best = -1;
  const rank = (part: AxisClass, at: number): number[] =>
    part.isHeads ? [1, queries === "together" ? -at : at] : [0, part.mixed === undefined ? 1 : 0, part.size ?? 0];
  for (const [i, part] of parts.entries()) {
    if (part.frozen !== undefined || part.size === 1) continue;
    const [own, other] = [rank(part, i), best < 0 ? [] : rank(parts[best] as AxisClass, best)];
    const first = own.findIndex((value, j) => value !== other[j]);
    if (best < 0 || first < 0 || (own[first] as number) > (other[first] as number)) best = i;
  }
  return best;
}
