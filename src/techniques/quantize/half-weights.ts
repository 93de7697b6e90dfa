/** How float32 constants fare in 16 bits: converted bytes, the error, and what overflows or vanishes. */
import { bytesOf } from "../../base/dtype.ts";
import { toFloat32 } from "../../base/to-float32.ts";
import type { Tensor } from "../../ir/tensor.ts";
import type { Kernels } from "../../kernels/types.ts";

export interface HalfCheck {
  /** Finite elements beyond the largest finite value of the format. */
  readonly overflow: number;
  /** Non-zero elements that become zero. */
  readonly underflow: number;
  /** ‖ŵ − w‖ / ‖w‖. */
  readonly error: number;
}

export type HalfFormat = "fp16" | "bf16";

/** The tensor's bytes in the format; overflow saturates. */
export async function toHalfBytes(kernels: Kernels, tensor: Tensor, format: HalfFormat): Promise<Uint8Array> {
  const weights = toFloat32(tensor.dtype, await tensor.bytes());
  return bytesOf((format === "fp16" ? kernels.toFloat16(weights, true) : kernels.toBfloat16(weights, true)).bits);
}

/** Converts and compares. */
export async function checkHalf(kernels: Kernels, tensor: Tensor, format: HalfFormat): Promise<HalfCheck> {
  const weights = toFloat32(tensor.dtype, await tensor.bytes());
  const { bits, overflow, underflow } = format === "fp16" ? kernels.toFloat16(weights) : kernels.toBfloat16(weights);
  const back = format === "fp16" ? kernels.fromFloat16(bits) : kernels.fromBfloat16(bits);
  const { squaredDifference, squaredNormA } = kernels.compare(weights, back);
  return { overflow, underflow, error: squaredNormA > 0 ? Math.sqrt(squaredDifference / squaredNormA) : 0 };
}
