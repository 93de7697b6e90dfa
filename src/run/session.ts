/** What a session is: a model opened on an execution provider. Implementations: session.node.ts (and web later). */
import type { DType, TypedData } from "../base/dtype.ts";
import type { Dim } from "../base/shape.ts";

/** A dense array fed to or fetched from a session. Strings are JavaScript strings; half floats are 16-bit patterns. */
export interface NdArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedData | readonly string[];
}

export type Feeds = Readonly<Record<string, NdArray>>;

export type Provider = "cpu" | "webgpu" | "cuda";

export interface SessionOptions {
  /** Default "cpu". An absent provider is an error (`provider-absent`), never a silent fallback. */
  readonly provider?: Provider;
  /** Threads inside one operator; default 0: the engine's choice (all cores). */
  readonly threads?: number;
  /** Graph optimization of the engine; default "all". */
  readonly optimize?: "none" | "basic" | "extended" | "all";
  /** Write the engine's optimized graph to this file. */
  readonly optimizedPath?: string;
  /** Write the engine's profile to files that begin with this prefix; read by `run/profile`. */
  readonly profilePrefix?: string;
  readonly signal?: AbortSignal;
}

export interface Port {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/** A model opened in a worker thread: nothing here blocks the calling thread. */
export interface Session {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  /** Runs once. Without `fetches`, all outputs. */
  run(feeds: Feeds, fetches?: readonly string[]): Promise<Record<string, NdArray>>;
  /** Runs `times` times on the same feeds inside the worker and returns the seconds of each run (no transfer counted). */
  time(feeds: Feeds, times: number): Promise<Float64Array>;
  close(): Promise<void>;
}
