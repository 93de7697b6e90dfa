/** Messages between a session and its worker thread. */
import type { EngineOptions, Feeds, NdArray, Port } from "./session.ts";

/** Cells of the shared control block. */
export const CONTROL = {
  /** 1: start nothing more, finish. Written by the caller's thread. */
  stop: 0,
  /** 1 while the engine computes. Written and notified by the worker: ending the thread then would end the process. */
  busy: 1,
  cells: 2,
} as const;

export interface WorkerSetup {
  readonly source: Uint8Array | string;
  readonly options: EngineOptions;
  readonly control: Int32Array;
}

/** What the worker is asked to do. */
export type Request =
  | { readonly kind: "run"; readonly feeds: Feeds; readonly fetches: readonly string[] }
  | { readonly kind: "time"; readonly feeds: Feeds; readonly times: number }
  | { readonly kind: "bind"; readonly state: Feeds; readonly links: Readonly<Record<string, string>> }
  | { readonly kind: "step"; readonly feeds: Feeds; readonly fetches: readonly string[] }
  | { readonly kind: "readState"; readonly names: readonly string[] }
  | { readonly kind: "writeState"; readonly values: Feeds }
  | { readonly kind: "close" };

/** A request with its number. */
export interface Envelope {
  readonly id: number;
  readonly request: Request;
}

/** The worker's first message has id 0: the ports, or why the model was refused. */
export type Reply = { readonly id: number } & (
  | { readonly ports: { readonly inputs: readonly Port[]; readonly outputs: readonly Port[] } }
  | { readonly arrays: Record<string, NdArray> }
  | { readonly seconds: Float64Array }
  | { readonly done: true }
  | { readonly error: string }
);
