/** Rotary position embeddings as plain operators (Su et al. 2021). */
import type { Dim } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { add, concreteShape, ints, mul, reshape, slice, sub, unsqueeze } from "../gradients/words.ts";
import type { Lower, RuleContext } from "../spec.ts";
import { resized } from "./attend.ts";
import { concat } from "./words.ts";

export interface Rotation {
  /** Tables (positions, r/2), or (b, s, r/2) without positions. */
  readonly cos: Value;
  readonly sin: Value;
  /** (b, s), or (1): the place of the first element. */
  readonly positions: Value | undefined;
  /** Length of the sequence where places count from zero and the tables are looked up. */
  readonly sequence?: Dim | undefined;
  readonly interleaved: boolean;
  readonly head: number;
  /** True for (b, s, n, d), false for (b, n, s, d). */
  readonly headsInside?: boolean;
}

// Pairs (x₁, x₂) of the first r elements turn by their angle: y₁ = x₁·cos − x₂·sin, y₂ = x₁·sin + x₂·cos; the rest stays
export function rotated(c: RuleContext, x: Value, how: Rotation): Value {
  const { interleaved, head } = how;
  const half = concreteShape(c.node, how.cos, (how.cos.shape?.length ?? 1) - 1)[0] as number;
  const r = 2 * half;
  const headAxis = how.headsInside ? 2 : 1;
  const angle = (table: Value): Value => unsqueeze(c, lookedUp(c, table, how), [headAxis]); // (b, 1, s, r/2) or (b, s, 1, r/2)
  const [cos, sin] = [angle(how.cos), angle(how.sin)];
  const turning = r === head ? x : slice(c, x, [3], [0], [r]);
  const part = (start: number, end: number): Value =>
    interleaved ? slice(c, turning, [3], [start], [r], [2]) : slice(c, turning, [3], [start * half], [end * half]);
  const [a, b] = [part(0, 1), part(1, 2)];
  const first = sub(c, mul(c, a, cos), mul(c, b, sin));
  const second = add(c, mul(c, a, sin), mul(c, b, cos));
  let turned = concat(c, [first, second], 3);
  if (interleaved)
    turned = resized(c, concat(c, [unsqueeze(c, first, [4]), unsqueeze(c, second, [4])], 4), [0, 0, 0, r]);
  return r === head ? turned : concat(c, [turned, slice(c, x, [3], [r], [head])], 3);
}

/** Rows of a table at the positions: (b, s, r/2), or (1, s, r/2) where all batches have the same. */
function lookedUp(c: RuleContext, table: Value, { positions, sequence }: Rotation): Value {
  if (positions && (positions.shape?.length ?? 2) === 2) return c.b.op("Gather", [table, positions]);
  if (!positions && sequence === undefined) return table;
  if (typeof sequence !== "number") concreteShape(c.node, c.node.inputs[0]);
  const places = Array.from({ length: Number(sequence) }, (_, i) => i);
  if (!positions) return unsqueeze(c, slice(c, table, [0], [0], [places.length]), [0]);
  const moved = add(c, ints(c, places), reshape(c, positions, [1]));
  return unsqueeze(c, c.b.op("Gather", [table, moved]), [0]);
}

/** x (b, s, n·d) or (b, n, s, d) with tables and positions in the order of the operator. */
function lowering(order: { readonly cos: number; readonly sin: number; readonly positions: number }): Lower {
  return (c) => {
    const { node } = c;
    const x = node.inputs[0] as Value;
    const [cos, sin] = [node.inputs[order.cos], node.inputs[order.sin]] as [Value, Value];
    const positions = node.inputs[order.positions];
    const rank = x.shape?.length ?? 3;
    const width = concreteShape(c.node, x, rank - 1)[0] as number;
    const half = concreteShape(c.node, cos, (cos.shape?.length ?? 1) - 1)[0] as number;
    const heads = node.int("num_heads", 0);
    const head = rank === 4 ? width : heads > 0 ? width / heads : 2 * half;
    const sequence = positions?.shape?.length === 1 ? (x.shape?.[rank === 4 ? 2 : 1] ?? null) : undefined;
    const how = { cos, sin, positions, sequence, head, interleaved: node.int("interleaved", 0) !== 0 };
    if (rank === 4) return [rotated(c, x, how)];
    const apart = resized(c, x, [0, 0, width / head, head]); // (b, s, n, d)
    return [resized(c, rotated(c, apart, { ...how, headsInside: true }), [0, 0, width])];
  };
}

export const lowerRotary: Lower = lowering({ cos: 1, sin: 2, positions: 3 });
export const lowerMicrosoftRotary: Lower = lowering({ cos: 2, sin: 3, positions: 1 });
