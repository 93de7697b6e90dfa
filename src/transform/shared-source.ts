/** Several lazy tensors out of one computation: codes, scales and zero points of one weight are computed together, once. */
import type { DType } from "../base/dtype.ts";
import { byteLengthOf } from "../base/dtype.ts";
import { elementCount } from "../base/shape.ts";
import { Tensor, type TensorSource } from "../ir/tensor.ts";

/** Dtype and shape of one part, known before anything is computed. */
export interface PartType {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/**
 * The parts of one computation as lazy tensors. The first read computes all parts; when every part has been read to its
 * end, they are dropped (unless kept) and a later read computes them again. So a saver that writes the parts one after
 * the other costs one computation and the memory of one. With `ahead`, a saver may begin the computation before it reads:
 * for computations that bound their own memory.
 */
export class SharedParts {
  readonly tensors: readonly Tensor[];
  #compute: (signal?: AbortSignal) => Promise<readonly Uint8Array[]>;
  readonly #ahead: boolean;
  readonly #finished = new Set<number>();
  readonly #lengths: readonly number[];
  #result: Promise<readonly Uint8Array[]> | undefined;
  #kept: readonly Uint8Array[] | undefined;

  constructor(
    parts: readonly PartType[],
    compute: (signal?: AbortSignal) => Promise<readonly Uint8Array[]>,
    options: { readonly ahead?: boolean } = {},
  ) {
    this.#compute = compute;
    this.#ahead = options.ahead ?? false;
    this.#lengths = parts.map(({ dtype, shape }) => byteLengthOf(dtype, elementCount(shape)));
    this.tensors = parts.map(({ dtype, shape }, index) => new Tensor(dtype, shape, this.#source(index)));
  }

  /** Computes now and keeps the result in memory. */
  async keep(): Promise<void> {
    const kept = await this.#all();
    this.#kept = kept;
    // Lets go of what it was computed from
    this.#compute = () => Promise.resolve(kept);
  }

  async #all(signal?: AbortSignal): Promise<readonly Uint8Array[]> {
    if (this.#kept) return this.#kept;
    if (!this.#result) {
      const result = this.#compute(signal);
      this.#result = result;
      // What failed or was stopped is begun anew by the next read
      result.catch(() => {
        if (this.#result === result) this.#result = undefined;
      });
    }
    return this.#result;
  }

  #source(index: number): TensorSource {
    const byteLength = this.#lengths[index] ?? 0;
    const kept = (): Uint8Array | undefined => this.#kept?.[index];
    return {
      byteLength,
      get resident() {
        return kept();
      },
      read: async (offset = 0, length = byteLength - offset) => {
        const bytes = (await this.#all())[index]?.subarray(offset, offset + length) ?? new Uint8Array(0);
        if (offset + length >= byteLength) this.#finish(index);
        return bytes;
      },
      ...(this.#ahead
        ? {
            prepare: async (signal: AbortSignal) => {
              await this.#all(signal);
            },
          }
        : {}),
    };
  }

  #finish(index: number): void {
    this.#finished.add(index);
    if (this.#finished.size < this.#lengths.length) return;
    this.#finished.clear();
    this.#result = undefined;
  }
}
