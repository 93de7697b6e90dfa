/** What the channels of a family are: heads of attention, units of a recurrence, neurons of dense layers, the width of a residual stream. */
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import type { Traits } from "../ops/spec.ts";
import type { AxisClass } from "./axis-ties.ts";

/**
 * heads: what runs side by side in attention. units: hidden units of LSTM, GRU and RNN. width: channels that several layers
 * add to, as a residual stream. neurons: what only dense layers make and read, as the hidden units of a (gated) MLP.
 * channels: all others.
 */
export type FamilyKind = (typeof FAMILY_KINDS)[number];

export const FAMILY_KINDS = ["channels", "heads", "neurons", "units", "width"] as const;

/** The parts of a family that tell. */
export interface KindParts {
  readonly axes: readonly AxisClass[];
  readonly producers: readonly { readonly node: Node }[];
  readonly consumers: readonly { readonly node: Node }[];
}

export function kindOf(model: Model, { axes, producers, consumers }: KindParts): FamilyKind {
  const traitsOf = (node: Node): Traits => specOf(node, model.opsets.get(node.domain) ?? 1)?.traits ?? {};
  if (axes.some(({ isHeads }) => isHeads)) return "heads";
  const makers = producers.length > 0 ? producers : consumers;
  if (makers[0] && traitsOf(makers[0].node).linear === "recurrent") return "units";
  const values = new Set(axes.flatMap(({ members }) => members.map(({ value }) => value)));
  const readers = new Set([...values].flatMap(({ uses }) => uses.map(({ node }) => node)));
  const along = (node: Node, count: number): Value[] =>
    node.inputs.slice(0, count).filter((input): input is Value => !!input && !input.tensor && values.has(input));
  for (const node of readers) {
    const { linear } = traitsOf(node);
    // Queries, keys and values of one head: a product of two computed values.
    if (linear && along(node, 2).length > 0 && node.inputs.slice(0, 2).every((input) => input && !isStored(input)))
      return "channels";
  }
  if (new Set(producers.map(({ node }) => node)).size > 1)
    for (const node of readers) {
      const terms = traitsOf(node).sum?.terms ?? 0;
      if (along(node, terms).length > 1) return "width";
    }
  const isDense = ({ node }: { readonly node: Node }): boolean => {
    const { linear } = traitsOf(node);
    return linear === "matmul" || linear === "gemm";
  };
  const isHidden = producers.length > 0 && consumers.length > 0;
  return isHidden && [...producers, ...consumers].every(isDense) ? "neurons" : "channels";
}

/** A stored number, or one that is computed from stored ones alone (unpacked, dequantized, transposed). */
export function isStored(value: Value): boolean {
  if (value.tensor) return true;
  const inputs = value.producer?.inputs.filter((input) => input !== undefined) ?? [];
  return inputs.length > 0 && inputs.every((input) => isStored(input as Value));
}
