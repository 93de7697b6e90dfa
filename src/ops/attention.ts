/** Attention, rotary embeddings and embedding layers, standard and of com.microsoft. */
import type { Dim } from "../base/shape.ts";
import { type OpTable, type Shape, contentsOf, count, dtypeOf, perOutput, sameAsInput, shapeOf } from "./helpers.ts";
import {
  lowerAttention,
  lowerGroupQueryAttention,
  lowerMultiHeadAttention,
  lowerPackedAttention,
} from "./lowered/attention.ts";
import { lowerEmbedding } from "./lowered/embedding.ts";
import { lowerMicrosoftRotary, lowerRotary } from "./lowered/rotary.ts";
import { type Narrow, narrowHeads } from "./narrow.ts";
import type { Axes, Cost, Infer, InferContext, Lower, OpSpec, ValueType } from "./spec.ts";
import { add, floorDivide, maximum, multiply } from "./symbolic.ts";

/** Key and value of the past, joined with the present along the sequence: (…, past, size) gives (…, past + length, size). */
function present(context: InferContext, past: number, length: Dim, fallback: Shape): ValueType {
  const shape = shapeOf(context, past);
  return {
    dtype: dtypeOf(context, past) ?? dtypeOf(context, 0),
    shape: shape ? shape.map((dim, i) => (i === shape.length - 2 ? add(dim, length) : dim)) : fallback,
  };
}

/** Score and mix: every query meets every key, twice. */
function attentionMacs(batch: number, queries: number, keys: number, width: number, valueWidth: number): number {
  return batch * queries * keys * (width + valueWidth);
}

/**
 * com.microsoft Attention: x (b, s, i) @ w (i, 3h) + bias, then self-attention; y (b, s, h) and
 * present (2, b, heads, past + s, head).
 */
const packedInfer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const x = shapeOf(context, 0);
  const [batch, length] = [x?.[0] ?? null, x?.[1] ?? null];
  const sizes = context.node.ints("qkv_hidden_sizes");
  const hidden = sizes?.[2] ?? floorDivide(shapeOf(context, 1)?.[1] ?? null, 3);
  const heads = context.node.int("num_heads", 1);
  const head = floorDivide(hidden, heads);
  return [{ dtype, shape: [batch, length, hidden] }, present(context, 4, length, [2, batch, heads, length, head])];
};

const packedCost: Cost = ({ inputs, outputs }) => {
  const [x, w] = inputs;
  const past = inputs[4]?.[3] ?? 0;
  const [batch = 0, length = 0, hidden = 0] = outputs[0] ?? [];
  return {
    macs:
      (count(x) / Math.max(1, x?.[2] ?? 1)) * count(w) + attentionMacs(batch, length, past + length, hidden, hidden),
    flops: batch * length * (past + length) * 5,
  };
};

/** Heads are what can go; their width is in the scale of the scores. */
const packedAxes: Axes = (node) => {
  if (node.inputs.length > 6) return undefined;
  const heads = node.int("num_heads", 1);
  const sizes = node.ints("qkv_hidden_sizes");
  const mask = (node.inputs[3]?.shape ?? []).map(() => "_").join(" ");
  const scores = node.inputs[5]?.shape?.[1] === 1 ? "_ _ _ _" : "_ h _ _";
  const rest = `${mask}, _ b h p d${node.inputs[5] ? `, ${scores}` : ""}`;
  if (!sizes) return `b s i, i (t:3# h:${heads}@ d#), (t h d), ${rest} -> b s (h d), _ b h u d`;
  const [d = 0, k = 0, e = 0] = sizes.map((size) => size / heads);
  if (![d, k, e].every(Number.isInteger) || d !== k || (d !== e && node.inputs[4])) return undefined;
  const all = `(h:${heads}@ d:${d}#)+(h d)+(h e:${e}#)`;
  return `b s i, i ${all}, ${all}, ${rest} -> b s (h e), _ b h u d`;
};

/** Heads, and the widths of queries, keys and values that have them. */
const narrowPacked: Narrow = (context) => {
  const { attributes = {} } = narrowHeads({ num_heads: 1 })(context);
  const heads = attributes["num_heads"];
  const sizes = context.node.ints("qkv_hidden_sizes");
  if (typeof heads !== "number" || !sizes) return { attributes };
  const before = context.node.int("num_heads", 1);
  return { attributes: { ...attributes, qkv_hidden_sizes: sizes.map((size) => (size * heads) / before) } };
};

