/** The worker thread of one session: opens the model, answers requests in order, ends when closed or told to stop. */
import { parentPort, workerData } from "node:worker_threads";
import { bytesOf, type TypedData } from "../base/dtype.ts";
import { messageOf } from "../base/error.ts";
import { Engine } from "./engine.node.ts";
import { CONTROL, type Envelope, type Reply, type Request, type WorkerSetup } from "./session-protocol.ts";
import type { NdArray } from "./session.ts";

const port = parentPort;
if (!port) throw new Error("This script runs in a worker thread only");
const { source, options, control } = workerData as WorkerSetup;
const stopped = (): boolean => Atomics.load(control, CONTROL.stop) === 1;

/** Marks the control block while the engine computes, so that nobody ends this thread inside native code. */
async function busy<T>(work: () => Promise<T>): Promise<T> {
  Atomics.store(control, CONTROL.busy, 1);
  try {
    return await work();
  } finally {
    Atomics.store(control, CONTROL.busy, 0);
    Atomics.notify(control, CONTROL.busy);
  }
}

function send(reply: Reply): void {
  const buffers: ArrayBuffer[] = "arrays" in reply ? transferable(reply.arrays) : [];
  port?.postMessage(reply, buffers);
}

/** Buffers of results that can be moved instead of copied: each once. */
function transferable(arrays: Record<string, NdArray>): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  for (const array of Object.values(arrays)) {
    if (array.dtype === "string") continue;
    const { buffer } = bytesOf(array.data as TypedData);
    if (buffer instanceof ArrayBuffer) buffers.add(buffer);
  }
  return [...buffers];
}

async function answer(engine: Engine, id: number, request: Request): Promise<void> {
  switch (request.kind) {
    case "run":
      return send({ id, arrays: await busy(() => engine.run(request.feeds, request.fetches)) });
    case "step":
      return send({ id, arrays: await busy(() => engine.step(request.feeds, request.fetches)) });
    case "time":
      return send({ id, seconds: await busy(() => engine.time(request.feeds, request.times, stopped)) });
    case "readState":
      return send({ id, arrays: engine.readState(request.names) });
    case "bind":
      engine.bind(request.state, request.links);
      return send({ id, done: true });
    case "writeState":
      engine.writeState(request.values);
      return send({ id, done: true });
    case "close":
      await busy(() => engine.close());
      send({ id, done: true });
      port?.close();
  }
}

async function serve(): Promise<void> {
  let engine: Engine;
  try {
    engine = await busy(() => Engine.open(source, options));
  } catch (error) {
    send({ id: 0, error: messageOf(error) });
    port?.close();
    return;
  }
  let queue: Promise<void> = Promise.resolve();
  port?.on("message", ({ id, request }: Envelope) => {
    queue = queue.then(async () => {
      if (stopped() && request.kind !== "close") return;
      await answer(engine, id, request).catch((error: unknown) => send({ id, error: messageOf(error) }));
    });
  });
  send({ id: 0, ports: { inputs: engine.inputs, outputs: engine.outputs } });
}

await serve();
