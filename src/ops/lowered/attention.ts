/** Attention layers as plain operators: the standard one and those of com.microsoft. */
import { PareError } from "../../base/error.ts";
import type { Dim } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { add, concreteShape, ints, pad, reshape, slice, sub, transpose, unsqueeze } from "../gradients/words.ts";
import type { Lower, RuleContext } from "../spec.ts";
import { add as addDims } from "../symbolic.ts";
import { attend, causalMask, extended, filtered, headsApart, headsTogether, keysWithin, type Sizes } from "./attend.ts";
import { rotated } from "./rotary.ts";
import { concat, splitSizes, squeezed } from "./words.ts";

/** Score of what a mask excludes, where the node says nothing else. */
const MASK_FILTER = -10000;

function unsupported(c: RuleContext, what: string): PareError {
  return new PareError("not-differentiable", `${c.node.opType} has no gradient ${what}`, {
    where: `node '${c.node.name}' (${c.node.opType})`,
    help: "Feed it without, or replace the operator",
  });
}

function size(c: RuleContext, value: Value, axis: number): number {
  return concreteShape(c.node, value, axis)[0] as number;
}

const scaleOf = (c: RuleContext, head: number): number => c.node.float("scale", 0) || 1 / Math.sqrt(head);

/** Masks of com.microsoft: lengths (b), ends and starts (2·b), or zeros and ones (b, t), (b, s, t) or (b, 1, M, M). */
function paddingMask(
  c: RuleContext,
  mask: Value | undefined,
  batch: Dim | undefined,
  sizes: Sizes,
): { bias?: Value; mask?: Value } {
  if (!mask) return {};
  const { dtype } = c.node.inputs[0] as Value;
  const filter = c.node.float("mask_filter_value", MASK_FILTER);
  const rank = mask.shape?.length;
  if (rank === 1) {
    const [length] = mask.shape ?? [];
    if (length === batch) return { mask: keysWithin(c, sizes.keys, mask) };
    if (typeof length !== "number" || typeof batch !== "number" || length !== 2 * batch)
      throw unsupported(c, "with cumulated lengths as its mask");
    const [ends, starts] = splitSizes(c, mask, 0, [batch, batch]) as [Value, Value];
    return { mask: keysWithin(c, sizes.keys, ends, starts) };
  }
  if (rank === 2) return { bias: filtered(c, unsqueeze(c, mask, [1, 2]), filter, dtype) };
  if (rank === 3) return { bias: filtered(c, unsqueeze(c, mask, [1]), filter, dtype) };
  const { past, queries, keys } = sizes;
  if (rank !== 4 || ![past, queries, keys].every((dim) => typeof dim === "number"))
    throw unsupported(c, "with this mask");
  const [from, count, all] = [past, queries, keys] as [number, number, number];
  return { bias: filtered(c, slice(c, mask, [2, 3], [from, 0], [from + count, all]), filter, dtype) };
}

// [q k v] = x·w + bias; y = attention(q, k, v); present = past followed by [k v]
export const lowerPackedAttention: Lower = (c) => {
  const { node } = c;
  const [x, w, bias, mask, past, scoreBias] = node.inputs as readonly [Value, Value, ...(Value | undefined)[]];
  if (node.int("do_rotary", 0) !== 0) throw unsupported(c, "with do_rotary");
  if (node.int("past_present_share_buffer", 0) !== 0) throw unsupported(c, "with a shared buffer of the past");
  const heads = node.int("num_heads", 1);
  const width = size(c, w, 1);
  const widths = node.ints("qkv_hidden_sizes") ?? [width / 3, width / 3, width / 3];
  const projected = c.b.op("MatMul", [x, w]); // (b, s, Σ widths)
  const parts = splitSizes(c, bias ? add(c, projected, bias) : projected, 2, widths);
  const [q, k, v] = parts.map((part, i) => headsApart(c, part, heads, (widths[i] ?? 0) / heads)) as [
    Value,
    Value,
    Value,
  ];
  const [pastKey, pastValue] = past ? splitSizes(c, past, 0, [1, 1]).map((part) => squeezed(c, part)) : [];
  const pastLength = past ? (past.shape?.[3] ?? null) : 0;
  const queries = x.shape?.[1] ?? null;
  const sizes = { queries, past: pastLength, keys: addDims(queries, pastLength) };
  const keys = extended(c, pastKey, k);
  const values = extended(c, pastValue, v);
  const padding = paddingMask(c, mask, x.shape?.[0], sizes);
  const { output } = attend(c, q, keys, values, {
    dtype: x.dtype,
    heads,
    groups: heads,
    sizes,
    scale: scaleOf(c, (widths[0] ?? 0) / heads),
    biases: [scoreBias, padding.bias],
    masks: [padding.mask, node.int("unidirectional", 0) ? causalMask(c, sizes) : undefined],
  });
  const y = headsTogether(c, output, widths[2] ?? 0);
  if (node.outputs.length < 2) return [y];
  return [y, concat(c, [unsqueeze(c, keys, [0]), unsqueeze(c, values, [0])], 0)];
};

