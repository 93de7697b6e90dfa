/** A worker thread of the kernel pool: runs one kernel after another, moves results back. */
import { parentPort } from "node:worker_threads";
import { type DType, byteLengthOf, bytesOf } from "../base/dtype.ts";
import { PareError, messageOf } from "../base/error.ts";
import type { FileRange } from "../base/file-range.ts";
import { readFileRange } from "../base/file-range.node.ts";
import { toFloat32 } from "../base/to-float32.ts";
import { loadKernels } from "./kernels.ts";
import { type JobName, type JobReply, type JobRequest, type StreamJobs, buffersOf } from "./pool-protocol.ts";
import type { BlockQuantizer, Kernels } from "./types.ts";

const port = parentPort;
if (!port) throw new PareError("internal", "The kernel worker was not started as a worker thread");
const kernels = loadKernels();
const quantizers = new Map<number, BlockQuantizer>();

function quantizerOf(stream: number): BlockQuantizer {
  const quantizer = quantizers.get(stream);
  if (!quantizer) throw new PareError("internal", "A kernel worker was asked for a stream that it does not have");
  return quantizer;
}

/** Fills `target` with float32s, from byte `offset` of all of them on: straight from the file where that is what it holds. */
function readFloats(dtype: DType, file: FileRange, target: Uint8Array, offset: number): void {
  if (dtype === "float32") return readFileRange(file, target, offset);
  const stored = new Uint8Array(byteLengthOf(dtype, target.byteLength / 4));
  readFileRange(file, stored, byteLengthOf(dtype, offset / 4));
  target.set(bytesOf(toFloat32(dtype, stored)));
}

const streams = (loaded: Kernels): StreamJobs => ({
  openBlocks(stream, stored, spec) {
    quantizers.set(stream, loaded.blockQuantizer(stored, spec));
  },
  pushBlocks(stream, dtype, rows) {
    quantizerOf(stream).push(toFloat32(dtype, rows));
  },
  readBlocks(stream, dtype, rows, file) {
    quantizerOf(stream).pull(rows, (target, offset) => readFloats(dtype, file, target, offset));
  },
  finishBlocks(stream) {
    const result = quantizerOf(stream).finish();
    quantizers.delete(stream);
    return result;
  },
  dropBlocks(stream) {
    quantizers.delete(stream);
  },
});

// Which job it was cannot be told: ending the worker fails all that it was given
port.on("messageerror", (error) => {
  throw error;
});

port.on("message", ({ id, name, args, giveBack }: JobRequest) => {
  const work = async (): Promise<JobReply> => {
    const loaded = await kernels;
    // The pool's methods checked the arguments against this very method
    const run = (name in loaded ? loaded[name as JobName].bind(loaded) : streams(loaded)[name as keyof StreamJobs]) as (
      ...values: readonly unknown[]
    ) => unknown;
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
