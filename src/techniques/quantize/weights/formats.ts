/** The number formats of weights, by the names that options use: bits, levels, and the form that fits each by default. */
import type { DType } from "../../../base/dtype.ts";
import { type SmallFloat, smallFloatTable } from "../../../base/float8.ts";

/** `float` leaves a weight as it is. */
export const WEIGHT_FORMATS = [
  "float",
  "fp16",
  "bf16",
  "fp8-e4m3",
  "fp8-e5m2",
  "int16",
  "int8",
  "int6",
  "int5",
  "int4",
  "int3",
  "int2",
  "ternary",
  "binary",
  "nf4",
  "fp4",
  "pot4",
  "pot3",
  "apot6",
  "apot5",
  "apot4",
  "codebook256",
  "codebook16",
  "codebook4",
] as const;

export type WeightFormat = (typeof WEIGHT_FORMATS)[number];

/** Bits of a stored code. */
export type Bits = 1 | 2 | 3 | 4 | 5 | 6 | 8 | 16;

/** Weights that share a scale: so many along the summed axis, an output channel, or all. */
export type Granularity = number | "channel" | "tensor";

export type NumberFormat = { readonly name: WeightFormat; readonly bits: Bits; readonly block: Granularity } & (
  | /** ŵ = (code − z)·s. */
  { readonly kind: "int" }
  /** ŵ = levels[code]·s. */
  | { readonly kind: "levels"; readonly levels: Levels }
  /** As levels, but learned from each weight. */
  | { readonly kind: "codebook"; readonly entries: number }
  /** The element itself in 16 bits. */
  | { readonly kind: "half"; readonly dtype: "float16" | "bfloat16" }
);

/** Levels that many weights share. */
export interface Levels {
  /** Ascending. */
  readonly values: Float32Array;
  /** Where one level ends and the next begins; default: midpoints, which belong to the lower one. */
  readonly borders?: Float32Array;
  /** Stored code of each level, where that is not its number. */
  readonly stored?: Uint8Array;
  /** Element type of ONNX whose bits the stored codes are, and its first opset. */
  readonly native?: { readonly dtype: DType; readonly opset: number };
  /** How scales are found without a search: "peak" puts the largest magnitude on the outermost level, "mean" takes the mean's. */
  readonly scale: "peak" | "mean";
}

/** Weights sharing a scale where a code has few bits and the format names no other number. */
const BLOCK = 32;

/** Quantiles of the normal distribution, 0 and ±1 among them: Dettmers et al. 2023, QLoRA (arXiv 2305.14314), appendix E. */
const NORMAL_FLOAT = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];

/**
 * Terms whose sums are the magnitudes of additive powers of two, by bits beside the sign: Li et al. 2020 (arXiv 1909.13144),
 * uneven numbers of bits as in the authors' code.
 */
const ADDITIVE_TERMS: Readonly<Record<3 | 4 | 5, readonly (readonly number[])[]>> = {
  3: [[-1, -2, -4], [-3]],
  4: [
    [-1, -3, -5],
    [-2, -4, -6],
  ],
  5: [[-1, -3, -6], [-2, -4, -7], [-5]],
};

const FORMATS: ReadonlyMap<WeightFormat, NumberFormat> = new Map(
  [
    half("fp16", "float16"),
    half("bf16", "bfloat16"),
    float8("fp8-e4m3", "float8e4m3fn"),
    float8("fp8-e5m2", "float8e5m2"),
    int(16, "channel"),
    ...([8, 6, 5, 4, 3, 2] as const).map((bits) => int(bits, BLOCK)),
    levels("ternary", 2, [-1, 0, 1], "channel", "mean"),
    levels("binary", 1, [-1, 1], "channel", "mean"),
    levels("nf4", 4, NORMAL_FLOAT),
    levels("fp4", 4, smallFloatTable("float4e2m1")),
    levels("pot4", 4, powers(4)),
    levels("pot3", 3, powers(3)),
    levels("apot6", 6, sums(5)),
    levels("apot5", 5, sums(4)),
    levels("apot4", 4, sums(3)),
    codebook(8),
    codebook(4),
    codebook(2),
  ].map((format) => [format.name, format]),
);

/** What a name other than `float` means. */
export function formatNamed(name: Exclude<WeightFormat, "float">): NumberFormat {
  return FORMATS.get(name) as NumberFormat;
}

function int(bits: 16 | 8 | 6 | 5 | 4 | 3 | 2, block: Granularity): NumberFormat {
  return { name: `int${bits}`, kind: "int", bits, block };
}

function half(name: "fp16" | "bf16", dtype: "float16" | "bfloat16"): NumberFormat {
  return { name, kind: "half", bits: 16, block: "tensor", dtype };
}

function levels(
  name: WeightFormat,
  bits: Bits,
  values: Iterable<number>,
  block: Granularity = BLOCK,
  scale: Levels["scale"] = "peak",
): NumberFormat {
  return { name, kind: "levels", bits, block, levels: { values: ascending(values), scale } };
}

function codebook(bits: 8 | 4 | 2): NumberFormat {
  const entries = 2 ** bits;
  return { name: `codebook${entries}` as WeightFormat, kind: "codebook", bits, block: "tensor", entries };
}

/** 8-bit floats: a tie between two goes to the one with an even code, as everywhere in floating point. */
function float8(name: WeightFormat, dtype: SmallFloat): NumberFormat {
  const table = smallFloatTable(dtype);
  const values = ascending(table.filter(Number.isFinite));
  const stored = Uint8Array.from(values, (value) => table.indexOf(value));
  const borders = Float32Array.from({ length: values.length - 1 }, (_, i) => {
    const middle = ((values[i] as number) + (values[i + 1] as number)) / 2;
    return (stored[i + 1] as number) % 2 === 0 ? justBelow(middle) : middle;
  });
  const native = { dtype, opset: 19 };
  return {
    name,
    kind: "levels",
    bits: 8,
    block: "channel",
    levels: { values, borders, stored, native, scale: "peak" },
  };
}

/** The next smaller number of single precision, of one that is not 0. */
function justBelow(x: number): number {
  const words = new Int32Array(Float32Array.of(x).buffer);
  words[0] = (words[0] as number) + (x > 0 ? -1 : 1);
  return new Float32Array(words.buffer)[0] as number;
}

/** 0 and ±2^−i, i from 0 to 2^(bits−1) − 2. */
function powers(bits: number): number[] {
  return mirrored(Array.from({ length: 2 ** (bits - 1) - 1 }, (_, i) => 2 ** -i));
}

/** ± sums of one power, or none, of each term, the largest being 1. */
function sums(bits: 3 | 4 | 5): number[] {
  let magnitudes = [0];
  for (const term of ADDITIVE_TERMS[bits])
    magnitudes = magnitudes.flatMap((sum) => [sum, ...term.map((exponent) => sum + 2 ** exponent)]);
  const largest = Math.max(...magnitudes);
  return mirrored(magnitudes.map((sum) => sum / largest));
}

function mirrored(magnitudes: readonly number[]): number[] {
  return [0, ...magnitudes, ...magnitudes.map((x) => -x)];
}

/** Sorted, each once; −0 is 0. */
function ascending(values: Iterable<number>): Float32Array {
  return Float32Array.from(new Set(Array.from(values, (value) => value + 0))).sort();
}
