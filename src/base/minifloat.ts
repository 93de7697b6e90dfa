/** Floating-point formats of 4 to 16 bits: one exact encoder and decoder for all of them. */

/** What a format does with the patterns that IEEE 754 gives to infinities and NaN. */
export interface Minifloat {
  readonly exponentBits: number;
  readonly mantissaBits: number;
  readonly bias: number;
  /**
   * "ieee": infinities and NaN (largest exponent). "fn": no infinities, NaN is all ones. "fnuz": no infinities, no −0, NaN
   * is the pattern of −0. "finite": neither infinities nor NaN.
   */
  readonly special: "ieee" | "fn" | "fnuz" | "finite";
}

export const FLOAT16: Minifloat = { exponentBits: 5, mantissaBits: 10, bias: 15, special: "ieee" };
export const BFLOAT16: Minifloat = { exponentBits: 8, mantissaBits: 7, bias: 127, special: "ieee" };

const float64 = new Float64Array(1);
const float64Words = new Uint32Array(float64.buffer);

/** ⌊log2 a⌋ of a positive finite number. */
function exponentOf(a: number): number {
  float64[0] = a;
  const biased = (float64Words[1] ?? 0) >>> 20;
  return biased === 0 ? -1023 : biased - 1023; // no format here reaches below 2^-1022
}

/** Nearest integer to r ≥ 0, half to even. */
export function roundHalfEven(r: number): number {
  const floor = Math.floor(r);
  const rest = r - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Magnitude bits of the largest finite value. */
function largestBits(format: Minifloat): number {
  const all = 2 ** (format.exponentBits + format.mantissaBits) - 1;
  if (format.special === "ieee") return all - 2 ** format.mantissaBits;
  return format.special === "fn" ? all - 1 : all;
}

/** Magnitude bits → value: (1 + m/2^M)·2^(e−bias), and m/2^M·2^(1−bias) where e = 0. */
function magnitude(format: Minifloat, bits: number): number {
  const scale = 2 ** format.mantissaBits;
  const exponent = Math.floor(bits / scale);
  const mantissa = bits % scale;
  return exponent === 0
    ? mantissa * 2 ** (1 - format.bias - format.mantissaBits)
    : (scale + mantissa) * 2 ** (exponent - format.bias - format.mantissaBits);
}

/** The largest finite value. */
export function largestFinite(format: Minifloat): number {
  return magnitude(format, largestBits(format));
}

/** The value of a bit pattern. */
export function decodeMinifloat(format: Minifloat, bits: number): number {
  const signBit = 2 ** (format.exponentBits + format.mantissaBits);
  const negative = bits >= signBit;
  const rest = negative ? bits - signBit : bits;
  if (format.special === "fnuz" && negative && rest === 0) return Number.NaN;
  if (rest > largestBits(format)) {
    if (format.special === "ieee" && rest === largestBits(format) + 1) return negative ? -Infinity : Infinity;
    return Number.NaN;
  }
  return negative ? -magnitude(format, rest) : magnitude(format, rest);
}

/**
 * The bit pattern nearest to x, half to even. What lies beyond the largest finite value after rounding, infinities included,
 * becomes that value when `saturate`, else infinity, or NaN where the format has no infinity, or the largest value where it
 * has neither. NaN stays NaN ("finite" formats turn it into the largest positive value).
 */
export function encodeMinifloat(format: Minifloat, x: number, saturate: boolean): number {
  const signBit = 2 ** (format.exponentBits + format.mantissaBits);
  const sign = x < 0 || Object.is(x, -0) ? signBit : 0;
  const largest = largestBits(format);
  if (Number.isNaN(x)) {
    if (format.special === "finite") return largest;
    if (format.special === "fnuz") return signBit;
    return format.special === "fn" ? signBit - 1 : largest + 1 + 2 ** (format.mantissaBits - 1);
  }
  let bits = Infinity;
  const a = Math.abs(x);
  if (a !== Infinity) {
    // a / 2^(e−M) has M+1 bits before the point; rounding up to the next power of two carries into the exponent by itself.
    const exponent = Math.max(a === 0 ? -Infinity : exponentOf(a), 1 - format.bias);
    const rounded = roundHalfEven(a / 2 ** (exponent - format.mantissaBits));
    bits = (exponent + format.bias - 1) * 2 ** format.mantissaBits + rounded;
  }
  if (bits > largest) {
    if (saturate || format.special === "finite") return sign + largest;
    if (format.special === "ieee") return sign + largest + 1;
    return format.special === "fnuz" ? signBit : sign + signBit - 1;
  }
  return format.special === "fnuz" && bits === 0 ? 0 : sign + bits;
}