// q, k and v come projected, packed or apart; y = attention(q + b, k + b, v + b)
export const lowerMultiHeadAttention: Lower = (c) => {
  const { node } = c;
  const [query, key, value, bias, mask, scoreBias, pastKey, pastValue, pastLength] = node.inputs as readonly [
    Value,
    ...(Value | undefined)[],
  ];
  if (pastLength) throw unsupported(c, "with a shared buffer of the past");
  const heads = node.int("num_heads", 1);
  const { q, k, v, hidden, valueHidden, keyLength } = multiHeadParts(c, query, key, value, bias, heads);
  const past = pastKey ? (pastKey.shape?.[2] ?? null) : 0;
  const sizes = { queries: query.shape?.[1] ?? null, past, keys: addDims(keyLength, past) };
  const keys = extended(c, pastKey, k);
  const values = extended(c, pastValue, v);
  const padding = paddingMask(c, mask, query.shape?.[0], sizes);
  const { output, raw } = attend(c, q, keys, values, {
    dtype: query.dtype,
    heads,
    groups: heads,
    sizes,
    scale: scaleOf(c, hidden / heads),
    biases: [scoreBias, padding.bias],
    masks: [padding.mask, node.int("unidirectional", 0) ? causalMask(c, sizes) : undefined],
  });
  return [headsTogether(c, output, valueHidden), keys, values, raw].slice(0, node.outputs.length);
};

interface Parts {
  readonly q: Value;
  readonly k: Value;
  readonly v: Value;
  readonly hidden: number;
  readonly valueHidden: number;
  readonly keyLength: Dim;
}

function multiHeadParts(
  c: RuleContext,
  query: Value,
  key: Value | undefined,
  value: Value | undefined,
  bias: Value | undefined,
  heads: number,
): Parts {
  const queries = query.shape?.[1] ?? null;
  if (!key) {
    // (b, s, n, 3, d)
    const head = size(c, query, 4);
    const apart = transpose(c, query, [3, 0, 2, 1, 4]);
    const [q, k, v] = splitSizes(c, apart, 0, [1, 1, 1]).map((part) => squeezed(c, part)) as [Value, Value, Value];
    if (bias) throw unsupported(c, "with packed queries and a bias");
    return { q, k, v, hidden: heads * head, valueHidden: heads * head, keyLength: queries };
  }
  const hidden = size(c, query, 2);
  const head = hidden / heads;
  if (!value) {
    // (b, t, n, 2, d)
    const apart = transpose(c, key, [3, 0, 2, 1, 4]);
    const [k, v] = splitSizes(c, apart, 0, [1, 1]).map((part) => squeezed(c, part)) as [Value, Value];
    const own = bias ? add(c, query, splitSizes(c, bias, 0, [hidden, 2 * hidden])[0] as Value) : query;
    if (bias) throw unsupported(c, "with packed keys and a bias");
    return { q: headsApart(c, own, heads, head), k, v, hidden, valueHidden: hidden, keyLength: key.shape?.[1] ?? null };
  }
  const merged = value.shape?.length !== 4;
  const valueHidden = merged ? size(c, value, 2) : heads * size(c, value, 3);
  const biases = bias ? splitSizes(c, bias, 0, [hidden, hidden, valueHidden]) : [];
  const whole = [query, key, value].map((x, i) => {
    if (x.shape?.length === 4) return x;
    const own = biases[i];
    return headsApart(c, own ? add(c, x, own) : x, heads, (i === 2 ? valueHidden : hidden) / heads);
  }) as [Value, Value, Value];
  const keyLength = (key.shape?.length === 4 ? key.shape[2] : key.shape?.[1]) ?? null;
  return { q: whole[0], k: whole[1], v: whole[2], hidden, valueHidden, keyLength };
}

