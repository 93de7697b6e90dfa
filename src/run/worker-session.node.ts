/** A session behind a worker thread: buffers move by transfer, aborting stops it, an idle one does not hold the process. */
import { setMaxListeners } from "node:events";
import { Worker } from "node:worker_threads";
import { type TypedData, bytesOf } from "../base/dtype.ts";
import { PareError, messageOf, throwIfAborted } from "../base/error.ts";
import { workerUrl } from "../base/worker-url.node.ts";
import { engineError } from "./engine-error.ts";
import { copyOf } from "./engine-tensor.node.ts";
import { type EngineLink, SessionFront } from "./session-front.ts";
import { CONTROL, type Envelope, type Reply, type Request, type WorkerSetup } from "./session-protocol.ts";
import type { EngineOptions, Feeds, NdArray, Port, Session, SessionOptions } from "./session.ts";

/** Longest wait at process exit for an engine call in progress. */
const EXIT_WAIT_MS = 20_000;

/** Control blocks of live workers. */
const live = new Set<Int32Array>();

/**
 * Ending a thread inside the engine's native code aborts the whole process (the binding throws where nothing can be
 * thrown), so the process waits for calls in progress before it exits; past the limit it goes at once.
 */
function waitForEngines(): void {
  for (const control of live) Atomics.store(control, CONTROL.stop, 1);
  const deadline = performance.now() + EXIT_WAIT_MS;
  for (const control of live) {
    const left = deadline - performance.now();
    if (Atomics.load(control, CONTROL.busy) === 0) continue;
    if (left <= 0 || Atomics.wait(control, CONTROL.busy, 1, left) === "timed-out") process.kill(process.pid, "SIGKILL");
  }
}

interface Pending {
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: unknown) => void;
}

/** The caller's end of a worker. */
class WorkerLink implements EngineLink {
  inputs: readonly Port[] = [];
  outputs: readonly Port[] = [];
  readonly #worker: Worker;
  readonly #control: Int32Array;
  readonly #pending: Map<number, Pending> = new Map();
  readonly #exited: Promise<void>;
  #next = 1;
  #closing: Promise<void> | undefined;
  #ended = false;

  constructor(source: Uint8Array | string, options: EngineOptions) {
    this.#control = new Int32Array(new SharedArrayBuffer(4 * CONTROL.cells));
    // Busy from the start: the thread opens the model as soon as it runs.
    Atomics.store(this.#control, CONTROL.busy, 1);
    const setup: WorkerSetup = { source, options, control: this.#control };
    const transferList =
      typeof source !== "string" && source.buffer instanceof ArrayBuffer && source.byteLength > 0
        ? [source.buffer]
        : [];
    this.#worker = new Worker(workerUrl(import.meta.url, "./session-worker.node.ts"), {
      workerData: setup,
      transferList,
      execArgv: [], // flags of this process, such as --input-type, are not meant for the script
    });
    if (live.size === 0) process.once("exit", waitForEngines);
    live.add(this.#control);
    this.#worker.on("message", (reply: Reply) => this.#receive(reply));
    this.#worker.on("error", (error) => {
      live.delete(this.#control); // the script threw: nothing runs any more
      this.#failAll(new PareError("internal", "The engine's thread failed", { found: messageOf(error), cause: error }));
    });
    this.#exited = new Promise((resolve) => {
      this.#worker.once("exit", (code) => {
        this.#ended = true;
        live.delete(this.#control);
        if (live.size === 0) process.off("exit", waitForEngines);
        this.#failAll(new PareError("engine", "The engine's thread ended", { found: `exit code ${code}` }));
        resolve();
      });
    });
  }

  /** Waits until the model is open. */
  async ready(): Promise<void> {
    const reply = await this.#expect(0);
    if ("ports" in reply) {
      this.inputs = reply.ports.inputs;
      this.outputs = reply.ports.outputs;
    }
  }

  run(feeds: Feeds, fetches: readonly string[], transfer: boolean): Promise<Record<string, NdArray>> {
    return this.#arrays({ kind: "run", ...movable(feeds, transfer), fetches });
  }

  step(feeds: Feeds, fetches: readonly string[], transfer: boolean): Promise<Record<string, NdArray>> {
    return this.#arrays({ kind: "step", ...movable(feeds, transfer), fetches });
  }

  async time(feeds: Feeds, times: number): Promise<Float64Array> {
    const reply = await this.#ask({ kind: "time", ...movable(feeds, false), times });
    return "seconds" in reply ? reply.seconds : new Float64Array();
  }

  async bind(state: Feeds, links: Readonly<Record<string, string>>): Promise<void> {
    await this.#ask({ kind: "bind", state: movable(state, false).feeds, links });
  }

  readState(names: readonly string[]): Promise<Record<string, NdArray>> {
    return this.#arrays({ kind: "readState", names });
  }

  async writeState(values: Feeds): Promise<void> {
    await this.#ask({ kind: "writeState", values: movable(values, false).feeds });
  }

  close(): Promise<void> {
    if (!this.#closing && !this.#ended) this.#ask({ kind: "close" }).catch(() => undefined);
    this.#closing ??= this.#exited;
    return this.#closing;
  }

  /** Rejects what is pending now; the thread ends by itself after the engine call in progress. */
  abort(error: PareError): void {
    Atomics.store(this.#control, CONTROL.stop, 1);
    this.#failAll(error);
    void this.close();
  }

  async #arrays(request: Request): Promise<Record<string, NdArray>> {
    const reply = await this.#ask(request);
    return "arrays" in reply ? reply.arrays : {};
  }

  #ask(request: Request): Promise<Reply> {
    if (this.#ended) return Promise.reject(new PareError("engine", "The engine's thread has ended"));
    const id = this.#next++;
    const reply = this.#expect(id);
    const envelope: Envelope = { id, request };
    this.#worker.postMessage(envelope, buffersOf(request));
    return reply;
  }

  #expect(id: number): Promise<Reply> {
    this.#worker.ref();
    return new Promise((resolve, reject) => this.#pending.set(id, { resolve, reject }));
  }

  #receive(reply: Reply): void {
    const waiting = this.#pending.get(reply.id);
    this.#pending.delete(reply.id);
    // An idle worker does not hold the process; a closing one does, since nothing else waits for its end.
    if (this.#pending.size === 0 && !this.#closing) this.#worker.unref();
    if ("error" in reply) waiting?.reject(new Error(reply.error));
    else waiting?.resolve(reply);
  }

  #failAll(error: unknown): void {
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of waiting) reject(error);
  }
}

