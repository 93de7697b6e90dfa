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
  /** ‖ŵ − w‖ / ‖w‖. */
  readonly error: number;
}

/** What was found for layers that read the same input. */
export interface GroupSolution {
  /** What the input is divided by; undefined: nothing. */
  readonly scales?: Float32Array | undefined;
  readonly layers: readonly { readonly solved: Solved; readonly how: string }[];
}

/** A solution as bytes, to be kept. */
export function packSolution({ scales, layers }: GroupSolution): Uint8Array {
  const header = layers.map(({ how, solved: { rows, cols, group, error } }) => ({ how, rows, cols, group, error }));
  const arrays = layers.flatMap(({ solved }) => [solved.codes, bytesOf(solved.scales), solved.zeroPoints]);
  return packPart({ layers: header, scaled: scales !== undefined }, scales ? [...arrays, bytesOf(scales)] : arrays);
}

export function unpackSolution(bytes: Uint8Array): GroupSolution {
  const { header, arrays } = unpackPart(bytes);
  const { layers, scaled } = header as {
    layers: (Pick<Solved, "rows" | "cols" | "group" | "error"> & { how: string })[];
    scaled: boolean;
  };
  const floats = (array: Uint8Array | undefined): Float32Array =>
    new Float32Array((array as Uint8Array).buffer as ArrayBuffer);
  return {
    scales: scaled ? floats(arrays.at(-1)) : undefined,
    layers: layers.map(({ how, ...rest }, i) => {
      const [codes, scales, zeroPoints] = arrays.slice(3 * i) as [Uint8Array, Uint8Array, Uint8Array];
      return { how, solved: { ...rest, codes, scales: floats(scales), zeroPoints } };
    }),
  };
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
