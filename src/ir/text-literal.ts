/** Numbers and tensor elements as text, exact in both directions. */
import { type DType, type TypedData, arrayTypeOf, bytesOf, viewAs } from "../base/dtype.ts";

/** Element types whose values are printed as numbers; bits of all others are printed in hexadecimal. */
const NUMBERS = new Set<DType>([
  "float32",
  "float64",
  "int8",
  "uint8",
  "int16",
  "uint16",
  "int32",
  "uint32",
  "int64",
  "uint64",
  "bool",
]);

const QUIET_NAN_32 = 0x7fc00000;
const QUIET_NAN_64 = 0x7ff8000000000000n;

/** The shortest decimal that reads back as the same float32. */
export function printFloat32(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0";
  for (let digits = 6; digits <= 9; digits++) {
    const text = String(Number(value.toPrecision(digits)));
    if (Math.fround(Number(text)) === value) return text;
  }
  return String(value);
}

export function printFloat64(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  return Object.is(value, -0) ? "-0" : String(value);
}

/** Reads what the two above print; undefined for anything else. */
export function parseFloatText(text: string): number | undefined {
  if (text === "nan") return Number.NaN;
  if (text === "inf") return Number.POSITIVE_INFINITY;
  if (text === "-inf") return Number.NEGATIVE_INFINITY;
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : undefined;
}

/** Elements as `{1, 2}` where that is exact, else as `0x…`, their bytes in file order. */
export function printElements(dtype: DType, bytes: Uint8Array): string {
  const data = NUMBERS.has(dtype) ? viewAs(dtype, bytes) : undefined;
  if (!data || hasOddNan(data, bytes)) return hex(bytes);
  const print = dtype === "float32" ? printFloat32 : dtype === "float64" ? printFloat64 : String;
  return `{${Array.from<number | bigint, string>(data, (value) => print(value as number)).join(", ")}}`;
}

/** True if a NaN has bits that the word `nan` would not give back. */
function hasOddNan(data: TypedData, bytes: Uint8Array): boolean {
  if (data instanceof Float32Array) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return data.some((value, i) => Number.isNaN(value) && view.getUint32(i * 4, true) !== QUIET_NAN_32);
  }
  if (data instanceof Float64Array) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return data.some((value, i) => Number.isNaN(value) && view.getBigUint64(i * 8, true) !== QUIET_NAN_64);
  }
  return false;
}

/** The bytes of elements written as numbers; undefined if one is no number of that type. */
export function parseElements(dtype: DType, words: readonly string[]): Uint8Array | undefined {
  if (!NUMBERS.has(dtype)) return undefined;
  const Type = arrayTypeOf(dtype);
  const data = new Type(new ArrayBuffer(words.length * Type.BYTES_PER_ELEMENT), 0, words.length);
  for (const [i, word] of words.entries()) {
    if (dtype === "float32" || dtype === "float64") {
      const value = parseFloatText(word);
      if (value === undefined) return undefined;
      data[i] = value;
      continue;
    }
    if (!/^[+-]?\d+$/.test(word)) return undefined;
    const value = BigInt(word);
    data[i] = typeof data[i] === "bigint" ? value : Number(value);
    if (BigInt(data[i] as number | bigint) !== value) return undefined;
  }
  return bytesOf(data);
}

export function hex(bytes: Uint8Array): string {
  let text = "0x";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** Reads {@link hex}; undefined for anything else. */
export function parseHex(text: string): Uint8Array | undefined {
  if (!/^0x([0-9a-f]{2})*$/i.test(text)) return undefined;
  return Uint8Array.from({ length: (text.length - 2) / 2 }, (_, i) =>
    Number.parseInt(text.slice(2 + 2 * i, 4 + 2 * i), 16),
  );
}

/** Bytes as base64, in pieces that `btoa` takes. */
export function base64(bytes: Uint8Array): string {
  const pieces: string[] = [];
  const piece = 3 * 2 ** 13;
  for (let at = 0; at < bytes.length; at += piece)
    pieces.push(btoa(String.fromCharCode(...bytes.subarray(at, at + piece))));
  return pieces.join("");
}

/** Reads base64; undefined for anything else. */
export function parseBase64(text: string): Uint8Array | undefined {
  try {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  } catch {
    return undefined;
  }
}

/** The text of bytes that are valid UTF-8; undefined for any others. */
export function textOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