const packed: OpSpec = {
  since: 1,
  infer: packedInfer,
  cost: packedCost,
  axes: packedAxes,
  weights: [
    { input: 1, role: "kernel", channelAxis: 1, reductionAxis: 0 },
    { input: 2, role: "bias", channelAxis: 0 },
  ],
  grad: "lower",
  lower: lowerPackedAttention,
  narrow: narrowPacked,
  traits: { linear: "attention" },
};

/** query (b, s, h); key and value (b, t, h), or (b, heads, t, head); past key and value at 6 and 7. */
const multiHeadInfer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const q = shapeOf(context, 0);
  const k = shapeOf(context, 1);
  const v = shapeOf(context, 2);
  const heads = context.node.int("num_heads", 1);
  const [batch, length] = [q?.[0] ?? null, q?.[1] ?? null];
  // Packed QKV has rank 5: (b, s, heads, 3, head).
  const hidden = q?.length === 5 ? multiply(heads, q[4] ?? null) : (q?.[2] ?? null);
  const keys = k ? (k.length === 4 ? k[2] : k[1]) : length;
  const valueHidden = v ? (v.length === 4 ? multiply(v[1] ?? null, v[3] ?? null) : v[2]) : hidden;
  return [
    { dtype, shape: [batch, length, valueHidden ?? null] },
    present(context, 6, keys ?? null, [batch, heads, keys ?? null, floorDivide(hidden, heads)]),
    present(context, 7, keys ?? null, [batch, heads, keys ?? null, floorDivide(valueHidden ?? null, heads)]),
  ];
};

/** Attention whose projections are other nodes. `past` is the input with the past keys, (b, heads, past, head). */
function unpackedCost(past: number): Cost {
  return ({ inputs, outputs }) => {
    const [q, k] = inputs;
    const [batch = 0, length = 0, valueHidden = 0] = outputs[0] ?? [];
    const keys = (k ? ((k.length === 4 ? k[2] : k[1]) ?? 0) : length) + (inputs[past]?.[2] ?? 0);
    return {
      macs: attentionMacs(batch, length, keys, q?.length === 3 ? (q[2] ?? 0) : valueHidden, valueHidden),
      flops: batch * length * keys * 5,
    };
  };
}

/** Query, key and value as three matrices; packed forms, which the engine has no CPU kernel for, are not followed. */
const multiHeadAxes: Axes = (node) => {
  const [query, key, value, bias, , scores] = node.inputs.map((input) => input?.shape?.length);
  if (query !== 3 || (key !== 3 && key !== 4) || value !== key || (scores !== undefined && scores !== 4))
    return undefined;
  if (bias !== undefined && query !== key) return undefined;
  const heads = node.int("num_heads", 1);
  const keys = (width: string): string => (key === 4 ? `b h t ${width}` : `b t (h ${width})`);
  const mask = (node.inputs[4]?.shape ?? []).map(() => "_").join(" ");
  const perHead = node.inputs[5]?.shape?.[1] === 1 ? "_" : "h";
  const [q, k, v] = [node.inputs[0]?.shape?.[2], node.inputs[1]?.shape?.at(-1), node.inputs[2]?.shape?.at(-1)];
  if (bias !== undefined && (q !== k || q !== v)) return undefined;
  const past = `b h p d, b h p e`;
  return (
    `b s (h:${heads}@ d#), ${keys("d")}, ${keys("e#")}, (g:3# h d), ${mask}, _ ${perHead} _ _, ${past}` +
    ` -> b s (h e), b h u d, b h u e`
  );
};

const multiHead: OpSpec = {
  since: 1,
  infer: multiHeadInfer,
  cost: unpackedCost(6),
  axes: multiHeadAxes,
  weights: [{ input: 3, role: "bias", channelAxis: 0 }],
  grad: "lower",
  lower: lowerMultiHeadAttention,
  narrow: narrowHeads({ num_heads: 0 }),
  traits: { attention: true },
};

/**
 * query (b, s, h) with more heads than key and value (b, s, kv·head); present (b, kv, length, head), where length is that
 * of the past's buffer or the total length (input 6), whichever is more.
 */
const groupQueryInfer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const q = shapeOf(context, 0);
  const heads = context.node.int("num_heads", 1);
  const groups = context.node.int("kv_num_heads", heads);
  const packedInput = !context.inputs[1];
  const head = floorDivide(q?.[2] ?? null, packedInput ? heads + 2 * groups : heads);
  const batch = q?.[0] ?? null;
  const cache = (input: number): ValueType => ({
    dtype: dtypeOf(context, input) ?? dtype,
    shape: [batch, groups, maximum(shapeOf(context, input)?.[2] ?? 0, contentsOf(context, 6)?.[0] ?? null), head],
  });
  return [{ dtype, shape: q && [batch, q[1] ?? null, multiply(head, heads)] }, cache(3), cache(4)];
};

