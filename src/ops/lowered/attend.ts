/** Scaled dot-product attention in plain operators: heads apart, masks, and softmax(q·kᵀ)·v. */
import type { DType } from "../../base/dtype.ts";
import type { Dim } from "../../base/shape.ts";

import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { add, concreteShape, ints, mul, scalar, scale, sub, transpose, unsqueeze } from "../gradients/words.ts";
import type { RuleContext } from "../spec.ts";
import { concat } from "./words.ts";

/** Reshapes where 0 keeps the size of the same axis. */
export function resized(c: RuleContext, x: Value, shape: readonly number[]): Value {
  return c.b.op("Reshape", [x, ints(c, shape)]);
}

/** (b, s, n·d) to (b, n, s, d). */
export function headsApart(c: RuleContext, x: Value, heads: number, head: number): Value {
  return transpose(c, resized(c, x, [0, 0, heads, head]), [0, 2, 1, 3]);
}

/** (b, n, s, d) to (b, s, n·d). */
export function headsTogether(c: RuleContext, x: Value, width: number): Value {
  return resized(c, transpose(c, x, [0, 2, 1, 3]), [0, 0, width]);
}

/** The past's keys or values (b, n, p, d) followed by the present's. */
export function extended(c: RuleContext, past: Value | undefined, now: Value): Value {
  return past ? concat(c, [past, now], 2) : now;
}

export interface Sizes {
  /** Queries, and keys with the past's. */
  readonly queries: Dim;
  readonly keys: Dim;
  /** Keys of the past. */
  readonly past: Dim;
}

function knownSizes(c: RuleContext, sizes: Sizes): { queries: number; keys: number; past: number } {
  const { queries, keys, past } = sizes;
  if (typeof queries === "number" && typeof keys === "number" && typeof past === "number")
    return { queries, keys, past };
  concreteShape(
    c.node,
    c.node.inputs.find((input) => input?.shape?.some((dim) => typeof dim !== "number")),
  );
  return { queries: 0, keys: 0, past: 0 };
}

/** Query i sees key j ≤ i + past, and j > i + past − window where there is a window: (s, t) of bool. */
export function causalMask(c: RuleContext, sizes: Sizes, window = -1): Value {
  const { queries, keys, past } = knownSizes(c, sizes);
  const seen = Uint8Array.from({ length: queries * keys }, (_, at) => {
    const [i, j] = [Math.floor(at / keys) + past, at % keys];
    return j <= i && (window < 0 || j > i - window) ? 1 : 0;
  });
  return c.b.constant("causal", Tensor.of("bool", [queries, keys], seen));
}

/** Keys j with low ≤ j < high, where low and high are (b): (b, 1, 1, t) of bool. */
export function keysWithin(c: RuleContext, keys: Dim, high: Value, low?: Value): Value {
  const count = knownSizes(c, { queries: 0, keys, past: 0 }).keys;
  const places = c.b.constant(
    "places",
    Tensor.of(
      "int32",
      [count],
      Int32Array.from({ length: count }, (_, j) => j),
    ),
  );
  const column = (value: Value): Value =>
    unsqueeze(c, value.dtype === "int32" ? value : c.b.op("Cast", [value], { attributes: { to: 6 } }), [1, 2, 3]);
  const below = c.b.op("Less", [places, column(high)]);
  return low ? c.b.op("And", [below, c.b.op("Not", [c.b.op("Less", [places, column(low)])])]) : below;
}

/** (1 − m)·filter for a mask of zeros and ones: what is added to the scores. */
export function filtered(c: RuleContext, mask: Value, filter: number, dtype: DType | undefined): Value {
  const numbers = c.b.op("Cast", [mask], {
    attributes: { to: dtype === "float64" ? 11 : dtype === "float16" ? 10 : 1 },
  });
  return scale(c, sub(c, scalar(c, dtype, 1), numbers), filter, dtype);
}

export interface Attending {
  readonly dtype: DType | undefined;
  readonly scale: number;
  /** Query heads, and key heads, which they share in order. */
  readonly heads: number;
  readonly groups: number;
  readonly sizes: Sizes;
  /** z ↦ cap·tanh(z/cap) on the scores; 0: none. */
  readonly softcap?: number;
  /** Added to the scores. */
  readonly biases?: readonly (Value | undefined)[];
  /** Bools; what they exclude gets no attention at all. */
  readonly masks?: readonly (Value | undefined)[];
}

/** The steps of {@link attend}: scores as they come, capped, with masks, and as probabilities. */
export interface Attention {
  readonly output: Value;
  readonly raw: Value;
  readonly capped: Value;
  readonly masked: Value;
  readonly probabilities: Value;
}

/** Low enough that its exponential is zero beside any score, high enough not to overflow when a bias is added. */
const EXCLUDED = -1e30;
const EXCLUDED_HALF = -3e4;

// y = softmax(q·kᵀ·scale + masks)·v: q (b, n, s, d), k (b, n/g, t, d), v (b, n/g, t, e) give (b, n, s, e)
export function attend(c: RuleContext, q: Value, k: Value, v: Value, how: Attending): Attention {
  const { heads, groups, dtype, softcap = 0 } = how;
  const shared = heads !== groups;
  const sizes = shared ? knownSizes(c, how.sizes) : undefined;
  // Query heads that share keys become more queries of one head.
  const fold = (x: Value): Value => (sizes ? resized(c, x, [0, groups, (heads / groups) * sizes.queries, -1]) : x);
  const unfold = (x: Value): Value => (sizes ? resized(c, x, [0, heads, sizes.queries, -1]) : x);
  const raw = unfold(c.b.op("MatMul", [fold(scale(c, q, how.scale, dtype)), transpose(c, k, [0, 1, 3, 2])])); // (b, n, s, t)
  const capped = softcap > 0 ? scale(c, c.b.op("Tanh", [scale(c, raw, 1 / softcap, dtype)]), softcap, dtype) : raw;
  let masked = capped;
  for (const bias of how.biases ?? []) if (bias) masked = add(c, masked, bias);
  const low = scalar(c, dtype, dtype === "float16" ? EXCLUDED_HALF : EXCLUDED);
  for (const mask of how.masks ?? []) if (mask) masked = c.b.op("Where", [mask, masked, low]);
  const probabilities = c.b.op("Softmax", [masked], { attributes: { axis: -1 } });
  const output = unfold(c.b.op("MatMul", [fold(probabilities), v]));
  return { output, raw, masked, capped, probabilities };
}

/** Scale and shift over the last axis: y = (x − mean)/√(variance + ε)·γ + β. */
export function normalizedLast(
  c: RuleContext,
  x: Value,
  gamma: Value,
  beta: Value | undefined,
  epsilon: number,
  rank: number,
): Value {
  const mean = (value: Value): Value =>
    c.opset >= 18
      ? c.b.op("ReduceMean", [value, ints(c, [rank - 1])])
      : c.b.op("ReduceMean", [value], { attributes: { axes: [rank - 1] } });
  const centred = sub(c, x, mean(x));
  const variance = mean(mul(c, centred, centred));
  const deviation = c.b.op("Sqrt", [add(c, variance, scalar(c, gamma.dtype, epsilon))]);
  const scaled = mul(c, c.b.op("Div", [centred, deviation]), gamma);
  return beta ? add(c, scaled, beta) : scaled;
}
