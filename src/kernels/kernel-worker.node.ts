/** A worker thread of the kernel pool: runs one kernel after another, moves results back. */
import { parentPort } from "node:worker_threads";
import { PareError, messageOf } from "../base/error.ts";
import { loadKernels } from "./kernels.ts";
import { type JobReply, type JobRequest, buffersOf } from "./pool-protocol.ts";

const port = parentPort;
if (!port) throw new PareError("internal", "The kernel worker was not started as a worker thread");
const kernels = loadKernels();

// Which job it was cannot be told: ending the worker fails all that it was given
port.on("messageerror", (error) => {
  throw error;
});

port.on("message", ({ id, name, args, giveBack }: JobRequest) => {
  const work = async (): Promise<JobReply> => {
    const loaded = await kernels;
    // The pool's `run` checked the arguments against this very method
    const run = loaded[name].bind(loaded) as (...values: readonly unknown[]) => unknown;
    return { id, result: run(...args), args: giveBack ? args : undefined };
  };
  work().then(
    (reply) => port.postMessage(reply, buffersOf("result" in reply ? [reply.result, ...(reply.args ?? [])] : [])),
    (error: unknown) => {
      const code = error instanceof PareError ? error.code : "internal";
      port.postMessage({ id, error: { code, message: messageOf(error) } } satisfies JobReply);
    },
  );
});