/** A head of keys goes with all the queries that share it, or one query of each head of keys goes. */
const groupQueryAxes: Axes = (node) => {
  if (node.inputs.length > 9) return undefined;
  const heads = node.int("num_heads", 1);
  const groups = node.int("kv_num_heads", heads);
  const query = `k:${groups}@ r:${heads / groups}@`;
  const width = node.inputs[0]?.shape?.[2];
  const head = typeof width === "number" ? width / (heads + 2 * groups) : Number.NaN;
  if (!node.inputs[1] && !Number.isInteger(head)) return undefined;
  const data = node.inputs[1] ? `b s (${query} d#), b s (k d), b s (k d)` : `b s (${query} d:${head}#)+(k d)+(k d), , `;
  const cache = "b k p d";
  const lengths = (node.inputs[5]?.shape ?? []).map(() => "_").join(" ");
  return (
    `${data}, ${cache}, ${cache}, ${lengths}, , _ _, _ _` +
    ` -> b s (k r d), ${cache.replace("p", "u")}, ${cache.replace("p", "u")}`
  );
};

/** Heads of queries by the output's width, those of keys by their own, or by what is left of all together. */
const narrowGroupQuery: Narrow = ({ node, before, after }) => {
  const heads = node.int("num_heads", 1);
  const groups = node.int("kv_num_heads", heads);
  const width = (shape: readonly Dim[] | undefined): number => Number(shape?.at(-1) ?? 0);
  const head = width(before.output(0)) / heads;
  const now = width(after.output(0)) / head;
  const left = node.inputs[1] ? width(after.input(1)) / head : (width(after.input(0)) / head - now) / 2;
  return now === heads && left === groups ? {} : { attributes: { num_heads: now, kv_num_heads: left } };
};

const groupQuery: OpSpec = {
  since: 1,
  infer: groupQueryInfer,
  cost: unpackedCost(3),
  axes: groupQueryAxes,
  grad: "lower",
  lower: lowerGroupQueryAttention,
  narrow: narrowGroupQuery,
  traits: { attention: true },
};

/** q (b, heads, s, d) or (b, s, heads·d), k and v alike, mask, past key, past value. */
const standardInfer: Infer = (context) => {
  const dtype = dtypeOf(context, 0);
  const q = shapeOf(context, 0);
  const k = shapeOf(context, 1);
  const v = shapeOf(context, 2);
  if (!q || !k || !v) return [{ dtype, shape: undefined }];
  const { node } = context;
  const past = shapeOf(context, 4)?.[2] ?? 0;
  if (q.length === 4) {
    const total = add(k[2] ?? null, past);
    return [
      { dtype, shape: [...q.slice(0, 3), v[3] ?? null] },
      { dtype: dtypeOf(context, 1), shape: [k[0] ?? null, k[1] ?? null, total, k[3] ?? null] },
      { dtype: dtypeOf(context, 2), shape: [v[0] ?? null, v[1] ?? null, total, v[3] ?? null] },
      { dtype, shape: [q[0] ?? null, q[1] ?? null, q[2] ?? null, total] },
    ];
  }
  const heads = node.int("q_num_heads", 1);
  const groups = node.int("kv_num_heads", heads);
  const total = add(k[1] ?? null, past);
  const valueHead = floorDivide(v[2] ?? null, groups);
  return [
    { dtype, shape: [q[0] ?? null, q[1] ?? null, multiply(valueHead, heads)] },
    { dtype: dtypeOf(context, 1), shape: [k[0] ?? null, groups, total, floorDivide(k[2] ?? null, groups)] },
    { dtype: dtypeOf(context, 2), shape: [v[0] ?? null, groups, total, valueHead] },
    { dtype, shape: [q[0] ?? null, heads, q[1] ?? null, total] },
  ];
};

const standardCost: Cost = ({ node, inputs, outputs }) => {
  const [q, k] = inputs;
  const past = inputs[4]?.[2] ?? 0;
  const keys = (k?.length === 4 ? (k[2] ?? 0) : (k?.[1] ?? 0)) + past;
  const heads = q?.length === 4 ? (q[1] ?? 1) : node.int("q_num_heads", 1);
  const queries = (q?.length === 4 ? q[2] : q?.[1]) ?? 0;
  return {
    macs: (count(q) + count(outputs[0])) * keys,
    flops: (q?.[0] ?? 0) * heads * queries * keys * 5,
  };
};

