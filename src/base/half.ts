/** Half precision (IEEE 754 binary16): numbers and arrays to and from 16-bit patterns. */
import { FLOAT16, decodeMinifloat, encodeMinifloat, largestFinite } from "./minifloat.ts";

/** 65504. */
export const FLOAT16_MAX: number = largestFinite(FLOAT16);

/** Pattern of the half nearest to x (half to even); beyond ±65504 (from 65520 on) it is infinity, or ±65504 when `saturate`. */
export function encodeFloat16(x: number, saturate = false): number {
  return encodeMinifloat(FLOAT16, x, saturate);
}

export function decodeFloat16(bits: number): number {
  return decodeMinifloat(FLOAT16, bits);
}

let table: Float32Array | undefined;

/** Patterns to float32, exactly. A table of all 65536 values is made on first use. */
export function float16ToFloat32(bits: Uint16Array): Float32Array {
  table ??= Float32Array.from({ length: 65536 }, (_, pattern) => decodeFloat16(pattern));
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = table[bits[i] as number] as number;
  return values;
}

const word = new Float32Array(1);
const wordBits = new Uint32Array(word.buffer);

/** {@link encodeFloat16} of every element. */
export function float32ToFloat16(values: Float32Array, saturate = false): Uint16Array {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = encodeFast(values[i] as number, saturate);
  return bits;
}

/** The float32 → half conversion in integer arithmetic. */
function encodeFast(x: number, saturate: boolean): number {
  word[0] = x;
  const pattern = wordBits[0] as number;
  const sign = (pattern >>> 16) & 0x8000;
  const magnitude = pattern & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | (saturate ? 0x7bff : 0x7c00); // 65520 and above
  if (magnitude < 0x38800000) {
    word[0] = Math.abs(x) + 0.5; // below 2^-14: the sum's last bit is 2^-24, the step of subnormal halves
    return sign | ((wordBits[0] as number) - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}
