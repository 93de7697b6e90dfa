/** The 8- and 4-bit floats of ONNX: e4m3 and e5m2 (IEEE-like, finite, unsigned zero), e8m0 scales, e2m1. */
import { type Minifloat, decodeMinifloat, encodeMinifloat } from "./minifloat.ts";

/** Dtypes with a sign, an exponent and a mantissa in at most 8 bits. */
export type SmallFloat = "float8e4m3fn" | "float8e4m3fnuz" | "float8e5m2" | "float8e5m2fnuz" | "float4e2m1";

/** Micikevicius et al. 2022 (e4m3fn, e5m2), Noune et al. 2022 (fnuz), OCP Microscaling Formats 1.0 (e2m1). */
export const SMALL_FLOATS: Readonly<Record<SmallFloat, Minifloat>> = {
  float8e4m3fn: { exponentBits: 4, mantissaBits: 3, bias: 7, special: "fn" },
  float8e4m3fnuz: { exponentBits: 4, mantissaBits: 3, bias: 8, special: "fnuz" },
  float8e5m2: { exponentBits: 5, mantissaBits: 2, bias: 15, special: "ieee" },
  float8e5m2fnuz: { exponentBits: 5, mantissaBits: 2, bias: 16, special: "fnuz" },
  float4e2m1: { exponentBits: 2, mantissaBits: 1, bias: 1, special: "finite" },
};

/**
 * Code of the value nearest to x (half to even). With `saturate` (ONNX's default) overflow and infinities become the largest
 * value; without, infinity (e5m2) or NaN. e2m1 has no NaN: it always saturates, and NaN becomes 6.
 */
export function encodeSmallFloat(format: SmallFloat, x: number, saturate = true): number {
  return encodeMinifloat(SMALL_FLOATS[format], x, saturate);
}

export function decodeSmallFloat(format: SmallFloat, code: number): number {
  return decodeMinifloat(SMALL_FLOATS[format], code);
}

/**
 * Code b of an e8m0 scale 2^(b−127); 255 is NaN. `mode` picks the power of two: "up" (ONNX's default) the next at or above x,
 * "down" the next at or below, "nearest" the nearer in value (half up). The sign of x is ignored. Zero and all below 2^-127
 * become 2^-127; finite overflow becomes 2^127 when `saturate`, else NaN; infinities become NaN.
 */
export function encodeFloat8e8m0(x: number, mode: "up" | "down" | "nearest" = "up", saturate = true): number {
  const a = Math.abs(x);
  if (Number.isNaN(x) || a === Infinity) return 255;
  if (a <= 2 ** -127) return 0;
  let exponent = Math.floor(Math.log2(a));
  if (2 ** exponent > a)
    exponent--; // log2 may round up to the next integer
  else if (2 ** (exponent + 1) <= a) exponent++;
  const ratio = a / 2 ** exponent; // [1, 2)
  if ((mode === "up" && ratio > 1) || (mode === "nearest" && ratio >= 1.5)) exponent++;
  return exponent > 127 ? (saturate ? 254 : 255) : exponent + 127;
}

export function decodeFloat8e8m0(code: number): number {
  return code === 255 ? Number.NaN : 2 ** (code - 127);
}

/** Values of all codes of a format of at most 8 bits: `table[code]`. */
export function smallFloatTable(format: SmallFloat | "float8e8m0"): Float32Array {
  const length = format === "float4e2m1" ? 16 : 256;
  return Float32Array.from({ length }, (_, code) =>
    format === "float8e8m0" ? decodeFloat8e8m0(code) : decodeSmallFloat(format, code),
  );
}
