/** Arrays as they go in and out of sessions: conversions between dtypes, rows along axis 0, tensors. */
import { encodeBfloat16 } from "../base/bfloat.ts";
import { type DType, type TypedData, arrayTypeOf, byteLengthOf, bytesOf, isFloat, isInteger } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { encodeSmallFloat } from "../base/float8.ts";
import { encodeFloat16 } from "../base/half.ts";
import { packBits } from "../base/packed.ts";
import { elementCount } from "../base/shape.ts";
import { toFloat32 } from "../base/to-float32.ts";
import { Tensor } from "../ir/tensor.ts";
import type { NdArray } from "./session.ts";

/** An array of zeros (false, empty strings). */
export function zeros(dtype: DType, shape: readonly number[]): NdArray {
  const count = elementCount(shape);
  if (dtype === "string") return { dtype, shape, data: Array.from({ length: count }, () => "") };
  return { dtype, shape, data: emptyData(dtype, count) };
}

/** Memory for `count` elements, all zero. */
export function emptyData(dtype: DType, count: number): TypedData {
  const Type = arrayTypeOf(dtype);
  const bytes = byteLengthOf(dtype, count);
  return new Type(new ArrayBuffer(bytes), 0, bytes / Type.BYTES_PER_ELEMENT);
}

/** Elements of a numeric array as float32; float32 itself is not copied. */
export function asFloat32(array: NdArray): Float32Array {
  if (array.dtype === "float32") return array.data as Float32Array;
  if (array.dtype === "string") throw new PareError("unsupported", "A string array has no float32 form");
  return toFloat32(array.dtype, bytesOf(array.data as TypedData), elementCount(array.shape));
}

