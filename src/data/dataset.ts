/** What a data set is: a named, seeded stream of batches whose preprocessing is part of its name. */
import type { DType, TypedData } from "../base/dtype.ts";
import type { NdArray } from "../run/session.ts";
import type { Host } from "./host.ts";
import type { NameOptions } from "./options.ts";

export interface Batch {
  /** Samples in this batch. */
  readonly size: number;
  /** One array per field, samples along axis 0. */
  readonly fields: Readonly<Record<string, NdArray>>;
  /**
   * int32 class index per sample (n), int32 next token per position (n, length), or float32 targets (n, …);
   * undefined without labels. A token label of -100 is ignored by losses and metrics (padding).
   */
  readonly labels?: NdArray | undefined;
}

export interface Field {
  readonly name: string;
  readonly dtype: DType;
  /** Shape of one sample. */
  readonly shape: readonly number[];
  /** Number of different tokens where the field holds them: 0 to vocabulary − 1. */
  readonly vocabulary?: number | undefined;
}

export interface BatchOptions {
  /** Samples per batch; default 32. The last batch may be smaller unless `dropLast`. */
  readonly size?: number;
  readonly dropLast?: boolean;
  /** Shuffles with this seed; without it, file order. */
  readonly seed?: number | undefined;
  /** Stop after so many samples. */
  readonly limit?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A data set is immutable; batches stream, so that memory does not grow with its size. */
export interface Dataset {
  /** The full name that opens it again, options included. */
  readonly name: string;
  /** Number of samples. */
  readonly size: number;
  readonly fields: readonly Field[];
  /** Kind of labels: class indices, next tokens, real-valued targets, or none. */
  readonly labels: "classes" | "tokens" | "values" | undefined;
  /** Shape of one sample's labels; [] for one class index or one value; undefined without labels. */
  readonly labelShape?: readonly number[] | undefined;
  readonly classes?: readonly string[] | undefined;
  batches(options?: BatchOptions): AsyncIterable<Batch>;
  /** The samples at `indices` as one batch, in that order. */
  take(indices: readonly number[]): Promise<Batch>;
  /** A view of some samples. `parts` of a seeded permutation (or of file order): `subset({ part: [0, 0.5], seed })`. */
  subset(choice: { readonly part: readonly [number, number]; readonly seed?: number | undefined }): Dataset;
}

/** Arrays that a source writes samples into: sample k of a call lies at k times the elements of one sample. */
export interface Buffers {
  readonly fields: Readonly<Record<string, TypedData>>;
  readonly labels: Int32Array | Float32Array | undefined;
}

/**
 * Samples by index: all that a reader provides. Shuffling, subsets, limits and batches are made of it in `indexed.ts`.
 * `fill` is a pure function of the indices, so that the bytes of a sample depend neither on the batch nor on the order.
 */
export interface Source {
  readonly size: number;
  readonly fields: readonly Field[];
  readonly labels: Dataset["labels"];
  /** Shape of one sample's labels; [] for one class index. */
  readonly labelShape?: readonly number[] | undefined;
  readonly classes?: readonly string[] | undefined;
  fill(indices: ArrayLike<number>, into: Buffers, signal?: AbortSignal): void | Promise<void>;
}

/** A reader of one scheme (`idx`, `cifar10`, …). One file and one line in `readers.ts` each. */
export interface Reader {
  readonly scheme: string;
  readonly summary: string;
  /** Options of the name with their meaning, for --help and for errors. */
  readonly options: Readonly<Record<string, string>>;
  open(path: string, options: NameOptions, host: Host): Promise<Source>;
}
