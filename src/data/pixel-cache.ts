/** Decoded pictures of one size kept in memory up to a limit, so that a second pass over the data decodes nothing. */

/** All of CIFAR-10 (154 MB) and more than a thousand 224×224 pictures; small beside what an engine takes to train on them. */
const BYTES_LIMIT = 256 * 2 ** 20;

/**
 * The first pictures that come are kept until the memory is full; none is given up for another, since in passes over all of
 * them the one that was seen longest ago is the next to be wanted.
 */
export class PixelCache {
  /** Place of each picture plus one; 0 where it is not kept. */
  readonly #places: Uint32Array;
  readonly #bytes: number;
  readonly #capacity: number;
  #data: Uint8Array | undefined;
  #kept = 0;

  /** For `count` pictures of `bytes` bytes each, at most `limit` bytes in all. */
  constructor(count: number, bytes: number, limit: number = BYTES_LIMIT) {
    this.#places = new Uint32Array(count);
    this.#bytes = bytes;
    this.#capacity = Math.min(count, Math.floor(limit / bytes));
  }

  /** The picture's pixels where they are kept; not to be written to. */
  get(index: number): Uint8Array | undefined {
    const place = this.#places[index] ?? 0;
    return place === 0 ? undefined : this.#data?.subarray((place - 1) * this.#bytes, place * this.#bytes);
  }

  put(index: number, pixels: Uint8Array): void {
    if (this.#kept === this.#capacity || this.#places[index] !== 0) return;
    // Pages of it are real memory only once they are written.
    this.#data ??= new Uint8Array(this.#capacity * this.#bytes);
    this.#data.set(pixels, this.#kept * this.#bytes);
    this.#places[index] = ++this.#kept;
  }
}
