/** SIMD kernels behind ordinary typed arrays. */
import type { Kernels } from "./types.ts";
import { WasmKernels } from "./wasm-kernels.ts";
export type * from "./types.ts";

/**
 * Instantiates the kernels; works in Node.js and in browsers. An instance has 64 MiB of memory of its own, of which only
 * what is used becomes resident, and is not shared between threads: one per worker.
 * @throws PareError `unsupported` where WebAssembly SIMD is absent.
 */
export function loadKernels(): Promise<Kernels> {
  return WasmKernels.create();
}
