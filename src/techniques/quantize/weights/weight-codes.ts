/** Quantizes one stored weight into codes, scales and zero points as lazy tensors, streaming through the kernels. */
import { type DType, byteLengthOf, bytesOf } from "../../../base/dtype.ts";
import type { FileRange } from "../../../base/file-range.ts";
import { type CodeBits, packCodes } from "../../../base/packed.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import { Tensor } from "../../../ir/tensor.ts";
import type { BlockQuantized, BlockSpec, ChannelSpec, ErrorSums, Kernels } from "../../../kernels/types.ts";
import { SharedParts } from "../../../transform/shared-source.ts";
import type { Bits } from "./formats.ts";
import { type RowQuantizer, computeWeight, giveBackBuffer, takeBuffer } from "../../kernel-host.ts";

export interface CodesOptions {
  readonly bits: Bits;
  readonly symmetric: boolean;
  readonly scale: "range" | "mse";
  /** Dtype of the stored scales. */
  readonly scaleType: "float32" | "float16";
  /** Elements over which rounding errors shall cancel (rows only; see `ChannelSpec`); undefined: round to nearest. */
  readonly balance?: number | undefined;
}

/** A weight in low precision: ŵ = (code − z)·s. */
export interface Codes {
  readonly codes: Tensor;
  /** Undefined: 1. */
  readonly scales: Tensor | undefined;
  /** Undefined when every zero point is the middle code, or the codes have none. */
  readonly zeroPoints: Tensor | undefined;
  /** What the codes count, where it was learned with them: ŵ = levels[code]·s. */
  readonly levels?: Tensor | undefined;
  /** Error of the weight, filled in once it has been computed. */
  readonly error: { value: number | undefined };
  /** Computes now and keeps the result in memory. */
  keep(): Promise<void>;
}

/** Bytes read and quantized at a time. */
const TILE_BYTES = 8 << 20;
/** The same where a worker reads them itself, a few at a time, and answers when it has done so many. */
const FILE_TILE_BYTES = 64 << 20;

/**
 * Block-wise along the reduction axis of a matrix: of each row when `transpose` is false, of each column when it is true
 * (a stored (k, n) matrix becomes n rows of k). `trim` drops the padding behind the last block of each row.
 */
export function blockCodes(
  kernels: Kernels,
  tensor: Tensor,
  stored: { readonly rows: number; readonly cols: number; readonly transpose: boolean },
  block: number,
  options: CodesOptions,
  layout: { readonly codesShape: readonly number[]; readonly codesType: DType; readonly trim: boolean },
): Codes {
  const rows = stored.transpose ? stored.cols : stored.rows;
  const cols = stored.transpose ? stored.rows : stored.cols;
  const blocks = Math.ceil(cols / block);
  const { symmetric } = options;
  const bits = options.bits as BlockSpec["bits"]; // packed kernels have no 3-bit blocks, and no plan asks for them
  const spec: BlockSpec = { bits, block, symmetric, scale: options.scale, scaleType: options.scaleType };
  const error: { value: number | undefined } = { value: undefined };
  const parts = new SharedParts(
    [
      { dtype: layout.codesType, shape: layout.codesShape },
      { dtype: options.scaleType, shape: [rows, blocks] },
      ...(symmetric ? [] : [{ dtype: "uint8", shape: [rows, Math.ceil((blocks * bits) / 8)] } as const]),
    ],
    async (signal) => {
      // A transposed matrix arrives in whole blocks of rows.
      const step = stored.transpose ? block : 1;
      const rowBytes = byteLengthOf(tensor.dtype, stored.cols);
      const rowsOf = (bytes: number): number => Math.max(step, Math.floor(bytes / rowBytes / step) * step);
      const file = await tensor.source.fileRange?.();
      const tileBytes = 2 * rowsOf(TILE_BYTES) * rowBytes;
      const inputBytes = file ? 0 : tensor.source.readInto ? tileBytes : tensor.byteLength;
      const resultBytes = rows * blocks * ((block * bits) / 8 + 5);
      const result = await computeWeight(kernels, tensor.byteLength, resultBytes + inputBytes, signal, (host) => {
        const quantizer = host.blockQuantizer(stored, spec);
        return file && quantizer.read
          ? readRows(tensor.dtype, file, stored.rows, rowBytes, rowsOf(FILE_TILE_BYTES), quantizer)
          : pushRows(tensor, stored.rows, rowBytes, rowsOf(TILE_BYTES), quantizer);
      });
      error.value = relativeError(result);
      const codes = layout.trim ? trimmed(result, cols) : result.codes;
      return [
        codes,
        scaleBytes(kernels, result.scales, options.scaleType),
        ...(result.zeroPoints ? [result.zeroPoints] : []),
      ];
    },
    { ahead: true },
  );
  return { ...named(parts), error, keep: () => parts.keep() };
}

/** Codes and scales of rows, as they shall be stored. */
export interface RowLayout {
  readonly codesShape: readonly number[];
  readonly codesType: DType;
  /** Undefined: one scale of 1, which is not stored. */
  readonly scalesShape: readonly number[] | undefined;
  /** Stored (rows, cols) of a matrix that is transposed first. */
  readonly transpose: readonly [number, number] | undefined;
}