// q (b, s, n·d) sees keys and values (b, s, kv·d) up to its own place, and those of the past, rotated where asked
export const lowerGroupQueryAttention: Lower = (c) => {
  const { node } = c;
  const [query, key, value, pastKey, pastValue, lengths, , cos, sin, positions, scoreBias, sink] =
    node.inputs as readonly [Value, ...(Value | undefined)[]];
  if (sink || node.int("smooth_softmax", 0) > 0) throw unsupported(c, "with a smooth softmax");
  const heads = node.int("num_heads", 1);
  const groups = node.int("kv_num_heads", heads);
  const width = size(c, query, 2);
  const head = width / (key ? heads : heads + 2 * groups);
  const widths = [heads * head, groups * head, groups * head];
  const [q3, k3, v3] = key ? [query, key, value as Value] : splitSizes(c, query, 2, widths);
  let q = headsApart(c, q3 as Value, heads, head);
  let k = headsApart(c, k3 as Value, groups, head);
  let v = headsApart(c, v3 as Value, groups, head);
  const window = node.int("local_window_size", -1);
  const filled = pastKey?.shape?.[2] === 0 ? undefined : pastKey;
  const before = filled && lengths ? pastOf(c, filled, lengths, window) : undefined;
  if (filled && !before) throw unsupported(c, "with a past whose lengths are not given");
  // The engine (1.30) leaves the past out where nobody asks for the keys and values that it would become.
  if (filled && node.outputs.length < 3) throw unsupported(c, "with a past but without its three outputs");
  const queries = query.shape?.[1] ?? null;
  if (node.int("do_rotary", 0) !== 0 && cos && sin) {
    const how = { cos, sin, interleaved: node.int("rotary_interleaved", 0) !== 0, head };
    const own = positions ?? before?.places;
    const places = { positions: own, sequence: own ? undefined : queries };
    q = rotated(c, q, { ...how, ...places });
    k = rotated(c, k, { ...how, ...places });
  }
  const sizes = { queries, keys: before?.keys ?? queries, past: 0 };
  let masks: (Value | undefined)[];
  if (before && filled && pastValue) {
    [k, v] = [before.joined(filled, k), before.joined(pastValue, v)];
    masks = [before.seen];
  } else {
    const one = c.b.constant("one", Tensor.of("int32", [], Int32Array.of(1)));
    const seen = lengths ? keysWithin(c, queries, add(c, reshape(c, lengths, [-1]), one)) : undefined;
    masks = [seen, causalMask(c, sizes, window)];
  }
  const { output } = attend(c, q, k, v, {
    dtype: query.dtype,
    heads,
    groups,
    sizes,
    scale: scaleOf(c, head),
    softcap: node.float("softcap", 0),
    biases: [scoreBias],
    masks,
  });
  return [headsTogether(c, output, heads * head), k, v].slice(0, node.outputs.length);
};

/** The past of a GroupQueryAttention: each sample's own number of keys lies at the start of a buffer that all share. */
interface Past {
  /** Keys after the new ones were added. */
  readonly keys: number;
  /** Places (b, s) of the new keys. */
  readonly places: Value;
  /** (b, 1, s, keys) of bool: query i sees key j ≤ past + i, and j > past + i − window. */
  readonly seen: Value;
  /** The buffer (b, kv, p, d) with the new (b, kv, s, d) behind what each sample has in it. */
  joined(buffer: Value, now: Value): Value;
}

