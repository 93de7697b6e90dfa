/** A pool of worker threads that run kernels on tensors: typed jobs, bounded in flight, stopped by a signal. */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { DType } from "../base/dtype.ts";
import type { FileRange } from "../base/file-range.ts";
import { PareError, messageOf, throwIfAborted } from "../base/error.ts";
import { workerUrl } from "../base/worker-url.node.ts";
import type {
  JobArguments,
  JobName,
  JobReply,
  JobRequest,
  JobResult,
  StoredMatrix,
  StreamJobs,
} from "./pool-protocol.ts";
import type { BlockQuantized, BlockSpec } from "./types.ts";

/** Jobs handed to one worker at a time: one runs while the next one's data travels. */
const JOBS_PER_WORKER = 2;

export interface JobOptions<N extends JobName> {
  readonly signal?: AbortSignal | undefined;
  /** Buffers under the arguments to move instead of copying: they are empty for the caller from then on. */
  readonly transfer?: readonly ArrayBuffer[];
  /** Called with the arguments when they come back from the worker, so that large buffers can be used again. */
  readonly giveBack?: (args: JobArguments<N>) => void;
}

type Answer = Extract<JobReply, { result: unknown }>;

interface Job {
  readonly request: JobRequest;
  readonly transfer: readonly ArrayBuffer[];
  readonly resolve: (reply: Answer) => void;
  readonly reject: (error: unknown) => void;
}

/** A worker, the jobs it was given, and how many streams live in it. */
interface Thread {
  readonly worker: Worker;
  readonly jobs: Map<number, Job>;
  streams: number;
  lost: boolean;
}

/** Block-wise quantization, in a worker, of a matrix that arrives in pieces: open, push in order, finish or close. */
export interface PooledQuantizer {
  /**
   * Takes the next stored rows, packed elements of `dtype`, as `Kernels.blockQuantizer` wants them. The buffer moves to the
   * worker; the same bytes in it come back, to be used again.
   */
  push(dtype: DType, rows: Uint8Array): Promise<Uint8Array>;
  /** As `push`, of so many rows that the worker reads from the file itself, into its kernels' memory. */
  read(dtype: DType, rows: number, file: FileRange): Promise<void>;
  finish(): Promise<BlockQuantized>;
  /** Forgets what was pushed; harmless after `finish`. */
  close(): void;
}

/**
 * `await using pool = new KernelPool()`, or call {@link KernelPool.close}. Workers start when first needed; an idle pool
 * does not keep the process alive.
 */
export class KernelPool implements AsyncDisposable {
  /** Worker threads at most. */
  readonly size: number;
  readonly #threads: Thread[] = [];
  readonly #queue: Job[] = [];
  readonly #waiting: (() => void)[] = [];
  #next = 0;
  #closed = false;

  /** @param size worker threads; the default is as many as the machine runs at once. */
  constructor(size: number = availableParallelism()) {
    if (!Number.isInteger(size) || size < 1)
      throw new PareError("bad-option", "A pool has at least one worker", { found: String(size) });
    this.size = size;
  }

  /** Jobs given and not yet answered. */
  get pending(): number {
    return this.#queue.length + this.#threads.reduce((sum, thread) => sum + thread.jobs.size, 0);
  }