/** Feeds whose buffers may be moved: the caller's own when it gave them away, else copies exactly as long as the data. */
function movable(feeds: Feeds, transfer: boolean): { readonly feeds: Feeds } {
  const moved: Record<string, NdArray> = {};
  for (const [name, array] of Object.entries(feeds)) {
    const { dtype, shape } = array;
    const give = transfer && array.dtype !== "string" && bytesOf(array.data as TypedData).buffer instanceof ArrayBuffer;
    moved[name] =
      dtype === "string" || give
        ? { dtype, shape, data: array.data }
        : { dtype, shape, data: copyOf(array.data as TypedData) };
  }
  return { feeds: moved };
}

function buffersOf(request: Request): ArrayBuffer[] {
  const feeds =
    "feeds" in request ? request.feeds : "state" in request ? request.state : "values" in request ? request.values : {};
  const buffers = new Set<ArrayBuffer>();
  for (const array of Object.values(feeds))
    if (array.dtype !== "string") buffers.add((array.data as TypedData).buffer as ArrayBuffer);
  return [...buffers];
}

/** Opens a model's file, or bytes that are given away, in a new worker thread. `name` is what errors call it. */
export async function openWorkerSession(
  source: Uint8Array | string,
  options: SessionOptions = {},
  parts: { readonly name?: string | undefined; readonly onClose?: () => void | Promise<void> } = {},
): Promise<Session> {
  const { signal } = options;
  throwIfAborted(signal);
  const { provider, threads, optimize, optimizedPath, profilePrefix } = options;
  const link = new WorkerLink(source, { provider, threads, optimize, optimizedPath, profilePrefix });
  let session: SessionFront | undefined;
  const onAbort = (): void => {
    link.abort(new PareError("aborted", "Stopped while the engine was working"));
    void session?.close();
  };
  if (signal) setMaxListeners(0, signal); // many sessions may listen to one signal
  signal?.addEventListener("abort", onAbort, { once: true });
  const onClose = async (): Promise<void> => {
    signal?.removeEventListener("abort", onAbort);
    await parts.onClose?.();
  };
  try {
    await link.ready();
  } catch (error) {
    await onClose();
    throw engineError(error, "load", parts.name ?? (typeof source === "string" ? source : undefined));
  }
  session = new SessionFront(link, { name: parts.name, signal, onClose });
  return session;
}