/** `lengths` (b) are all keys of a sample but one. */
function pastOf(c: RuleContext, buffer: Value, lengths: Value, window: number): Past {
  const { node } = c;
  const [query, total] = [node.inputs[0] as Value, node.inputs[6]];
  const [queries, room] = [size(c, query, 1), size(c, buffer, 2)];
  const all = (total?.tensor?.peekNumbers() ?? c.contents(total))?.[0];
  if (all === undefined) throw unsupported(c, "with a past where the total length is not known");
  const keys = Math.max(room, all);
  const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
  const wide = c.b.op("Cast", [reshape(c, lengths, [-1, 1, 1, 1])], { attributes: { to: 7 } });
  const past = sub(c, wide, ints(c, [queries - 1])); // (b, 1, 1, 1)
  const own = add(c, past, reshape(c, ints(c, count(queries)), [queries, 1])); // (b, 1, s, 1)
  const j = ints(c, count(keys));
  const not = (x: Value): Value => c.b.op("Not", [x]);
  let seen = not(c.b.op("Less", [own, j]));
  if (window >= 0) seen = c.b.op("And", [seen, c.b.op("Less", [sub(c, own, ints(c, [window])), j])]);
  const down = reshape(c, j, [keys, 1]);
  const behind = c.b.op("Min", [add(c, sub(c, down, past), ints(c, [room])), ints(c, [room + queries])]);
  const from = c.b.op("Where", [c.b.op("Less", [down, past]), down, behind]); // (b, 1, keys, 1)
  return {
    keys,
    places: squeezed(c, squeezed(c, own, 3), 1),
    seen,
    joined(before, now) {
      const spread = c.b.op("Expand", [from, ints(c, [1, size(c, before, 1), 1, size(c, before, 3)])]);
      const zeros = pad(c, now, [0, 0, 0, 0, 0, 0, 1, 0]); // what lies behind the new keys of a short sample
      return c.b.op("GatherElements", [concat(c, [before, zeros], 2), spread], { attributes: { axis: 2 } });
    },
  };
}

// Standard attention, heads apart (b, n, s, d) or together (b, s, n·d)
export const lowerAttention: Lower = (c) => {
  const { node } = c;
  const [query, key, value, mask, pastKey, pastValue, padding] = node.inputs as readonly [
    Value,
    Value,
    Value,
    ...(Value | undefined)[],
  ];
  const apart = query.shape?.length === 4;
  const heads = apart ? size(c, query, 1) : node.int("q_num_heads", 1);
  const groups = apart ? size(c, key, 1) : node.int("kv_num_heads", heads);
  const head = apart ? size(c, query, 3) : size(c, query, 2) / heads;
  const valueHead = apart ? size(c, value, 3) : size(c, value, 2) / groups;
  const q = apart ? query : headsApart(c, query, heads, head);
  const k = apart ? key : headsApart(c, key, groups, head);
  const v = apart ? value : headsApart(c, value, groups, valueHead);
  const at = apart ? 2 : 1;
  const past = pastKey ? (pastKey.shape?.[2] ?? null) : 0;
  const sizes = { queries: query.shape?.[at] ?? null, past, keys: addDims(key.shape?.[at] ?? null, past) };
  const keys = extended(c, pastKey, k);
  const values = extended(c, pastValue, v);
  const bool = mask?.dtype === "bool";
  const steps = attend(c, q, keys, values, {
    dtype: query.dtype,
    heads,
    groups,
    sizes,
    scale: scaleOf(c, head),
    softcap: node.float("softcap", 0),
    biases: bool ? [] : [mask],
    masks: [
      bool ? mask : undefined,
      padding ? keysWithin(c, sizes.keys, padding) : undefined,
      node.int("is_causal", 0) ? causalMask(c, sizes) : undefined,
    ],
  });
  const y = apart ? steps.output : headsTogether(c, steps.output, heads * valueHead);
  const modes = [steps.raw, steps.capped, steps.masked, steps.probabilities]; // in the engine's order
  const scores = modes[node.int("qk_matmul_output_mode", 0)];
  return [y, keys, values, scores].slice(0, node.outputs.length);
};
