/** Messages between the kernel pool and its workers, and what may be moved in them. */
import type { DType } from "../base/dtype.ts";
import type { ErrorCode } from "../base/error.ts";
import type { FileRange } from "../base/file-range.ts";
import type { BlockQuantized, BlockSpec, Kernels } from "./types.ts";

/**
 * Kernels that run in a worker: those that only read their arguments. (Histograms and magnitude counts add to an array of
 * the caller's, scratch memory and streaming quantizers belong to one thread: load kernels there.)
 */
export type JobName = Exclude<
  keyof Kernels,
  "scratch" | "blockQuantizer" | "histogram" | "histogramAbs" | "countMagnitudes"
>;

export type JobArguments<N extends JobName> = Parameters<Kernels[N]>;
export type JobResult<N extends JobName> = ReturnType<Kernels[N]>;

/** A matrix as it arrives at a streaming quantizer. */
export interface StoredMatrix {
  readonly rows: number;
  readonly cols: number;
  readonly transpose?: boolean;
}

/** Steps of a streaming quantizer that lives in one worker; the first argument is its number. */
export interface StreamJobs {
  openBlocks(stream: number, stored: StoredMatrix, spec: BlockSpec): void;
  /** Takes the next rows, packed elements of `dtype`. */
  pushBlocks(stream: number, dtype: DType, rows: Uint8Array): void;
  /** Takes the next so many rows, which are the elements of `dtype` in this part of a file. */
  readBlocks(stream: number, dtype: DType, rows: number, file: FileRange): void;
  finishBlocks(stream: number): BlockQuantized;
  /** Forgets the stream; harmless for one that is finished. */
  dropBlocks(stream: number): void;
}

/** To a worker. `giveBack`: return the arguments with the result. */
export interface JobRequest {
  readonly id: number;
  readonly name: JobName | keyof StreamJobs;
  readonly args: readonly unknown[];
  readonly giveBack: boolean;
}

/** From a worker. */
export type JobReply =
  | { readonly id: number; readonly result: unknown; readonly args: readonly unknown[] | undefined }
  | { readonly id: number; readonly error: { readonly code: ErrorCode; readonly message: string } };

/** Every buffer under typed arrays in a value, two levels deep (arguments, and fields of an argument or result). */
export function buffersOf(values: readonly unknown[]): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  const add = (value: unknown): void => {
    if (ArrayBuffer.isView(value) && value.buffer instanceof ArrayBuffer) buffers.add(value.buffer);
  };
  for (const value of values) {
    add(value);
    if (typeof value === "object" && value !== null && !ArrayBuffer.isView(value)) Object.values(value).forEach(add);
  }
  return [...buffers];
}
