/**
 * Gives the memory of arrays back at once. The collector counts array buffers by their bytes and walks the whole heap every 64 MiB of
 * them; where values stream through, that takes as long as computing them. A buffer that is moved to a closed port is freed there and
 * then.
 */
import { MessageChannel, type MessagePort } from "node:worker_threads";
import { bytesOf, type TypedData } from "../base/dtype.ts";
import type { NdArray } from "./session.ts";

let closed: MessagePort | undefined;

/** Nobody may hold the arrays, or others over the same memory: they are empty afterwards. Shared memory and strings stay. */
export function release(arrays: Iterable<NdArray>): void {
  const buffers = new Set<ArrayBuffer>();
  for (const { dtype, data } of arrays) {
    if (dtype === "string") continue;
    const { buffer } = bytesOf(data as TypedData);
    if (buffer instanceof ArrayBuffer && buffer.byteLength > 0) buffers.add(buffer);
  }
  closed ??= closedPort();
  closed.postMessage(null, [...buffers]);
}

function closedPort(): MessagePort {
  const { port1, port2 } = new MessageChannel();
  port2.close();
  port1.unref();
  return port1;
}
