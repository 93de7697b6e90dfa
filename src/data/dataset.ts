/** What a data set is: a named, seeded stream of batches whose preprocessing is part of its name. */
import type { DType } from "../base/dtype.ts";
import type { NdArray } from "../run/session.ts";

export interface Batch {
  /** Samples in this batch. */
  readonly size: number;
  /** One array per field, samples along axis 0. */
  readonly fields: Readonly<Record<string, NdArray>>;
  /** Class index per sample (classification), targets per token or element otherwise; undefined without labels. */
  readonly labels?: NdArray | undefined;
}

export interface Field {
  readonly name: string;
  readonly dtype: DType;
  /** Shape of one sample. */
  readonly shape: readonly number[];
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
  readonly classes?: readonly string[] | undefined;
  batches(options?: BatchOptions): AsyncIterable<Batch>;
  /** The samples at `indices` as one batch, in that order. */
  take(indices: readonly number[]): Promise<Batch>;
  /** A view of some samples. `parts` of a seeded permutation (or of file order): `subset({ part: [0, 0.5], seed })`. */
  subset(choice: { readonly part: readonly [number, number]; readonly seed?: number | undefined }): Dataset;
}

/** A reader of one scheme (`idx`, `cifar10`, …). One file and one catalog line each. */
export interface Reader {
  readonly scheme: string;
  readonly summary: string;
  /** Options of the name with their meaning, for --help and for errors. */
  readonly options: Readonly<Record<string, string>>;
  open(path: string, options: Readonly<Record<string, string>>): Promise<Dataset>;
}
