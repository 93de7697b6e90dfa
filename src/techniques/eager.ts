/** Which weights are computed at once and which when the model is saved: small ones now, so that the journal is complete. */
import type { SharedParts } from "../transform/shared-source.ts";

/** Weights up to this many bytes, and so many together, are computed at once and kept; larger ones when they are read. */
const EAGER_BYTES = 32 << 20;
const EAGER_TOTAL_BYTES = 256 << 20;

/** Hands out memory for results that are computed at once. */
export class EagerBudget {
  #left = EAGER_TOTAL_BYTES;

  /** Computes and keeps the result if a weight of so many bytes still fits. */
  async keep(result: Pick<SharedParts, "keep">, bytes: number): Promise<void> {
    if (bytes > EAGER_BYTES || bytes > this.#left) return;
    this.#left -= bytes;
    await result.keep();
  }
}
