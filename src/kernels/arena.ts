/** The memory of the kernels: fixed in size, a scratch area that callers fill, and room for the tiles of one call. */
import { PareError } from "../base/error.ts";

const PAGE_BYTES = 65536;
/** All of it; pages never touched cost nothing. It never grows, so views of it never go stale. */
const MEMORY_BYTES = 64 * 2 ** 20;
/** The most that `scratch` hands out: the rest is for tiles. */
export const SCRATCH_BYTES: number = 32 * 2 ** 20;
const ALIGNMENT = 64;

type FourByteArray = Float32Array | Int32Array | Uint32Array;

export class Arena {
  readonly memory: WebAssembly.Memory = new WebAssembly.Memory({ initial: MEMORY_BYTES / PAGE_BYTES });
  readonly bytes: Uint8Array = new Uint8Array(this.memory.buffer);
  #floor = PAGE_BYTES; // the first page holds what the compiler put there
  #top = PAGE_BYTES;

  /** Reserves `bytes` that outlive calls; what was reserved before is given up. */
  scratch(bytes: number): Uint8Array {
    if (!(bytes >= 0 && bytes <= SCRATCH_BYTES))
      throw new PareError("internal", "Kernel scratch memory is too small for this", {
        found: `${bytes} bytes`,
        expected: `at most ${SCRATCH_BYTES}`,
      });
    this.#floor = PAGE_BYTES + Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    return this.bytes.subarray(PAGE_BYTES, PAGE_BYTES + bytes);
  }

  /** Forgets every allocation but the scratch area. */
  reset(): void {
    this.#top = this.#floor;
  }

  /** The present top, for {@link release}. */
  mark(): number {
    return this.#top;
  }

  /** Forgets what was allocated since `mark`. */
  release(mark: number): void {
    this.#top = mark;
  }

  /** Address of `bytes` new bytes, not cleared. */
  allocate(bytes: number): number {
    const at = this.#top;
    this.#top += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    if (this.#top > MEMORY_BYTES) throw new PareError("internal", "A kernel's tile does not fit its memory");
    return at;
  }

  /** {@link allocate}, cleared. */
  zeros(bytes: number): number {
    const at = this.allocate(bytes);
    this.bytes.fill(0, at, at + bytes);
    return at;
  }

  /** Address of the array's elements: where they lie if in this memory already, else of a copy. */
  place(array: Float32Array | Uint8Array | Uint16Array | Int8Array): number {
    return array.buffer === this.memory.buffer ? array.byteOffset : this.copy(array);
  }

  /** Address of a copy of the array's elements. */
  copy(array: FourByteArray | Float64Array | Uint8Array | Uint16Array | Int8Array): number {
    const at = this.allocate(array.byteLength);
    this.bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), at);
    return at;
  }

  floats(at: number, length: number): Float32Array {
    return new Float32Array(this.memory.buffer, at, length);
  }

  doubles(at: number, length: number): Float64Array {
    return new Float64Array(this.memory.buffer, at, length);
  }

  integers(at: number, length: number): Int32Array {
    return new Int32Array(this.memory.buffer, at, length);
  }

  counts(at: number, length: number): Uint32Array {
    return new Uint32Array(this.memory.buffer, at, length);
  }
}
