/** Codes that a solver has chosen, in the layouts in which a model stores them. */
import { type DType, bytesOf } from "../../../base/dtype.ts";
import { type CodeBits, packBits, packCodes } from "../../../base/packed.ts";
import { Tensor } from "../../../ir/tensor.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { packPart, unpackPart } from "../../finished.ts";
import { type Codes, type CodesOptions, type RowLayout, scaleBytes } from "./weight-codes.ts";

/** A weight in low precision, output by output. */
export interface Solved {
  readonly rows: number;
  readonly cols: number;
  /** Inputs that share a scale. */
  readonly group: number;
  readonly codes: Uint8Array; // (rows, cols)
  readonly scales: Float32Array; // (rows, ⌈cols/group⌉)
  readonly zeroPoints: Uint8Array; // (rows, ⌈cols/group⌉)
  /** ‖ŵ − w‖ / ‖w‖, with what the factors give back. */
  readonly error: number;
  /** A·B, added to the codes' numbers: what they lack, as far as a matrix of low rank holds it. */
  readonly factors?: StoredFactors | undefined;
}

/** Thin factors in half precision. */
export interface StoredFactors {
  readonly rank: number;
  readonly a: Uint16Array; // (cols, rank)
  readonly b: Uint16Array; // (rank, rows)
}

/** What was found for layers that read the same input. */
export interface GroupSolution {
  /** What the input is divided by; undefined: nothing. */
  readonly scales?: Float32Array | undefined;
  readonly layers: readonly { readonly solved: Solved; readonly how: string }[];
}

/** A solution as bytes, to be kept. */
export function packSolution({ scales, layers }: GroupSolution): Uint8Array {
  const header = layers.map(({ how, solved: { rows, cols, group, error, factors } }) => ({
    how,
    rows,
    cols,
    group,
    error,
    rank: factors?.rank,
  }));
  const arrays = layers.flatMap(({ solved: { codes, scales: own, zeroPoints, factors } }) => [
    codes,
    bytesOf(own),
    zeroPoints,
    ...(factors ? [bytesOf(factors.a), bytesOf(factors.b)] : []),
  ]);
  return packPart({ layers: header, scaled: scales !== undefined }, scales ? [...arrays, bytesOf(scales)] : arrays);
}

export function unpackSolution(bytes: Uint8Array): GroupSolution {
  const { header, arrays } = unpackPart(bytes);
  const { layers, scaled } = header as {
    layers: (Pick<Solved, "rows" | "cols" | "group" | "error"> & { how: string; rank?: number })[];
    scaled: boolean;
  };
  let at = 0;
  const next = (): Uint8Array => arrays[at++] as Uint8Array;
  const floats = (array: Uint8Array): Float32Array => new Float32Array(array.buffer as ArrayBuffer);
  const halves = (array: Uint8Array): Uint16Array => new Uint16Array(array.buffer as ArrayBuffer);
  const solved = layers.map(({ how, rank, ...rest }) => {
    const [codes, scales, zeroPoints] = [next(), floats(next()), next()];
    const factors = rank === undefined ? undefined : { rank, a: halves(next()), b: halves(next()) };
    return { how, solved: { ...rest, codes, scales, zeroPoints, factors } };
  });
  return { scales: scaled ? floats(next()) : undefined, layers: solved };
}

/** Packed blocks, every row padded with the zero point to whole blocks: as `MatMulNBits` wants them. */
export function solvedBlocks(
  kernels: Kernels,
  solved: Solved,
  options: CodesOptions,
  layout: { readonly codesShape: readonly number[]; readonly codesType: DType },
): Codes {
  const { rows, cols, group } = solved;
  const bits = options.bits as 2 | 4 | 8; // what packed kernels have
  const blocks = Math.ceil(cols / group);
  const padded = new Uint8Array(rows * blocks * group);
  for (let row = 0; row < rows; row++) {
    const at = row * blocks * group;
    padded.set(solved.codes.subarray(row * cols, (row + 1) * cols), at);
    padded.fill(solved.zeroPoints[(row + 1) * blocks - 1] ?? 0, at + cols, at + blocks * group);
  }
  const zeroBytes = Math.ceil((blocks * bits) / 8);
  const zeros = new Uint8Array(rows * zeroBytes);
  for (let row = 0; row < rows; row++) {
    const own = solved.zeroPoints.subarray(row * blocks, (row + 1) * blocks);
    zeros.set(bits === 8 ? own : packBits(own, bits), row * zeroBytes);
  }
  return {
    ...shared(kernels, solved, options, [rows, blocks]),
    codes: Tensor.of(layout.codesType, layout.codesShape, packCodes(padded, bits)),
    zeroPoints: options.symmetric ? undefined : Tensor.of("uint8", [rows, zeroBytes], zeros),
  };
}

/** One scale per group, codes packed without padding. */
export function solvedRows(kernels: Kernels, solved: Solved, options: CodesOptions, layout: RowLayout): Codes {
  const scalesShape = layout.scalesShape ?? [];
  return {
    ...shared(kernels, solved, options, scalesShape),
    codes: Tensor.of(layout.codesType, layout.codesShape, packCodes(solved.codes, options.bits as CodeBits)),
    zeroPoints: options.symmetric ? undefined : Tensor.of("uint8", scalesShape, solved.zeroPoints),
  };
}

function shared(
  kernels: Kernels,
  { scales, error }: Solved,
  { scaleType }: CodesOptions,
  shape: readonly number[],
): Pick<Codes, "scales" | "error" | "keep"> {
  return {
    scales: Tensor.of(scaleType, shape, scaleBytes(kernels, scales, scaleType)),
    error: { value: error },
    keep: async () => undefined,
  };
}