  /** Resolves as soon as another job would be handed to a worker at once: await it before reading the next tensor. */
  async room(signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    while (!this.#closed && this.pending >= this.size * JOBS_PER_WORKER) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
        signal?.addEventListener("abort", () => resolve(), { once: true });
      });
      throwIfAborted(signal);
    }
  }

  /**
   * Runs a kernel in a worker: `await pool.run("quantizeBlocks", [w, rows, cols, { bits: 4 }])`. The result is moved, not copied.
   * @throws PareError what the kernel threw; `aborted` when the signal fires (a kernel already running ends unheard) or the
   * pool is closed; `internal` when a worker dies.
   */
  async run<N extends JobName>(name: N, args: JobArguments<N>, options: JobOptions<N> = {}): Promise<JobResult<N>> {
    const { giveBack } = options;
    const reply = await this.#submit(name, args, { ...options, giveBack: giveBack !== undefined });
    giveBack?.(reply.args as JobArguments<N>);
    return reply.result as JobResult<N>;
  }

  /**
   * A streaming quantizer in the worker that has the fewest. Its steps run in order; errors and `signal` as in {@link run}.
   */
  blockQuantizer(stored: StoredMatrix, spec: BlockSpec, signal?: AbortSignal): PooledQuantizer {
    throwIfAborted(signal);
    if (this.#closed) throw new PareError("aborted", "The kernel pool is closed");
    const fewest = this.#threads.reduce<Thread | undefined>(
      (least, one) => (least && least.streams <= one.streams ? least : one),
      undefined,
    );
    const thread = !fewest || (fewest.streams > 0 && this.#threads.length < this.size) ? this.#start() : fewest;
    const stream = this.#next++;
    thread.streams++;
    let open = true;
    const end = (): boolean => {
      const was = open;
      open = false;
      if (was) thread.streams--;
      return was && !thread.lost && !this.#closed;
    };
    const step = <N extends keyof StreamJobs>(
      name: N,
      args: Parameters<StreamJobs[N]>,
      transfer: readonly ArrayBuffer[] = [],
    ): Promise<Answer> => this.#submit(name, args, { signal, transfer, giveBack: transfer.length > 0 }, thread);
    const opened = step("openBlocks", [stream, stored, spec]);
    opened.catch(() => undefined); // every step reports it
    return {
      async push(dtype, rows) {
        await opened;
        const reply = await step("pushBlocks", [stream, dtype, rows], [rows.buffer as ArrayBuffer]);
        return reply.args?.[2] as Uint8Array;
      },
      async read(dtype, rows, file) {
        await opened;
        await step("readBlocks", [stream, dtype, rows, file]);
      },
      async finish() {
        await opened;
        const { result } = await step("finishBlocks", [stream]);
        end();
        return result as BlockQuantized;
      },
      close: () => {
        if (end()) this.#submit("dropBlocks", [stream], { giveBack: false }, thread).catch(() => undefined);
      },
    };
  }

  /** Gives a job to `thread`, or queues it for whichever has room. */
  async #submit(
    name: JobRequest["name"],
    args: readonly unknown[],
    options: {
      readonly signal?: AbortSignal | undefined;
      readonly transfer?: readonly ArrayBuffer[];
      readonly giveBack: boolean;
    },
    thread?: Thread,
  ): Promise<Answer> {
    const { signal, transfer = [], giveBack } = options;
    throwIfAborted(signal);
    if (this.#closed) throw new PareError("aborted", "The kernel pool is closed");
    if (thread?.lost) throw new PareError("internal", "The kernel worker of this stream has ended");
    const id = this.#next++;
    let stop: (() => void) | undefined;
    try {
      return await new Promise<Answer>((resolve, reject) => {
        const request = { id, name, args: args.map((arg) => portable(arg, transfer)), giveBack };
        const job = { request, transfer, resolve, reject };
        stop = () => {
          const queued = this.#queue.findIndex((one) => one.request.id === id);
          if (queued >= 0) this.#queue.splice(queued, 1);
          reject(new PareError("aborted", "Stopped before it was finished; nothing was written"));
          this.#wake();
        };
        signal?.addEventListener("abort", stop, { once: true });
        if (thread) this.#send(thread, job);
        else {
          this.#queue.push(job);
          this.#dispatch();
        }
      });
    } finally {
      if (stop) signal?.removeEventListener("abort", stop);
    }
  }

  /** Hands queued jobs to the least busy worker, starting workers while there are fewer than `size`. */
  #dispatch(): void {
    while (this.#queue.length > 0) {
      let thread = this.#threads.reduce<Thread | undefined>(
        (least, one) => (least && least.jobs.size <= one.jobs.size ? least : one),
        undefined,
      );
      if ((!thread || thread.jobs.size > 0) && this.#threads.length < this.size) thread = this.#start();
      if (!thread || thread.jobs.size >= JOBS_PER_WORKER) return;
      this.#send(thread, this.#queue.shift() as Job);
    }
  }

  #send(thread: Thread, job: Job): void {
    thread.jobs.set(job.request.id, job);
    thread.worker.ref();
    try {
      // Moving a buffer that was moved before is not refused at once, but cloning it is: leave empty ones out
      thread.worker.postMessage(
        job.request,
        job.transfer.filter((buffer) => buffer.byteLength > 0),
      );
    } catch (cause) {
      this.#finish(thread, job);
      job.reject(new PareError("internal", `A kernel's arguments cannot travel: ${messageOf(cause)}`, { cause }));
    }
  }

  #start(): Thread {
    const worker = new Worker(workerUrl(import.meta.url, "./kernel-worker.node.ts"));
    const thread: Thread = { worker, jobs: new Map(), streams: 0, lost: false };
    worker.on("message", (reply: JobReply) => {
      const job = thread.jobs.get(reply.id);
      if (!job) return;
      this.#finish(thread, job);
      if ("error" in reply) job.reject(new PareError(reply.error.code, reply.error.message));
      else job.resolve(reply);
      this.#dispatch();
      this.#wake();
    });
    worker.on("error", (cause) => this.#lose(thread, `A kernel worker failed: ${messageOf(cause)}`, cause));
    worker.on("messageerror", (cause) => {
      this.#lose(thread, `A kernel's result did not arrive: ${cause.message}`, cause);
      void worker.terminate();
    });
    worker.on("exit", (code) => this.#lose(thread, `A kernel worker ended with code ${code}`, undefined));
    this.#threads.push(thread);
    return thread;
  }

  #finish(thread: Thread, job: Job): void {
    thread.jobs.delete(job.request.id);
    if (thread.jobs.size === 0) thread.worker.unref();
  }

  /** A worker is gone: its jobs fail, the others go on with a new one. */
  #lose(thread: Thread, message: string, cause: unknown): void {
    thread.lost = true;
    const at = this.#threads.indexOf(thread);
    if (at >= 0) this.#threads.splice(at, 1);
    for (const job of thread.jobs.values())
      job.reject(
        this.#closed
          ? new PareError("aborted", "The kernel pool was closed")
          : new PareError("internal", message, { cause }),
      );
    thread.jobs.clear();
    if (!this.#closed) this.#dispatch();
    this.#wake();
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Ends every worker; jobs not yet answered fail with `aborted`. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const job of this.#queue.splice(0)) job.reject(new PareError("aborted", "The kernel pool was closed"));
    await Promise.all(this.#threads.slice().map((thread) => thread.worker.terminate()));
    this.#wake();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A view of part of a buffer that is not moved is cut out: cloning it would copy the whole buffer (and kernel memory cannot travel). */
function portable(value: unknown, transfer: readonly ArrayBuffer[]): unknown {
  if (ArrayBuffer.isView(value)) {
    const partial = value.byteLength < value.buffer.byteLength && !transfer.includes(value.buffer as ArrayBuffer);
    return partial && "slice" in value && typeof value.slice === "function" ? (value.slice() as unknown) : value;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, field]) => [key, ArrayBuffer.isView(field) ? portable(field, transfer) : field]),
  );
}
