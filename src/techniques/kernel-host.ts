/** Where large weights are computed: in worker threads under Node, several at a time within a bound; elsewhere in this thread. */
import type { DType } from "../base/dtype.ts";
import type { FileRange } from "../base/file-range.ts";
import { throwIfAborted } from "../base/error.ts";
import { toFloat32 } from "../base/to-float32.ts";
import type { KernelPool } from "../kernels/pool.node.ts";
import type {
  AxisLayout,
  BlockQuantized,
  BlockSpec,
  ChannelQuantized,
  ChannelSpec,
  Kernels,
  LevelQuantized,
  LevelSpec,
} from "../kernels/types.ts";

/** A streaming quantizer in this thread or another. */
export interface RowQuantizer {
  /** Takes the next stored rows, packed elements of `dtype`; resolves with the buffer, free to be filled again. */
  push(dtype: DType, rows: Uint8Array): Promise<Uint8Array>;
  /** As `push`, of so many rows in a file, where another thread can read them. */
  read?(dtype: DType, rows: number, file: FileRange): Promise<void>;
  finish(): Promise<BlockQuantized>;
  close(): void;
}

/** Kernels that may run in another thread, for one weight. */
export interface WeightKernels {
  blockQuantizer(stored: { rows: number; cols: number; transpose: boolean }, spec: BlockSpec): RowQuantizer;
  /** May take the array over. */
  transpose(x: Float32Array, rows: number, cols: number): Promise<Float32Array>;
  /** May take the array over. */
  quantizeChannels(w: Float32Array, layout: AxisLayout, spec: ChannelSpec): Promise<ChannelQuantized>;
  /** May take the array over. */
  quantizeLevels(w: Float32Array, rows: number, spec: LevelSpec): Promise<LevelQuantized>;
}

/** Weights smaller than this are computed in this thread: a worker takes longer to start. */
const WORKER_BYTES = 4 << 20;
/** Memory of the weights being computed at once; a larger one is computed alone. */
const BUDGET_BYTES = 160 << 20;
/** An unused pool's threads end after this. */
const IDLE_MS = 1000;
/** Buffers kept for the next weight: the system hands out fresh memory at the price of clearing it. */
const SPARE_BUFFERS = 8;

/**
 * Calls `work` with kernels for a weight of `weightBytes`, as soon as the weights being computed leave room for `memoryBytes`
 * more; first come, first served. The signal ends the waiting and the kernels.
 */
export async function computeWeight<T>(
  local: Kernels,
  weightBytes: number,
  memoryBytes: number,
  signal: AbortSignal | undefined,
  work: (kernels: WeightKernels) => Promise<T>,
): Promise<T> {
  throwIfAborted(signal);
  const pool = weightBytes < WORKER_BYTES ? undefined : await acquirePool();
  if (!pool) return work(inThread(local));
  try {
    const release = await room.take(memoryBytes, pool.size + 1);
    try {
      throwIfAborted(signal);
      return await work(inWorkers(pool, signal));
    } finally {
      release();
    }
  } finally {
    releasePool();
  }
}

/** Computations that wait for memory, in order. */
class Room {
  readonly #waiting: (() => boolean)[] = [];
  #bytes = 0;
  #count = 0;

  /** Resolves with the way to give the room back. */
  take(bytes: number, most: number): Promise<() => void> {
    return new Promise((resolve) => {
      this.#waiting.push(() => {
        if (this.#count > 0 && (this.#count >= most || this.#bytes + bytes > BUDGET_BYTES)) return false;
        this.#count++;
        this.#bytes += bytes;
        resolve(() => {
          this.#count--;
          this.#bytes -= bytes;
          this.#admit();
        });
        return true;
      });
      this.#admit();
    });
  }

  #admit(): void {
    while (this.#waiting[0]?.()) this.#waiting.shift();
  }
}

const { process: runtime } = globalThis as { process?: { versions?: { node?: string } } };
const isNode = runtime?.versions?.node !== undefined;
const room = new Room();
const spares: ArrayBuffer[] = [];

/** A buffer of so many bytes with whatever is in it. */
export function takeBuffer(bytes: number): ArrayBuffer {
  const at = spares.findIndex((spare) => spare.byteLength === bytes);
  return spares.splice(at, at < 0 ? 0 : 1)[0] ?? new ArrayBuffer(bytes);
}

/** Keeps a buffer for the next who takes one of its size, while weights are being computed. */
export function giveBackBuffer(buffer: ArrayBuffer | undefined): void {
  if (buffer && buffer.byteLength > 0 && users > 0 && spares.length < SPARE_BUFFERS) spares.push(buffer);
}

let shared: Promise<KernelPool> | undefined;
let users = 0;
let idle: ReturnType<typeof setTimeout> | undefined;

/** The pool of this process, while there is work for it; undefined where there are no worker threads. */
async function acquirePool(): Promise<KernelPool | undefined> {
  if (!isNode) return undefined;
  users++;
  clearTimeout(idle);
  shared ??= import("../kernels/pool.node.ts").then(({ KernelPool }) => new KernelPool());
  return shared;
}

function releasePool(): void {
  if (--users > 0) return;
  idle = setTimeout(() => {
    const unused = shared;
    shared = undefined;
    spares.length = 0;
    void unused?.then((pool) => pool.close());
  }, IDLE_MS);
  idle.unref();
}

function inWorkers(pool: KernelPool, signal: AbortSignal | undefined): WeightKernels {
  const given = (x: Float32Array): { signal: AbortSignal | undefined; transfer: ArrayBuffer[] } => ({
    signal,
    transfer: x.byteLength === x.buffer.byteLength ? [x.buffer as ArrayBuffer] : [],
  });
  return {
    blockQuantizer: (stored, spec) => pool.blockQuantizer(stored, spec, signal),
    transpose: (x, rows, cols) => pool.run("transpose", [x, rows, cols], given(x)),
    quantizeChannels: (w, layout, spec) => pool.run("quantizeChannels", [w, layout, spec], given(w)),
    quantizeLevels: (w, rows, spec) => pool.run("quantizeLevels", [w, rows, spec], given(w)),
  };
}

function inThread(kernels: Kernels): WeightKernels {
  return {
    blockQuantizer(stored, spec) {
      const quantizer = kernels.blockQuantizer(stored, spec);
      return {
        async push(dtype, rows) {
          quantizer.push(toFloat32(dtype, rows));
          return rows;
        },
        finish: async () => quantizer.finish(),
        close: () => undefined,
      };
    },
    transpose: async (x, rows, cols) => kernels.transpose(x, rows, cols),
    quantizeChannels: async (w, layout, spec) => kernels.quantizeChannels(w, layout, spec),
    quantizeLevels: async (w, rows, spec) => kernels.quantizeLevels(w, rows, spec),
  };
}
