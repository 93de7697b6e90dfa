/** TensorProto: its dtype, dims and elements, whichever of its many data fields holds them. */
import { type DType, byteLengthOf, dtypeBits, dtypeFromCode } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import type { ByteSource, ExternalResolver } from "./byte-source.ts";
import { clearExternal, externalPayload, isExternal } from "./external.ts";
import type { TensorProto } from "./gen/onnx_pb.js";
import { MAX_RANK, MAX_TENSOR_BYTES } from "./limits.ts";
import { type Payload, payloadOf, rangePayload, residentPayload, setPayload, varintPayload } from "./payload.ts";
import type { PayloadRange } from "./scan.ts";
import { REFERENCE_FIELD } from "./wire.ts";

/** A tensor as the IR takes it. */
export interface UnpackedTensor {
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly payload: Payload;
  /** Elements of a string tensor; its payload is empty. */
  readonly strings?: readonly Uint8Array[];
}

/** Field numbers of TensorProto. */
const FLOAT_DATA = 4;
const INT32_DATA = 5;
const INT64_DATA = 7;
const RAW_DATA = 9;
const DOUBLE_DATA = 10;
const UINT64_DATA = 11;

/** The field that typed elements of a dtype come in. */
function typedFieldOf(dtype: DType): number {
  switch (dtype) {
    case "float32":
    case "complex64":
      return FLOAT_DATA;
    case "float64":
    case "complex128":
      return DOUBLE_DATA;
    case "int64":
      return INT64_DATA;
    case "uint32":
    case "uint64":
      return UINT64_DATA;
    default:
      return INT32_DATA;
  }
}

/** Bytes of one element in memory as typed fields hold them: packed types come a byte at a time. */
function elementWidth(dtype: DType): number {
  return Math.max(1, dtypeBits(dtype) / 8);
}

/**
 * Ties to a message the payloads that were left in the file or lie in another one, so that the message stands for the whole
 * tensor again. Throws `bad-model` where sizes do not fit.
 */
export function tiePayload(
  tensor: TensorProto,
  source: ByteSource,
  ranges: readonly PayloadRange[],
  resolve: ExternalResolver,
): void {
  if (isExternal(tensor)) {
    const { dtype, byteLength } = typeOf(tensor);
    if (dtype === "string")
      throw new PareError("bad-model", "Strings cannot be external data", { where: where(tensor) });
    setPayload(tensor, externalPayload(tensor, byteLength, resolve));
    clearExternal(tensor);
  }
  const references = tensor.$unknown?.filter(({ no }) => no === REFERENCE_FIELD) ?? [];
  if (references.length === 0) return;
  const kept = tensor.$unknown?.filter(({ no }) => no !== REFERENCE_FIELD) ?? [];
  if (kept.length > 0) tensor.$unknown = kept;
  else delete tensor.$unknown;
  const parts = references.map(({ data }) => ranges[decodeIndex(data)] as PayloadRange);
  const last = parts.at(-1) as PayloadRange;
  const inline = typedCount(tensor) > 0 || (parts.length > 1 && parts.some((part) => part.field !== RAW_DATA));
  if (inline) throw new PareError("bad-model", "A tensor's data comes in several pieces", { where: where(tensor) });
  setPayload(tensor, payloadOfRange(tensor, rangePayload(source, last.offset, last.length), last.field));
}

function decodeIndex(data: Uint8Array): number {
  let value = 0;
  for (let i = data.length - 1; i >= 0; i--) value = value * 0x80 + ((data[i] as number) & 0x7f);
  return value;
}

function payloadOfRange(tensor: TensorProto, range: Payload, field: number): Payload {
  const { dtype, byteLength } = typeOf(tensor);
  if (dtype === "string" || (field !== RAW_DATA && field !== typedFieldOf(dtype)))
    throw new PareError("bad-model", `Data of a ${dtype} tensor in a field of another type`, { where: where(tensor) });
  if (field === INT32_DATA || field === INT64_DATA || field === UINT64_DATA)
    return varintPayload(range, elementWidth(dtype), byteLength, where(tensor));
  if (range.byteLength !== byteLength) wrongSize(tensor, dtype, range.byteLength, byteLength);
  return range;
}

