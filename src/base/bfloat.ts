/** bfloat16, the upper half of a float32: numbers and arrays to and from 16-bit patterns. */
import { BFLOAT16, decodeMinifloat, encodeMinifloat, largestFinite } from "./minifloat.ts";

/** ≈ 3.3895e38. */
export const BFLOAT16_MAX: number = largestFinite(BFLOAT16);

/** Pattern of the bfloat16 nearest to x (half to even); overflow is infinity, or ±{@link BFLOAT16_MAX} when `saturate`. */
export function encodeBfloat16(x: number, saturate = false): number {
  return encodeMinifloat(BFLOAT16, x, saturate);
}

export function decodeBfloat16(bits: number): number {
  return decodeMinifloat(BFLOAT16, bits);
}

/** Patterns to float32, exactly. */
export function bfloat16ToFloat32(bits: Uint16Array): Float32Array {
  const values = new Float32Array(bits.length);
  const words = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) words[i] = (bits[i] as number) << 16;
  return values;
}

/** {@link encodeBfloat16} of every element. */
export function float32ToBfloat16(values: Float32Array, saturate = false): Uint16Array {
  const aligned = values.byteOffset % 4 === 0 ? values : values.slice();
  const words = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = words[i] as number;
    const magnitude = word & 0x7fffffff;
    const sign = (word >>> 16) & 0x8000;
    if (magnitude > 0x7f800000) bits[i] = sign | 0x7fc0;
    else if (saturate && magnitude >= 0x7f7f8000) bits[i] = sign | 0x7f7f;
    else bits[i] = sign | ((magnitude + 0x7fff + ((magnitude >>> 16) & 1)) >>> 16);
  }
  return bits;
}
