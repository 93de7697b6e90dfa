/** Gradient cases of attention layers, against their lowered form in double precision. */
import { float } from "../../../src/ir/attribute.ts";
import type { OpOptions } from "../../../src/ir/builder.ts";
import type { Value } from "../../../src/ir/graph.ts";
import { Tensor } from "../../../src/ir/tensor.ts";
import type { Argument, GradientCase } from "../gradient-check.ts";
import { lowered } from "./recurrent.ts";

/** A layer whose inputs are arguments, missing (null) or constants. */
function layer(
  op: string,
  name: string,
  inputs: readonly (Argument | Tensor | null)[],
  options: OpOptions = {},
  opset = 21,
): GradientCase {
  const build: GradientCase["build"] = (b, values) => {
    const rest = [...values];
    const all = inputs.map((input) => {
      if (input === null) return undefined;
      return input instanceof Tensor ? b.constant("constant", input) : rest.shift();
    });
    return b.ops(op, all, options)[0] as Value;
  };
  const floats = inputs.flatMap((input) => (input === null || input instanceof Tensor ? [] : [input]));
  return { name: `${op} ${name}`, opset, inputs: floats, build, exact: lowered(build, op, opset) };
}

const of = (...shape: number[]): Argument => ({ shape });
const int32 = (shape: readonly number[], values: readonly number[]): Tensor =>
  Tensor.of("int32", shape, Int32Array.from(values));
const ms = (attributes: OpOptions["attributes"] = {}): OpOptions => ({ domain: "com.microsoft", attributes });
/** Angles are constants of float32 in both precisions' graphs: they are asked for as inputs instead. */
const angles = (rows: number, half: number): Argument[] => [of(rows, half), of(rows, half)];

export const ATTENTION_CASES: readonly GradientCase[] = [
  layer("Attention", "packed, causal", [of(2, 3, 4), of(4, 12), of(12)], ms({ num_heads: 2, unidirectional: 1 })),
  layer(
    "Attention",
    "packed, with lengths and a past",
    [of(2, 2, 4), of(4, 12), of(12), int32([2], [4, 3]), of(2, 2, 2, 2, 2)],
    { ...ms({ num_heads: 2 }), outputs: 2 },
  ),
  layer(
    "MultiHeadAttention",
    "with a bias, a mask and a bias of scores",
    [of(2, 2, 4), of(2, 3, 4), of(2, 3, 4), of(12), int32([2, 3], [1, 1, 0, 1, 0, 1]), of(1, 2, 2, 3)],
    ms({ num_heads: 2, scale: float(0.4) }),
  ),
  layer(
    "GroupQueryAttention",
    "rotated, with a soft cap",
    [of(1, 3, 64), of(1, 3, 32), of(1, 3, 32), null, null, int32([1, 1], [2]), int32([1], [3]), ...angles(4, 8)],
    ms({ num_heads: 4, kv_num_heads: 2, do_rotary: 1, softcap: float(0.8) }),
  ),
  layer(
    "GroupQueryAttention",
    "with pasts of different lengths, rotated",
    [
      of(2, 1, 64),
      of(2, 1, 32),
      of(2, 1, 32),
      of(2, 2, 3, 16),
      of(2, 2, 3, 16),
      int32([2, 1], [3, 1]),
      int32([1], [4]),
      ...angles(5, 8),
    ],
    { ...ms({ num_heads: 4, kv_num_heads: 2, do_rotary: 1 }), outputs: 3 },
  ),
  layer(
    "Attention",
    "standard, shared keys, causal, with a soft cap",
    [of(1, 4, 3, 2), of(1, 2, 3, 2), of(1, 2, 3, 3)],
    { attributes: { is_causal: 1, softcap: float(0.9) } },
    23,
  ),
  layer(
    "Attention",
    "standard, with a mask",
    [of(2, 3, 4), of(2, 2, 4), of(2, 2, 4), of(3, 2)],
    { attributes: { q_num_heads: 2, kv_num_heads: 2 } },
    23,
  ),
  layer(
    "RotaryEmbedding",
    "in pairs",
    [of(2, 3, 8), Tensor.int64([0, 1, 2, 1, 2, 3], [2, 3]), ...angles(4, 2)],
    ms({ num_heads: 2, interleaved: 1 }),
  ),
  layer(
    "RotaryEmbedding",
    "standard, a part of each head",
    [of(1, 2, 3, 6), ...angles(4, 2), Tensor.int64([0, 2, 3], [1, 3])],
    { attributes: { rotary_embedding_dim: 4 } },
    23,
  ),
  layer(
    "EmbedLayerNormalization",
    "three tables",
    [int32([2, 3], [0, 1, 4, 2, 3, 1]), int32([2, 3], [0, 1, 1, 0, 0, 1]), of(5, 4), of(4, 4), of(2, 4), of(4), of(4)],
    { ...ms({ epsilon: float(0.01) }), outputs: 2 },
  ),
];
