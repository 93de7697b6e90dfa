/** Transformer blocks: embeddings, multi-head attention, feed-forward layers, and the encoder and decoder blocks made of them. */
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import {
  type Activation,
  activate,
  add,
  dropout,
  layerNorm,
  linear,
  type Net,
  number,
  reshape,
  transpose,
} from "./layers.ts";
import { drawWeights, type Scheme } from "./weights.ts";

/** Rows of a learned table: token numbers (…) to (…, width). */
export function embedding(
  net: Net,
  name: string,
  tokens: Value,
  rows: number,
  width: number,
  scheme: Scheme = "truncated-0.02",
): Value {
  return net.b.op("Gather", [table(net, name, rows, width, scheme), tokens], { name });
}

/** Adds a learned vector for each position: (n, length, width). */
export function positions(net: Net, name: string, x: Value, length: number, width: number): Value {
  return add(net, name, x, table(net, name, length, width));
}

function table(net: Net, name: string, rows: number, width: number, scheme: Scheme = "truncated-0.02"): Value {
  const w = drawWeights(net.rng.fork(name), [rows, width], rows, width, scheme);
  return net.b.constant(`${name}.weight`, w);
}

/** Added to the scores of positions that may not be seen: e^-10000 is 0 in every float type. */
const HIDDEN = -10_000;

/** What is added to attention scores so that position i sees 0 … i alone: (1, 1, length, length). */
export function causalMask(net: Net, length: number): Value {
  const allowed = new Uint8Array(length * length).map((_, i) => (i % length <= Math.floor(i / length) ? 1 : 0));
  const seen = net.b.constant("mask.allowed", Tensor.of("bool", [1, 1, length, length], allowed));
  return net.b.op("Where", [seen, number(net, "mask.seen", 0), number(net, "mask.hidden", HIDDEN)], { name: "mask" });
}

/** The same from a mask of real positions (n, length), 1 or 0: (n, 1, 1, length). */
export function paddingMask(net: Net, mask: Value, length: number): Value {
  const seen = net.b.op("Cast", [reshape(net, "mask.rows", mask, [-1, 1, 1, length])], {
    name: "mask.real",
    attributes: { to: 9 }, // bool
  });
  return net.b.op("Where", [seen, number(net, "mask.seen", 0), number(net, "mask.hidden", HIDDEN)], { name: "mask" });
}

export interface AttentionOptions {
  readonly width: number;
  readonly heads: number;
  /** Positions per sample. */
  readonly length: number;
  /** Added to the scores, of a shape that broadcasts to (n, heads, length, length). */
  readonly mask?: Value | undefined;
  /** Share of the attention weights dropped while training; default 0. */
  readonly drop?: number;
  /** Factor on the deviation of the projection's weights; default 1. */
  readonly gain?: number;
}

/**
 * Multi-head self-attention (Vaswani et al. 2017): softmax(QKᵀ/√d + mask)·V in each head, d = width/heads, then one
 * projection: (n, length, width) to the same.
 */
export function attention(net: Net, name: string, x: Value, options: AttentionOptions): Value {
  const { width, heads, length, mask, drop = 0, gain = 1 } = options;
  const size = width / heads;
  const split = (part: string, perm: readonly number[]): Value => {
    const projected = linear(net, `${name}.${part}`, x, width, width);
    const perHead = reshape(net, `${name}.${part}.heads`, projected, [-1, length, heads, size]);
    return transpose(net, `${name}.${part}.split`, perHead, perm);
  };
  const query = split("query", [0, 2, 1, 3]); // (n, heads, length, size)
  const key = split("key", [0, 2, 3, 1]); // (n, heads, size, length)
  const value = split("value", [0, 2, 1, 3]);
  const products = net.b.op("MatMul", [query, key], { name: `${name}.products` });
  const factor = number(net, `attention.scale.${size}`, 1 / Math.sqrt(size));
  let scores = net.b.op("Mul", [products, factor], { name: `${name}.scores` });
  if (mask) scores = add(net, `${name}.masked`, scores, mask);
  const weights = net.b.op("Softmax", [scores], { name: `${name}.weights`, attributes: { axis: -1 } });
  const mixed = net.b.op("MatMul", [dropout(net, `${name}.drop`, weights, drop), value], { name: `${name}.mixed` });
  const merged = transpose(net, `${name}.merge`, mixed, [0, 2, 1, 3]);
  const joined = reshape(net, `${name}.joined`, merged, [-1, length, width]);
  return linear(net, `${name}.output`, joined, width, width, { gain });
}

/** Two layers with a nonlinearity between them, position by position: (…, width) to the same. */
export function feedForward(
  net: Net,
  name: string,
  x: Value,
  width: number,
  inner: number,
  options: { readonly activation?: Activation; readonly gain?: number } = {},
): Value {
  const { activation = "gelu", gain = 1 } = options;
  const wide = activate(net, `${name}.${activation}`, linear(net, `${name}.1`, x, width, inner), activation);
  return linear(net, `${name}.2`, wide, inner, width, { gain });
}

export interface TransformerOptions extends AttentionOptions {
  /** Width of the feed-forward layer; default four times the width. */
  readonly inner?: number;
  /** Normalize before attention and feed-forward ("pre", GPT-2 and ViT) or after their sums ("post", BERT). */
  readonly norm: "pre" | "post";
  /** Default 1e-5. */
  readonly epsilon?: number;
  /**
   * Blocks in the network: the layers that end the branches are drawn smaller by √(2·depth), since so many branches are
   * summed (Radford et al. 2019). Default: not smaller.
   */
  readonly depth?: number;
}

/** Attention and a feed-forward layer, each beside a shortcut; a decoder block where the mask is causal. */
export function transformerBlock(net: Net, name: string, x: Value, options: TransformerOptions): Value {
  const { width, inner = 4 * width, norm, epsilon, drop = 0, depth } = options;
  const gain = depth === undefined ? 1 : 1 / Math.sqrt(2 * depth);
  const normalize = (part: string, y: Value): Value => layerNorm(net, `${name}.${part}`, y, width, epsilon);
  const sublayer = (part: string, y: Value, f: (z: Value) => Value): Value => {
    const branch = f(norm === "pre" ? normalize(`${part}.norm`, y) : y);
    const sum = add(net, `${name}.${part}.add`, y, dropout(net, `${name}.${part}.drop`, branch, drop));
    return norm === "post" ? normalize(`${part}.norm`, sum) : sum;
  };
  const attended = sublayer("attention", x, (y) => attention(net, `${name}.attention`, y, { ...options, gain }));
  return sublayer("mlp", attended, (y) => feedForward(net, `${name}.mlp`, y, width, inner, { gain }));
}

/** The vector of the first position: (n, length, width) to (n, width). */
export function firstPosition(net: Net, name: string, x: Value, width: number): Value {
  const list = (part: string, value: number): Value => net.b.constant(`${name}.${part}`, Tensor.int64([value]));
  const row = net.b.op("Slice", [x, list("start", 0), list("end", 1), list("axis", 1)], { name: `${name}.row` });
  return reshape(net, name, row, [-1, width]);
}
