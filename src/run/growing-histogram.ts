/** A histogram of one stream of numbers in a single pass, whatever its range turns out to be. */
import type { Kernels } from "../kernels/kernels.ts";

/** Equal bins over [low, high]; where there are bins below zero, zero is a border between two. */
export interface GrownHistogram {
  readonly low: number;
  readonly high: number;
  readonly counts: Float64Array;
}

/** Room above the first batch's largest magnitude, so that the next ones rarely double the range. */
const FIRST_ROOM = 1.25;
/** Beyond this, doubling leaves float32. */
const LARGEST = 2 ** 127;

/**
 * `bins` equal bins from zero up to `high`, and as many below zero once a negative number has been seen. Where a batch goes
 * beyond, `high` doubles and neighbouring bins merge, so that what was counted before is counted as if the range had been
 * known: at least 0.4 of the bins on the larger side are in use in the end. Memory: 8 bytes a bin.
 */
export class GrowingHistogram {
  readonly #kernels: Kernels;
  readonly #bins: number;
  #positive: Float64Array;
  #negative: Float64Array | undefined;
  #high = 0;

  constructor(kernels: Kernels, bins = 2048) {
    this.#kernels = kernels;
    this.#bins = bins;
    this.#positive = new Float64Array(bins);
  }

  /** Counts a batch whose finite elements lie in [min, max]; elements that are not finite are left out. */
  add(data: Float32Array, min: number, max: number): void {
    const peak = Math.max(-min, max);
    if (!(peak > 0)) {
      for (const x of data) if (x === 0) this.#positive[0] = (this.#positive[0] as number) + 1;
      return;
    }
    if (this.#high === 0) this.#high = Math.fround(Math.min(LARGEST, peak * FIRST_ROOM));
    while (peak > this.#high && this.#high < LARGEST) this.#double();
    if (min < 0) this.#negative ??= new Float64Array(this.#bins);
    if (!this.#negative) {
      this.#kernels.histogram(data, 0, this.#high, this.#positive);
      return;
    }
    const both = new Float64Array(2 * this.#bins);
    this.#kernels.histogram(data, -this.#high, this.#high, both);
    for (let i = 0; i < this.#bins; i++) {
      this.#negative[i] = (this.#negative[i] as number) + (both[this.#bins - 1 - i] as number);
      this.#positive[i] = (this.#positive[i] as number) + (both[this.#bins + i] as number);
    }
  }

  /** Without the empty bins at both ends, but for those next to zero. */
  result(): GrownHistogram {
    const [below, above] = [this.#negative, this.#positive].map((counts) => used(counts));
    const width = this.#high / this.#bins;
    const counts = new Float64Array((below ?? 0) + (above ?? 0));
    for (let i = 0; i < (below ?? 0); i++) counts[(below ?? 0) - 1 - i] = this.#negative?.[i] ?? 0;
    counts.set(this.#positive.subarray(0, above), below);
    return { low: below ? -below * width : 0, high: (above ?? 0) * width, counts };
  }

  #double(): void {
    this.#high *= 2;
    this.#positive = mergedPairs(this.#positive);
    this.#negative &&= mergedPairs(this.#negative);
  }
}

/** Halves the resolution: bin i takes bins 2i and 2i + 1, the upper half is empty. */
function mergedPairs(counts: Float64Array): Float64Array {
  const merged = new Float64Array(counts.length);
  for (let i = 0; i < counts.length; i++) {
    const at = i >> 1;
    merged[at] = (merged[at] as number) + (counts[i] as number);
  }
  return merged;
}

/** Bins up to the last that is not empty. */
function used(counts: Float64Array | undefined): number {
  return counts ? counts.findLastIndex((count) => count > 0) + 1 : 0;
}
