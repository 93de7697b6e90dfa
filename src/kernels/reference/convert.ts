/** Conversion between float32 and 16-bit floats in plain TypeScript: the oracle of the SIMD kernels. */
import { bfloat16ToFloat32, float32ToBfloat16 } from "../../base/bfloat.ts";
import { float16ToFloat32, float32ToFloat16 } from "../../base/half.ts";
import type { HalfConverted } from "../types.ts";

export function toFloat16(x: Float32Array, saturate = false): HalfConverted {
  return counted(x, float32ToFloat16(x, saturate), 65520);
}

export function toBfloat16(x: Float32Array, saturate = false): HalfConverted {
  return counted(x, float32ToBfloat16(x, saturate), 2 ** 128 - 2 ** 119);
}

/** Counts what was lost; `limit` is the least magnitude that rounds to infinity. */
function counted(x: Float32Array, bits: Uint16Array, limit: number): HalfConverted {
  let overflow = 0;
  let underflow = 0;
  let notFinite = 0;
  for (let i = 0; i < x.length; i++) {
    const value = x[i] as number;
    if (!Number.isFinite(value)) notFinite++;
    else if (Math.abs(value) >= limit) overflow++;
    else if (value !== 0 && ((bits[i] as number) & 0x7fff) === 0) underflow++;
  }
  return { bits, overflow, underflow, notFinite };
}

export { bfloat16ToFloat32 as fromBfloat16, float16ToFloat32 as fromFloat16 };
