/** What a session is: a model opened on an execution provider. Implementations: open-session.node.ts (and web later). */
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
  readonly provider?: Provider | undefined;
  /** Threads inside one operator; default 0: the engine's choice (all cores). */
  readonly threads?: number | undefined;
  /** Graph optimization of the engine; default "all". */
  readonly optimize?: "none" | "basic" | "extended" | "all" | undefined;
  /** Write the engine's optimized graph to this file. */
  readonly optimizedPath?: string | undefined;
  /** Write the engine's profile to files that begin with this prefix; read by `run/profile`. */
  readonly profilePrefix?: string | undefined;
  /**
   * Run in the calling thread instead of a worker: no hop, but nothing else moves while the engine computes. For code
   * that is in a worker already, for tests and for very small models. Default false.
   */
  readonly inProcess?: boolean | undefined;
  /**
   * "real" (default): ports of a {@link Model} that are 8-bit codes by its metadata take floats (or codes) and give floats;
   * "stored": they are what the file says. Bytes and paths are always as stored.
   */
  readonly ports?: "real" | "stored" | undefined;
  /** Firing it rejects what is pending with `aborted`, stops after the engine call in progress, and closes the session. */
  readonly signal?: AbortSignal | undefined;
}

/** The part of the options that the engine understands; it can be posted to a worker. */
export type EngineOptions = Pick<
  SessionOptions,
  "provider" | "threads" | "optimize" | "optimizedPath" | "profilePrefix"
>;

export interface Port {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

export interface RunOptions {
  /** Give the feeds' buffers away to the engine's thread instead of copying them: they cannot be used afterwards. */
  readonly transfer?: boolean | undefined;
}

/**
 * Tensors that stay with the engine between steps (weights and optimizer state of a training loop, a KV cache). Two sets
 * of buffers take turns, so that no step writes what it still reads and nothing is allocated after the second step.
 */
export interface Resident {
  /**
   * One step: feeds are the inputs that are not state; each state input becomes its linked output afterwards. Returns
   * the outputs named in `fetches` (default: all that are not state).
   */
  step(feeds: Feeds, fetches?: readonly string[], options?: RunOptions): Promise<Record<string, NdArray>>;
  /** Copies of the state as it is now, by input name; all of it, or the names asked for. */
  read(names?: readonly string[]): Promise<Record<string, NdArray>>;
  /** Overwrites some of the state; dtypes and shapes must be the old ones. */
  write(state: Feeds): Promise<void>;
}

/** A model opened on the engine. In a worker thread (the default) nothing here blocks the calling thread. */
export interface Session {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  /** Runs once. Without `fetches`, all outputs. Feeds are copied unless `transfer`; results belong to the caller. */
  run(feeds: Feeds, fetches?: readonly string[], options?: RunOptions): Promise<Record<string, NdArray>>;
  /** Runs `times` times on the same feeds inside the worker and returns the seconds of each run (no transfer counted). */
  time(feeds: Feeds, times: number): Promise<Float64Array>;
  /**
   * Keeps `state` (inputs, with their first values) with the engine; `links` names, for each state input, the output
   * that replaces it after a step (same dtype and shape). An input without a link is constant. One per session.
   */
  resident(state: Feeds, links: Readonly<Record<string, string>>): Promise<Resident>;
  /** Frees the engine's memory; waits for what is running. Further calls reject. Closing twice is harmless. */
  close(): Promise<void>;
}
