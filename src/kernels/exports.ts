/** What the compiled kernels export (src/kernels/assembly), and how they are instantiated. */
import { PareError, messageOf } from "../base/error.ts";
import type { Arena } from "./arena.ts";
import { KERNELS_BASE64 } from "./gen/kernels-wasm.ts";

/** Addresses are byte offsets; booleans are 0 or 1. Meanings stand at the definitions in assembly/. */
export interface KernelExports {
  quantizeBlocks(
    src: number,
    rows: number,
    cols: number,
    block: number,
    bits: number,
    symmetric: number,
    half: number,
    ratios: number,
    ratioCount: number,
    codes: number,
    scales: number,
    zeros: number,
    temp: number,
    sums: number,
  ): number;
  quantizeLevels(
    src: number,
    rows: number,
    inner: number,
    levels: number,
    borders: number,
    levelCount: number,
    peakLevel: number,
    rule: number,
    half: number,
    ratios: number,
    ratioCount: number,
    refits: number,
    meanFactor: number,
    codes: number,
    scales: number,
    sums: number,
  ): number;
  quantizeColumns(
    src: number,
    rows: number,
    cols: number,
    stride: number,
    block: number,
    bits: number,
    symmetric: number,
    half: number,
    ratios: number,
    ratioCount: number,
    codes: number,
    scales: number,
    zeros: number,
    places: number,
    temp: number,
    sums: number,
  ): number;
  dequantizeBlocks(
    codes: number,
    blocks: number,
    block: number,
    bits: number,
    scales: number,
    zeros: number,
    dst: number,
  ): void;
  quantizeBytes(
    src: number,
    n: number,
    s: number,
    low: number,
    high: number,
    z: number,
    dst: number,
    sums: number,
  ): void;
  balanceBytes(
    src: number,
    n: number,
    s: number,
    low: number,
    high: number,
    z: number,
    kernel: number,
    codes: number,
    temp: number,
    sums: number,
  ): void;
  mergeRange(src: number, n: number, out: number): number;
  replaceNotFinite(src: number, n: number, low: number, high: number): void;
  searchErrors(src: number, n: number, scales: number, count: number, low: number, high: number, out: number): void;
  gridEffects(x: number, gradients: number, n: number, grids: number, count: number, out: number): void;
  addRefit(src: number, n: number, s: number, low: number, high: number, out: number): void;
  toFloat16(src: number, n: number, dst: number, saturate: number, counts: number): void;
  toBfloat16(src: number, n: number, dst: number, saturate: number, counts: number): void;
  fromFloat16(src: number, n: number, dst: number): void;
  fromBfloat16(src: number, n: number, dst: number): void;
  extent(src: number, n: number, out: number): void;
  summarize(src: number, n: number, out: number): void;
  summarizeChannels(
    src: number,
    outer: number,
    channels: number,
    inner: number,
    minima: number,
    maxima: number,
    sums: number,
    squares: number,
  ): void;
  histogram(
    src: number,
    n: number,
    low: number,
    high: number,
    perUnit: number,
    bins: number,
    absolute: number,
    tables: number,
    rest: number,
  ): void;
  countNonZero(src: number, n: number): number;
  compare(a: number, b: number, n: number, out: number): void;
  countMagnitudes(src: number, n: number, shift: number, width: number, prefix: number, tables: number): void;
  magnitudeMask(src: number, n: number, threshold: number, ties: number, mask: number): number;
  groupMask(
    src: number,
    outer: number,
    channels: number,
    inner: number,
    keep: number,
    group: number,
    mask: number,
  ): void;
  applyMask(src: number, mask: number, n: number, dst: number): void;
  addProduct(a: number, b: number, c: number, m: number, p: number, n: number): void;
  choleskyUpper(a: number, n: number): number;
  invertUpper(u: number, n: number, dst: number): void;
  roundWithFeedback(
    w: number,
    base: number,
    count: number,
    n: number,
    f: number,
    d: number,
    groups: number,
    scales: number,
    zeros: number,
    top: number,
    codes: number,
    errors: number,
    loss: number,
  ): void;
  transposeFloats(src: number, rows: number, cols: number, srcStride: number, dst: number, dstStride: number): void;
  transposeBytes(src: number, rows: number, cols: number, dst: number, dstStride: number): void;
}

/** The compiled kernels over the arena's memory. */
export async function instantiate(arena: Arena): Promise<KernelExports> {
  const binary = Uint8Array.from(atob(KERNELS_BASE64), (character) => character.charCodeAt(0));
  try {
    const { instance } = await WebAssembly.instantiate(binary, { env: { memory: arena.memory } });
    return instance.exports as unknown as KernelExports;
  } catch (cause) {
    throw new PareError("unsupported", `The SIMD kernels cannot be loaded: ${messageOf(cause)}`, {
      help: "Use a browser or Node.js with WebAssembly SIMD (Node.js 20.19 or newer has it)",
      cause,
    });
  }
}