/** Integer codes with one scale per row of a (rows, cols) matrix, any number of columns; codes are packed without padding. */
export function rowCodes(
  kernels: Kernels,
  tensor: Tensor,
  rows: number,
  options: CodesOptions,
  layout: RowLayout,
): Codes {
  const { bits, symmetric } = options;
  const scalesShape = layout.scalesShape ?? [];
  const spec: ChannelSpec = {
    low: 0,
    high: 2 ** bits - 1,
    symmetric,
    scale: options.scale,
    scaleType: options.scaleType,
    balance: options.balance,
  };
  const error: { value: number | undefined } = { value: undefined };
  const parts = new SharedParts(
    [
      { dtype: layout.codesType, shape: layout.codesShape },
      { dtype: options.scaleType, shape: scalesShape },
      ...(symmetric ? [] : [{ dtype: "uint8", shape: scalesShape } as const]),
    ],
    async (signal) => {
      const memoryBytes = tensor.elements * 4 * (layout.transpose ? 2 : 1) + tensor.elements;
      const result = await computeWeight(kernels, tensor.byteLength, memoryBytes, signal, async (host) => {
        const own = await ownFloats(tensor);
        const weights = layout.transpose ? await host.transpose(own, ...layout.transpose) : own;
        return host.quantizeChannels(weights, { outer: 1, channels: rows, inner: tensor.elements / rows }, spec);
      });
      error.value = relativeError(result);
      const codes = packCodes(bytesOf(result.codes), bits as CodeBits);
      const zeroPoints = symmetric ? [] : [Uint8Array.from(result.zeroPoints)];
      return [codes, scaleBytes(kernels, result.scales, options.scaleType), ...zeroPoints];
    },
    { ahead: true },
  );
  return { ...named(parts), error, keep: () => parts.keep() };
}

function named(parts: SharedParts): Pick<Codes, "codes" | "scales" | "zeroPoints"> {
  const [codes, scales, zeroPoints] = parts.tensors as [Tensor, Tensor, Tensor | undefined];
  return { codes, scales, zeroPoints };
}

/** Has a matrix in a file read and quantized by the thread of the quantizer. */
async function readRows(
  dtype: DType,
  file: FileRange,
  rows: number,
  rowBytes: number,
  tileRows: number,
  quantizer: RowQuantizer,
): Promise<BlockQuantized> {
  try {
    for (let row = 0; row < rows; row += tileRows) {
      const count = Math.min(tileRows, rows - row);
      const range = { ...file, offset: file.offset + row * rowBytes, byteLength: count * rowBytes };
      await quantizer.read?.(dtype, count, range);
    }
    return await quantizer.finish();
  } finally {
    quantizer.close();
  }
}

/** Streams a matrix through a quantizer; the next tile is read while one is quantized, in two buffers that take turns. */
async function pushRows(
  tensor: Tensor,
  rows: number,
  rowBytes: number,
  tileRows: number,
  quantizer: RowQuantizer,
): Promise<BlockQuantized> {
  // A computed tensor is read once: a part of it costs as much as all of it
  const whole = tensor.source.readInto ? undefined : await tensor.bytes();
  const read = async (row: number, buffer: ArrayBuffer | undefined): Promise<Uint8Array> => {
    if (row >= rows) return new Uint8Array(buffer ?? new ArrayBuffer(0), 0, 0);
    const length = Math.min(tileRows, rows - row) * rowBytes;
    const tile = new Uint8Array(buffer ?? takeBuffer(Math.min(tileRows, rows) * rowBytes), 0, length);
    if (whole) tile.set(whole.subarray(row * rowBytes, row * rowBytes + length));
    else await tensor.source.readInto?.(tile, row * rowBytes);
    return tile;
  };
  let next = read(0, undefined);
  let spare: ArrayBuffer | undefined;
  try {
    for (let row = 0; row < rows; row += tileRows) {
      const tile = await next;
      next = read(row + tileRows, spare);
      spare = (await quantizer.push(tensor.dtype, tile)).buffer as ArrayBuffer;
    }
    return await quantizer.finish();
  } finally {
    quantizer.close();
    // Its buffer is in use until then
    const last = await next.catch(() => undefined);
    for (const buffer of new Set([spare, last?.buffer as ArrayBuffer | undefined])) giveBackBuffer(buffer);
  }
}

/** The elements in an array that may be given away. */
export async function ownFloats(tensor: Tensor): Promise<Float32Array> {
  if (tensor.dtype !== "float32") return toFloat32(tensor.dtype, await tensor.bytes());
  const floats = new Float32Array(tensor.elements);
  if (tensor.source.readInto) await tensor.source.readInto(new Uint8Array(floats.buffer), 0);
  else floats.set(toFloat32("float32", await tensor.bytes()));
  return floats;
}

/** ‖ŵ − w‖ / ‖w‖. */
export function relativeError(sums: Pick<ErrorSums, "squaredError" | "squaredNorm">): number {
  return sums.squaredNorm > 0 ? Math.sqrt(sums.squaredError / sums.squaredNorm) : 0;
}

export function scaleBytes(kernels: Kernels, scales: Float32Array, type: "float32" | "float16"): Uint8Array {
  return bytesOf(type === "float16" ? kernels.toFloat16(scales, true).bits : scales);
}

/** Codes without the padding behind each row: (rows, cols·bits/8). */
function trimmed(result: BlockQuantized, cols: number): Uint8Array {
  const rowBytes = result.codes.length / result.rows;
  const keptBytes = (cols * result.bits) / 8;
  if (rowBytes === keptBytes) return result.codes;
  const codes = new Uint8Array(result.rows * keptBytes);
  for (let row = 0; row < result.rows; row++)
    codes.set(result.codes.subarray(row * rowBytes, row * rowBytes + keptBytes), row * keptBytes);
  return codes;
}
