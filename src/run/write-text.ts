/** Token sequences that a language model writes itself: samples where the user has none. */
import { Rng } from "../base/rng.ts";
import { Builder } from "../ir/builder.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { asFloat32 } from "./arrays.ts";
import { exposeValues } from "./expose.ts";
import type { Feeds, NdArray, Session, SessionOptions } from "./session.ts";

/** What a decoder reads and writes. */
export interface Decoder {
  /** int64 or int32 tokens (batch, length). */
  readonly tokens: Value;
  /** Other inputs of that shape: ones, or positions counted up. */
  readonly masks: readonly Value[];
  readonly positions: readonly Value[];
  /** Float scores of the next token (batch, length, vocabulary). */
  readonly scores: Value;
  readonly vocabulary: number;
}

export interface WriteOptions {
  /** Sequences. */
  readonly count: number;
  /** Tokens of each. */
  readonly length: number;
  readonly seed: number;
  /** First token of every sequence; default: drawn from the vocabulary. */
  readonly start?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The model's ports as a decoder's, if it is one: tokens in, and scores for each of them out, without a cache of the past. */
export function decoderOf(model: Model): Decoder | undefined {
  const inputs = model.graph.inputs.filter((input) => !input.tensor);
  const isTokens = ({ dtype, shape }: Value): boolean =>
    (dtype === "int64" || dtype === "int32") && shape?.length === 2 && typeof shape[1] !== "number";
  if (!inputs.every(isTokens)) return undefined;
  const masks = inputs.filter(({ name }) => /mask/i.test(name));
  const positions = inputs.filter(({ name }) => /position/i.test(name));
  const [tokens, ...rest] = inputs.filter((input) => !masks.includes(input) && !positions.includes(input));
  const scores = model.graph.outputs[0];
  const vocabulary = scores?.shape?.at(-1);
  if (!tokens || rest.length > 0 || scores?.shape?.length !== 3 || typeof vocabulary !== "number") return undefined;
  return { tokens, masks, positions, scores, vocabulary };
}

/** Sequences drawn token by token from the model's own distribution (temperature 1), int64 (count, length). */
export async function writeText(
  model: Model,
  decoder: Decoder,
  { count, length, seed, start, signal }: WriteOptions,
  open: (model: Model, options: SessionOptions) => Promise<Session>,
  options: SessionOptions,
): Promise<BigInt64Array> {
  const session = await open(lastScores(model, decoder), { ...options, signal });
  try {
    const rng = new Rng(seed).fork("text");
    const sequences = new BigInt64Array(count * length);
    for (let row = 0; row < count; row++) sequences[row * length] = BigInt(start ?? rng.below(decoder.vocabulary));
    for (let at = 1; at < length; at++) {
      const feeds = tokenFeeds(decoder, sequences, { count, length, used: at });
      const { scores } = await session.run(feeds);
      const last = asFloat32(scores as NdArray);
      for (let row = 0; row < count; row++) {
        const own = last.subarray(row * decoder.vocabulary, (row + 1) * decoder.vocabulary);
        sequences[row * length + at] = BigInt(draw(own, rng));
      }
    }
    return sequences;
  } finally {
    await session.close();
  }
}

/** Feeds of the first `used` tokens of (count, length) sequences. */
export function tokenFeeds(
  decoder: Decoder,
  sequences: BigInt64Array,
  { count, length, used }: { readonly count: number; readonly length: number; readonly used: number },
): Feeds {
  const array = (value: Value, of: (row: number, i: number) => bigint): readonly [string, NdArray] => {
    const elements = Array.from({ length: count * used }, (_, i) => of(Math.floor(i / used), i % used));
    const data = value.dtype === "int32" ? Int32Array.from(elements, Number) : BigInt64Array.from(elements);
    return [value.name, { dtype: value.dtype ?? "int64", shape: [count, used], data }];
  };
  return Object.fromEntries([
    array(decoder.tokens, (row, i) => sequences[row * length + i] as bigint),
    ...decoder.masks.map((mask) => array(mask, () => 1n)),
    ...decoder.positions.map((position) => array(position, (_, i) => BigInt(i))),
  ]);
}

/** The model with the scores behind the last token as its only output. */
function lastScores(model: Model, decoder: Decoder): Model {
  const part = exposeValues(model, [decoder.scores.name]);
  const [scores] = part.graph.outputs.splice(0);
  const b = new Builder(part.graph, { prefix: "pare_last_" });
  const index = b.constant("index", Tensor.int64([-1], []));
  const last = b.op("Gather", [scores, index], { attributes: { axis: 1 } });
  [last.dtype, last.shape] = [scores?.dtype, [decoder.scores.shape?.[0] ?? null, decoder.vocabulary]];
  b.output(last, "scores");
  return part;
}

/** A token with the probability that its score means. */
function draw(scores: Float32Array, rng: Rng): number {
  const largest = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const weights = Float64Array.from(scores, (score) => Math.exp(score - largest));
  let left = rng.uniform() * weights.reduce((a, b) => a + b, 0);
  for (const [token, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return token;
  }
  return weights.length - 1;
}