/** Heads of rank 4 are an axis, those of rank 3 a part of one; heads of keys and the queries that share one are axes of their own. */
const standardAxes: Axes = (node) => {
  const [q, k, v] = node.inputs.map((input) => input?.shape);
  if (!q || !k || !v || node.outputs.length > 3) return undefined;
  const flat = q.length === 3;
  const heads = flat ? node.int("q_num_heads", 1) : q[1];
  const groups = flat ? node.int("kv_num_heads", 1) : k[1];
  if (typeof heads !== "number" || typeof groups !== "number" || heads % groups !== 0) return undefined;
  const query = `h:${groups}@ r:${heads / groups}@`;
  const of = (tokens: string, length: string, width: string): string =>
    flat ? `b ${length} (${tokens} ${width})` : `b ${tokens.includes(" ") ? `(${tokens})` : tokens} ${length} ${width}`;
  const mask = (node.inputs[3]?.shape ?? []).map((dim, i, all) => (i === all.length - 3 && dim !== 1 ? "(h r)" : "_"));
  const past = "b h p d, b h p e";
  return (
    `${of(query, "s", "d#")}, ${of("h", "t", "d")}, ${of("h", "t", "e#")}, ${mask.join(" ")}, ${past}` +
    ` -> ${of(query, "s", "e")}, b h u d, b h u e`
  );
};

const standard: OpSpec = {
  since: 23,
  infer: standardInfer,
  cost: standardCost,
  axes: standardAxes,
  grad: "lower",
  lower: lowerAttention,
  narrow: narrowHeads({ q_num_heads: 0, kv_num_heads: 1 }),
  traits: { attention: true },
};

/** Word, position and segment tables summed and normalized: (b, s) ids give (b, s, h); the mask's sums are (b). */
const embedInfer: Infer = (context) => {
  const ids = shapeOf(context, 0);
  const dtype = dtypeOf(context, 2);
  const hidden = shapeOf(context, 2)?.[1] ?? null;
  const shape = ids && [...ids, hidden];
  return [
    { dtype, shape },
    { dtype: "int32", shape: [ids?.[0] ?? null] },
    { dtype, shape },
  ];
};

const embed: OpSpec = {
  since: 1,
  infer: embedInfer,
  cost: perOutput(9),
  axes: "b s, b s, _ h, _ h, _ h, h, h -> b s h, b, b s h",
  weights: [
    { input: 2, role: "table", channelAxis: 0, reductionAxis: 1 },
    { input: 3, role: "table", channelAxis: 0, reductionAxis: 1 },
    { input: 4, role: "table", channelAxis: 0, reductionAxis: 1 },
    { input: 5, role: "scale", channelAxis: 0 },
    { input: 6, role: "bias", channelAxis: 0 },
  ],
  grad: "lower",
  lower: lowerEmbedding,
  traits: { lookup: true },
};

/** Pairs within a head turn together. Without a count of heads (b, s, h·d) has those of twice the width of the table `cos`. */
function rotaryAxes(cos: number): Axes {
  return (node, [rank = 0]) => {
    const rest = ", ".repeat(node.inputs.length - 1);
    if (rank === 4) return `b h s d#${rest} -> b h s d#`;
    const [width, half] = [node.inputs[0]?.shape?.[2], node.inputs[cos]?.shape?.at(-1)];
    const heads =
      node.int("num_heads", 0) || (typeof width === "number" && typeof half === "number" ? width / (2 * half) : 0);
    return rank === 3 && heads >= 1 && Number.isInteger(heads) ? `b s (h:${heads} d#)${rest} -> b s (h d)` : undefined;
  };
}

const narrowRotary = narrowHeads({ num_heads: 0 });

function rotary(since: number, cos: number, lower: Lower): OpSpec {
  return {
    since,
    infer: sameAsInput(),
    cost: perOutput(3),
    axes: rotaryAxes(cos),
    grad: "lower",
    lower,
    narrow: (context) =>
      context.node.int("num_heads", 0) > 0 && context.before.input(0)?.length === 3 ? narrowRotary(context) : {},
  };
}

export const attention: OpTable = {
  Attention: standard,
  RotaryEmbedding: rotary(23, 1, lowerRotary),
  "com.microsoft::Attention": packed,
  "com.microsoft::MultiHeadAttention": multiHead,
  "com.microsoft::GroupQueryAttention": groupQuery,
  "com.microsoft::RotaryEmbedding": rotary(1, 2, lowerMicrosoftRotary),
  "com.microsoft::EmbedLayerNormalization": embed,
};
