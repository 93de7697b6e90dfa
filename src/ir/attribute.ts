/** Attributes of a node. */
import type { Graph } from "./graph.ts";
import type { Tensor } from "./tensor.ts";

/** Integers are bigint only when they do not fit a double exactly. Strings are bytes, as in the file. */
export type Attribute = (
  | { readonly type: "float"; readonly value: number }
  | { readonly type: "int"; readonly value: number | bigint }
  | { readonly type: "string"; readonly value: Uint8Array }
  | { readonly type: "tensor"; readonly value: Tensor; readonly name?: string }
  | { readonly type: "graph"; readonly value: Graph }
  | { readonly type: "floats"; readonly value: readonly number[] }
  | { readonly type: "ints"; readonly value: readonly (number | bigint)[] }
  | { readonly type: "strings"; readonly value: readonly Uint8Array[] }
  | { readonly type: "tensors"; readonly value: readonly Tensor[] }
  | { readonly type: "graphs"; readonly value: readonly Graph[] }
  /** A reference to an attribute of the enclosing function. */
  | { readonly type: "reference"; readonly value: string; readonly of: number }
  /** Kinds pare does not look into (sparse tensors, type protos): the message, saved as it came. */
  | { readonly type: "other"; readonly value: unknown }
) & { readonly original?: unknown };

/** Plain values that builders accept; numbers become `int` when integral: use {@link float} for a float such as 1.0. */
export type AttributeInput = number | bigint | string | readonly number[] | Tensor | Attribute;

/** A float attribute, also for integral numbers. */
export function float(value: number): Attribute {
  return { type: "float", value };
}

export function floats(value: readonly number[]): Attribute {
  return { type: "floats", value };
}

/** Turns a plain value into an attribute. */
export function toAttribute(input: AttributeInput): Attribute {
  if (typeof input === "bigint") return { type: "int", value: input };
  if (typeof input === "number")
    return Number.isInteger(input) ? { type: "int", value: input } : { type: "float", value: input };
  if (typeof input === "string") return { type: "string", value: new TextEncoder().encode(input) };
  if (Array.isArray(input)) {
    const list = input as readonly number[];
    return list.every(Number.isInteger) ? { type: "ints", value: list } : { type: "floats", value: list };
  }
  if ("dtype" in (input as Tensor)) return { type: "tensor", value: input as Tensor };
  return input as Attribute;
}
