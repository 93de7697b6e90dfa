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
 * the other costs one computation and the memory of one.
 */
export class SharedParts {
  readonly tensors: readonly Tensor[];
  readonly #compute: () => Promise<readonly Uint8Array[]>;
  readonly #finished = new Set<number>();
  readonly #lengths: readonly number[];
  #result: Promise<readonly Uint8Array[]> | undefined;
  #kept: readonly Uint8Array[] | undefined;

  constructor(parts: readonly PartType[], compute: () => Promise<readonly Uint8Array[]>) {
    this.#compute = compute;
    this.#lengths = parts.map(({ dtype, shape }) => byteLengthOf(dtype, elementCount(shape)));
    this.tensors = parts.map(({ dtype, shape }, index) => new Tensor(dtype, shape, this.#source(index)));
  }

  /** Computes now and keeps the result in memory. */
  async keep(): Promise<void> {
    this.#kept = await this.#all();
  }

  async #all(): Promise<readonly Uint8Array[]> {
    if (this.#kept) return this.#kept;
    this.#result ??= this.#compute();
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
    };
  }

  #finish(index: number): void {
    this.#finished.add(index);
    if (this.#finished.size < this.#lengths.length) return;
    this.#finished.clear();
    this.#result = undefined;
  }
}
