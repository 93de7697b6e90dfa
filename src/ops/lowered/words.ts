/** Words in which lowered forms are written, beside those of gradient rules. */
import type { Value } from "../../ir/graph.ts";
import { ints, type Site } from "../gradients/words.ts";

/** Joined along an axis; one part is passed on as it is. */
export function concat(s: Site, parts: readonly Value[], axis: number): Value {
  return parts.length === 1 ? (parts[0] as Value) : s.b.op("Concat", parts, { attributes: { axis } });
}

/** Parts of given sizes along an axis. */
export function splitSizes(s: Site, x: Value, axis: number, sizes: readonly number[]): Value[] {
  if (sizes.length === 1) return [x];
  return s.opset >= 13
    ? s.b.ops("Split", [x, ints(s, sizes)], { attributes: { axis }, outputs: sizes.length })
    : s.b.ops("Split", [x], { attributes: { axis, split: sizes }, outputs: sizes.length });
}

/** Equal parts along an axis, whose size need not be known. */
export function splitEqually(s: Site, x: Value, axis: number, count: number): Value[] {
  if (count === 1) return [x];
  const attributes = s.opset >= 18 ? { axis, num_outputs: count } : { axis };
  return s.b.ops("Split", [x], { attributes, outputs: count });
}

/** Without an axis of size 1; default the first. */
export function squeezed(s: Site, x: Value, axis = 0): Value {
  return s.opset >= 13
    ? s.b.op("Squeeze", [x, ints(s, [axis])])
    : s.b.op("Squeeze", [x], { attributes: { axes: [axis] } });
}
