/** Operators that only cut their input off, and where. */
import type { Node } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { constantTensor } from "./constants.ts";

export interface Bounds {
  readonly low: number;
  readonly high: number;
}

/** True for a rectifier or clamp: y = min(max(x, low), high). */
export function isClamp(node: Node): boolean {
  return node.domain === "" && (node.opType === "Relu" || node.opType === "Clip");
}

/** Bounds of a rectifier or clamp, infinite where it has none; "computed" where they are not constant, undefined for other operators. */
export function clampBounds(model: Model, node: Node): Bounds | "computed" | undefined {
  if (!isClamp(node)) return undefined;
  if (node.opType === "Relu") return { low: 0, high: Number.POSITIVE_INFINITY };
  // Attributes before opset 11, inputs from it on.
  const bound = (input: number, name: string, otherwise: number): number | undefined =>
    node.inputs[input] ? constantTensor(model, node.inputs[input])?.peekNumbers()?.[0] : node.float(name, otherwise);
  const low = bound(1, "min", Number.NEGATIVE_INFINITY);
  const high = bound(2, "max", Number.POSITIVE_INFINITY);
  return low === undefined || high === undefined ? "computed" : { low, high };
}