/** The tensor as dtype, dims and packed bytes. Throws `bad-model` where these do not fit each other. */
export function unpackTensor(tensor: TensorProto): UnpackedTensor {
  const { dtype, dims, byteLength, elements } = typeOf(tensor);
  if (dtype === "string") {
    if (tensor.stringData.length !== elements) wrongSize(tensor, dtype, tensor.stringData.length, elements, "strings");
    return { dtype, dims, payload: residentPayload(new Uint8Array(0)), strings: tensor.stringData };
  }
  const tied = payloadOf(tensor);
  if (tied) return { dtype, dims, payload: tied };
  const bytes = tensor.rawData.byteLength > 0 ? tensor.rawData : packTyped(tensor, dtype, byteLength);
  if (bytes.byteLength !== byteLength) wrongSize(tensor, dtype, bytes.byteLength, byteLength);
  return { dtype, dims, payload: residentPayload(bytes) };
}

/** Typed elements that lie in the message, as packed little-endian bytes. */
function packTyped(tensor: TensorProto, dtype: DType, byteLength: number): Uint8Array {
  const field = typedFieldOf(dtype);
  const data: readonly (number | bigint)[] =
    field === FLOAT_DATA
      ? tensor.floatData
      : field === DOUBLE_DATA
        ? tensor.doubleData
        : field === INT64_DATA
          ? tensor.int64Data
          : field === UINT64_DATA
            ? tensor.uint64Data
            : tensor.int32Data;
  if (typedCount(tensor) !== data.length)
    throw new PareError("bad-model", `Data of a ${dtype} tensor in a field of another type`, { where: where(tensor) });
  const width = field === FLOAT_DATA ? 4 : field === DOUBLE_DATA ? 8 : elementWidth(dtype);
  if (data.length * width !== byteLength) wrongSize(tensor, dtype, data.length * width, byteLength);
  const bytes = new Uint8Array(byteLength);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of data.entries()) {
    const at = i * width;
    if (typeof value === "bigint") {
      if (width === 8) view.setBigUint64(at, BigInt.asUintN(64, value), true);
      else view.setUint32(at, Number(BigInt.asUintN(32, value)), true);
    } else if (field === FLOAT_DATA) view.setFloat32(at, value, true);
    else if (field === DOUBLE_DATA) view.setFloat64(at, value, true);
    else if (width === 1) bytes[at] = value;
    else if (width === 2) view.setUint16(at, value & 0xffff, true);
    else view.setInt32(at, value, true);
  }
  return bytes;
}

function typedCount(tensor: TensorProto): number {
  return (
    tensor.floatData.length +
    tensor.doubleData.length +
    tensor.int32Data.length +
    tensor.int64Data.length +
    tensor.uint64Data.length
  );
}

function typeOf(tensor: TensorProto): { dtype: DType; dims: number[]; elements: number; byteLength: number } {
  const dtype = dtypeFromCode(tensor.dataType);
  if (dtype === undefined)
    throw new PareError("unsupported", "An element type that pare does not know", {
      where: where(tensor),
      found: `TensorProto.DataType ${tensor.dataType}`,
    });
  if (dtype === "undefined")
    throw new PareError("bad-model", "A tensor without element type", { where: where(tensor) });
  if (tensor.dims.length > MAX_RANK)
    throw new PareError("bad-model", "A tensor with too many dimensions", {
      where: where(tensor),
      found: String(tensor.dims.length),
      expected: `at most ${MAX_RANK}`,
    });
  const dims = tensor.dims.map(Number);
  const empty = dims.includes(0);
  let elements = empty ? 0 : 1;
  for (const dim of dims) {
    if (!empty) elements *= dim;
    if (dim < 0 || dim > MAX_TENSOR_BYTES || elements * 16 > MAX_TENSOR_BYTES)
      throw new PareError("bad-model", "A tensor with impossible dimensions", {
        where: where(tensor),
        found: `[${tensor.dims.join(", ")}]`,
        expected: "non-negative sizes with a product below 2^49",
      });
  }
  return { dtype, dims, elements, byteLength: byteLengthOf(dtype, elements) };
}

function wrongSize(tensor: TensorProto, dtype: DType, found: number, expected: number, unit = "bytes"): never {
  throw new PareError("bad-model", `A ${dtype} tensor of [${tensor.dims.join(", ")}] has the wrong size`, {
    where: where(tensor),
    found: `${found} ${unit}`,
    expected: `${expected} ${unit}`,
  });
}

function where(tensor: TensorProto): string {
  return `tensor '${tensor.name}'`;
}
