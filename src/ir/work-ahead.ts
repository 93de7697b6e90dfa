/** Begins the computations behind payloads a bounded stretch before they are written, and stops them when writing ends early. */
import type { Payload } from "../onnx/payload.ts";

/** Results that may wait to be written. */
const AHEAD_BYTES = 64 * 2 ** 20;

export class WorkAhead {
  readonly #payloads: readonly Payload[];
  readonly #signal: AbortSignal | undefined;
  readonly #stop = new AbortController();
  readonly #forward = (): void => this.#stop.abort();
  readonly #running = new Set<Promise<void>>();
  #next = 0; // first payload that was not begun
  #begun = 0; // bytes up to it
  #reached = 0; // bytes before the one being written

  /** @param payloads in the order in which they will be written. */
  constructor(payloads: readonly Payload[], signal: AbortSignal | undefined) {
    this.#payloads = payloads.filter((payload) => payload.prepare);
    this.#signal = signal;
    signal?.addEventListener("abort", this.#forward, { once: true });
    if (signal?.aborted) this.#stop.abort();
  }

  /** Says that this payload is written next: it and those after it are begun as far as the bound allows. */
  reach(payload: Payload): void {
    if (!payload.prepare) return;
    for (; this.#next < this.#payloads.length; this.#next++) {
      const begin = this.#payloads[this.#next] as Payload;
      if (this.#begun > this.#reached && this.#begun + begin.byteLength > this.#reached + AHEAD_BYTES) break;
      this.#begun += begin.byteLength;
      const running = begin.prepare?.(this.#stop.signal).catch(() => undefined); // the read reports it
      if (!running) continue;
      this.#running.add(running);
      void running.then(() => this.#running.delete(running));
    }
    this.#reached += payload.byteLength;
  }

  /** Stops what is still being computed and waits for its end. */
  async stop(): Promise<void> {
    this.#signal?.removeEventListener("abort", this.#forward);
    this.#stop.abort();
    await Promise.all(this.#running);
  }
}