/** Elements as plain numbers: exact for integers up to 2^53 and for every float. */
export function asNumbers(array: NdArray): ArrayLike<number> {
  if (["float32", "float64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "bool"].includes(array.dtype))
    return array.data as Float32Array;
  if (array.dtype === "int64" || array.dtype === "uint64")
    return Float64Array.from(array.data as BigInt64Array, (value) => Number(value));
  return asFloat32(array);
}

/** True if {@link convertArray} turns `from` into `to` without changing what is meant: any float to any, any integer to a wider kind or a float. */
export function convertible(from: DType, to: DType): boolean {
  if (from === to) return true;
  const number = (dtype: DType): boolean => isFloat(dtype) || isInteger(dtype) || dtype === "bool";
  if (!number(from) || !number(to)) return false;
  return isFloat(to) || !isFloat(from);
}

/** The same elements in another dtype, rounded to nearest where it is narrower. Throws on integers that do not fit. */
export function convertArray(array: NdArray, dtype: DType): NdArray {
  if (array.dtype === dtype) return array;
  const { shape } = array;
  const values = asNumbers(array);
  const data = fromNumbers(values, dtype);
  return { dtype, shape, data };
}

function fromNumbers(values: ArrayLike<number>, dtype: DType): TypedData {
  switch (dtype) {
    case "float32":
      return Float32Array.from(values);
    case "float64":
      return Float64Array.from(values);
    case "float16":
      return Uint16Array.from(values, (value) => encodeFloat16(value));
    case "bfloat16":
      return Uint16Array.from(values, (value) => encodeBfloat16(value));
    case "float8e4m3fn":
    case "float8e4m3fnuz":
    case "float8e5m2":
    case "float8e5m2fnuz":
      return Uint8Array.from(values, (value) => encodeSmallFloat(dtype, value));
    case "float4e2m1":
      return packBits(
        Uint8Array.from(values, (value) => encodeSmallFloat(dtype, value)),
        4,
      );
    case "int4":
    case "uint4":
      return packBits(checked(values, dtype), 4);
    case "int2":
    case "uint2":
      return packBits(checked(values, dtype), 2);
    case "bool":
      return Uint8Array.from(values, (value) => (value === 0 ? 0 : 1));
    case "int64":
      return BigInt64Array.from(values as number[], (value) => BigInt(Math.trunc(value)));
    case "uint64":
      return BigUint64Array.from(values as number[], (value) => BigInt(Math.trunc(value)));
    default:
      break;
  }
  if (!isInteger(dtype)) throw new PareError("unsupported", `Cannot make a ${dtype} array from numbers`);
  const data = emptyData(dtype, values.length) as Int32Array;
  data.set(checked(values, dtype));
  return data;
}

/** The values, which must lie within the integer dtype. */
function checked(values: ArrayLike<number>, dtype: DType): ArrayLike<number> {
  const bits = Number(dtype.replace(/\D/g, ""));
  const low = dtype.startsWith("u") ? 0 : -(2 ** (bits - 1));
  const high = 2 ** (dtype.startsWith("u") ? bits : bits - 1) - 1;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (!(value >= low && value <= high))
      throw new PareError("bad-data", `A value does not fit ${dtype}`, {
        found: String(value),
        expected: `${low} to ${high}`,
      });
  }
  return values;
}

/** Rows `from` to `to` along axis 0, not copied. For dtypes of whole bytes. */
export function rowsOf(array: NdArray, from: number, to: number): NdArray {
  const [rows = 1, ...rest] = array.shape;
  const width = elementCount(rest);
  if (from < 0 || to > rows) throw new PareError("internal", "Rows out of range", { found: `${from} to ${to}` });
  const shape = [to - from, ...rest];
  const data =
    array.dtype === "string"
      ? (array.data as readonly string[]).slice(from * width, to * width)
      : (array.data as TypedData).subarray(from * width, to * width);
  return { dtype: array.dtype, shape, data };
}

/** Grows an array to `rows` rows along axis 0 by repeating its last row. */
export function padRows(array: NdArray, rows: number): NdArray {
  const [have = 0, ...rest] = array.shape;
  if (have >= rows || have === 0) return array;
  const width = elementCount(rest);
  const shape = [rows, ...rest];
  if (array.dtype === "string") {
    const data = array.data as readonly string[];
    const last = data.slice((have - 1) * width);
    return { dtype: array.dtype, shape, data: [...data, ...Array.from({ length: rows - have }, () => last).flat()] };
  }
  const source = array.data as Float32Array; // one of the typed arrays: they copy alike
  const data = emptyData(array.dtype, rows * width) as Float32Array;
  data.set(source);
  for (let row = have; row < rows; row++) data.copyWithin(row * width, (have - 1) * width, have * width);
  return { dtype: array.dtype, shape, data };
}

/** Joins arrays along axis 0. */
export function joinRows(parts: readonly NdArray[]): NdArray {
  const [first] = parts;
  if (!first) throw new PareError("internal", "Nothing to join");
  if (parts.length === 1) return first;
  const rows = parts.reduce((sum, part) => sum + (part.shape[0] ?? 1), 0);
  const shape = [rows, ...first.shape.slice(1)];
  if (first.dtype === "string")
    return { dtype: "string", shape, data: parts.flatMap((part) => part.data as readonly string[]) };
  const data = emptyData(first.dtype, elementCount(shape)) as Float32Array;
  let at = 0;
  for (const part of parts) {
    data.set(part.data as Float32Array, at);
    at += part.data.length;
  }
  return { dtype: first.dtype, shape, data };
}

/** A tensor over an array's memory. */
export function tensorOf(array: NdArray): Tensor {
  if (array.dtype !== "string") return Tensor.of(array.dtype, array.shape, array.data as TypedData);
  const encoder = new TextEncoder();
  const strings = (array.data as readonly string[]).map((text) => encoder.encode(text));
  const byteLength = strings.reduce((sum, text) => sum + text.byteLength, 0);
  return new Tensor("string", array.shape, { byteLength, read: () => Promise.resolve(new Uint8Array()) }, strings);
}

/** A tensor's elements as an array. */
export async function arrayOf(tensor: Tensor): Promise<NdArray> {
  const { dtype, shape } = tensor;
  if (tensor.strings) {
    const decoder = new TextDecoder();
    return { dtype, shape, data: tensor.strings.map((text) => decoder.decode(text)) };
  }
  return { dtype, shape, data: await tensor.data() };
}
