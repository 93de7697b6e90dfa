/** Pairs the values that two models both compute: by name, by the producing node's name, then by place between pairs. */
import { isFloat } from "../base/dtype.ts";
import { type Dim, formatShape } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";

export interface ValuePair {
  readonly reference: Value;
  readonly candidate: Value;
  readonly by: "name" | "node" | "position";
  /**
   * Values of the reference that the candidate's one may stand for instead: where following operators were folded into this one
   * (batch normalization, an activation), the name may have stayed. The values decide.
   */
  readonly alternatives: readonly Value[];
}

export interface ValueMatches {
  /** In the reference's order of computation. */
  readonly pairs: readonly ValuePair[];
  readonly unmatched: readonly { readonly value: Value; readonly why: string }[];
}

/** Operators that are folded into the one before them are looked for this far down the chain. */
const CHAIN = 3;
/** Beyond this many comparisons of places, places are not compared. */
const ALIGN_LIMIT = 4_000_000;

/** Both models should have types and shapes inferred. Only values of the main graph that are floats and depend on inputs are paired. */
export function matchValues(reference: Model, candidate: Model): ValueMatches {
  const wanted = computedValues(reference);
  const offered = computedValues(candidate);
  const taken = new Set<Value>();
  const found = new Map<Value, { candidate: Value; by: ValuePair["by"] }>();
  const reasons = new Map<Value, string>();
  const pair = (value: Value, other: Value | undefined, by: ValuePair["by"]): void => {
    if (!other || taken.has(other) || found.has(value)) return;
    if (!shapesAgree(value.shape, other.shape)) {
      reasons.set(value, `its shape is ${formatShape(other.shape)} instead of ${formatShape(value.shape)}`);
      return;
    }
    taken.add(other);
    found.set(value, { candidate: other, by });
  };
  const byName = new Map(offered.map((value) => [value.name, value]));
  for (const value of wanted) pair(value, byName.get(value.name), "name");
  const byNode = new Map<string, Value>();
  for (const value of offered) if (value.producer?.name) byNode.set(nodeKey(value), value);
  for (const value of wanted) {
    const other = value.producer?.name ? byNode.get(nodeKey(value)) : undefined;
    if (other?.producer?.opType === value.producer?.opType) pair(value, other, "node");
  }
  const rest = wanted.filter((value) => !found.has(value) && !reasons.has(value));
  const left = offered.filter((value) => !taken.has(value));
  for (const [value, other] of align(rest, left)) pair(value, other, "position");

  const pairs = wanted.flatMap((value) => {
    const match = found.get(value);
    return match
      ? [{ reference: value, ...match, alternatives: chainAfter(value, found, new Set(reference.graph.outputs)) }]
      : [];
  });
  const unmatched = wanted
    .filter((value) => !found.has(value))
    .map((value) => ({ value, why: reasons.get(value) ?? "the compressed model does not compute it" }));
  return { pairs, unmatched };
}

/** Float values (or of unknown type) that nodes of the main graph compute from the inputs. */
function computedValues(model: Model): Value[] {
  const live = new Set<Value>(model.graph.inputs.filter((value) => !model.graph.initializers.has(value.name)));
  const values: Value[] = [];
  for (const node of model.graph.nodes) {
    if (!dependsOn(node, live)) continue;
    for (const output of node.outputs) {
      live.add(output);
      if (output.name !== "" && (output.dtype === undefined || isFloat(output.dtype))) values.push(output);
    }
  }
  return values;
}

function dependsOn(node: Node, live: ReadonlySet<Value>): boolean {
  if (node.inputs.some((input) => input !== undefined && live.has(input))) return true;
  for (const subgraph of node.subgraphs())
    for (const inner of subgraph.allNodes())
      if (inner.inputs.some((input) => input !== undefined && live.has(input))) return true;
  return false;
}

function nodeKey(value: Value): string {
  return `${value.producer?.outputs.indexOf(value) ?? 0}:${value.producer?.name ?? ""}`;
}

/** Equal rank, and equal sizes where both are numbers; unknown shapes agree with any. */
function shapesAgree(a: readonly Dim[] | undefined, b: readonly Dim[] | undefined): boolean {
  if (!a || !b) return true;
  return (
    a.length === b.length &&
    a.every((size, axis) => typeof size !== "number" || typeof b[axis] !== "number" || size === b[axis])
  );
}

/** Longest common subsequence of operator and shape: O(n·m) places. */
function align(wanted: readonly Value[], offered: readonly Value[]): [Value, Value][] {
  const n = wanted.length;
  const m = offered.length;
  if (n === 0 || m === 0 || n * m > ALIGN_LIMIT) return [];
  const keyOf = (value: Value): string => `${value.producer?.opType ?? ""} ${formatShape(value.shape)}`;
  const a = wanted.map(keyOf);
  const b = offered.map(keyOf);
  // length[i][j]: longest common subsequence of a[i…] and b[j…]
  const length = Array.from({ length: n + 1 }, () => new Uint32Array(m + 1));
  const at = (i: number, j: number): number => length[i]?.[j] ?? 0;
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      (length[i] as Uint32Array)[j] = a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
  const pairs: [Value, Value][] = [];
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (a[i] === b[j] && at(i, j) === at(i + 1, j + 1) + 1) pairs.push([wanted[i++] as Value, offered[j++] as Value]);
    else if (at(i + 1, j) >= at(i, j + 1)) i++;
    else j++;
  }
  return pairs;
}

/** Values that follow from this one alone, step by step, of the same shape, which the candidate does not have under any name. */
function chainAfter(value: Value, found: ReadonlyMap<Value, unknown>, outputs: ReadonlySet<Value>): Value[] {
  const chain: Value[] = [];
  for (let current = value; chain.length < CHAIN; ) {
    const next = current.uses.length === 1 && !outputs.has(current) ? current.uses[0]?.node.outputs[0] : undefined;
    if (!next || found.has(next) || next.producer?.graph !== value.producer?.graph) break;
    if (!next.shape || !shapesAgree(value.shape, next.shape)) break;
    chain.push(next);
    current = next;
  }
  return chain;
}
