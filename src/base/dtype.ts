/** Element types: ONNX's codes, widths in bits, and the typed array that holds each in memory. */
import { PareError } from "./error.ts";

/** One row per ONNX element type: its code in `TensorProto.DataType` and its width in bits (0: variable). */
const TABLE = {
  undefined: { code: 0, bits: 0 },
  float32: { code: 1, bits: 32 },
  uint8: { code: 2, bits: 8 },
  int8: { code: 3, bits: 8 },
  uint16: { code: 4, bits: 16 },
  int16: { code: 5, bits: 16 },
  int32: { code: 6, bits: 32 },
  int64: { code: 7, bits: 64 },
  string: { code: 8, bits: 0 },
  bool: { code: 9, bits: 8 },
  float16: { code: 10, bits: 16 },
  float64: { code: 11, bits: 64 },
  uint32: { code: 12, bits: 32 },
  uint64: { code: 13, bits: 64 },
  complex64: { code: 14, bits: 64 },
  complex128: { code: 15, bits: 128 },
  bfloat16: { code: 16, bits: 16 },
  float8e4m3fn: { code: 17, bits: 8 },
  float8e4m3fnuz: { code: 18, bits: 8 },
  float8e5m2: { code: 19, bits: 8 },
  float8e5m2fnuz: { code: 20, bits: 8 },
  uint4: { code: 21, bits: 4 },
  int4: { code: 22, bits: 4 },
  float4e2m1: { code: 23, bits: 4 },
  float8e8m0: { code: 24, bits: 8 },
  uint2: { code: 25, bits: 2 },
  int2: { code: 26, bits: 2 },
} as const;

/** The name of an ONNX element type. */
export type DType = keyof typeof TABLE;

export const DTYPES: readonly DType[] = Object.keys(TABLE) as DType[];
const BY_CODE = new Map<number, DType>(DTYPES.map((dtype) => [TABLE[dtype].code, dtype]));

/** ONNX's code (`TensorProto.DataType`) of an element type. */
export function dtypeCode(dtype: DType): number {
  return TABLE[dtype].code;
}

/** The element type with ONNX code `code`, or undefined for a code that pare does not know. */
export function dtypeFromCode(code: number): DType | undefined {
  return BY_CODE.get(code);
}

/** Width of one element in bits; 0 for strings and `undefined`. */
export function dtypeBits(dtype: DType): number {
  return TABLE[dtype].bits;
}

/** Bytes of `count` packed elements, the last byte padded (ONNX packs 2- and 4-bit types across the whole tensor). */
export function byteLengthOf(dtype: DType, count: number): number {
  return Math.ceil((count * TABLE[dtype].bits) / 8);
}

export function isFloat(dtype: DType): boolean {
  return dtype.startsWith("float") || dtype === "bfloat16";
}

export function isInteger(dtype: DType): boolean {
  return dtype.startsWith("int") || dtype.startsWith("uint");
}

/** Memory of a tensor in JavaScript. Packed, 8-bit-float and bool types are bytes; half floats are their 16-bit patterns. */
export type TypedData =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

type TypedDataConstructor = {
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): TypedData;
  readonly BYTES_PER_ELEMENT: number;
};

/** The array type whose elements are this dtype's (bit patterns for half floats, bytes for anything of 8 bits or fewer). */
export function arrayTypeOf(dtype: DType): TypedDataConstructor {
  switch (dtype) {
    case "float32":
    case "complex64":
      return Float32Array;
    case "float64":
    case "complex128":
      return Float64Array;
    case "int8":
      return Int8Array;
    case "int16":
      return Int16Array;
    case "uint16":
    case "float16":
    case "bfloat16":
      return Uint16Array;
    case "int32":
      return Int32Array;
    case "uint32":
      return Uint32Array;
    case "int64":
      return BigInt64Array;
    case "uint64":
      return BigUint64Array;
    case "string":
    case "undefined":
      throw new PareError("internal", `A ${dtype} tensor has no typed array`);
    default:
      return Uint8Array;
  }
}

/** Views little-endian bytes as the dtype's array type; copies only when the bytes are not aligned. */
export function viewAs(dtype: DType, bytes: Uint8Array): TypedData {
  const Type = arrayTypeOf(dtype);
  const length = Math.floor(bytes.byteLength / Type.BYTES_PER_ELEMENT);
  const aligned = bytes.byteOffset % Type.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  return new Type(aligned.buffer, aligned.byteOffset, length);
}

/** The bytes under a typed array, not copied. */
export function bytesOf(data: TypedData): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
