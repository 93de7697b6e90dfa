/** Peak memory of loading and running a model, measured in a fresh process so that nothing else is counted. */
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { PareError } from "../base/error.ts";
import { workerUrl } from "../base/worker-url.node.ts";
import { loadFile } from "../ir/load.node.ts";
import type { Model } from "../ir/model.ts";
import { saveFile } from "../ir/save.node.ts";
import type { Provider } from "../run/session.ts";
import { indexRanges } from "../run/synthetic.ts";
import type { MemoryFigures, MemoryJob } from "./memory-child.node.ts";

export interface MemoryReport extends MemoryFigures {
  /** Peak resident bytes of the whole process, Node and the engine's library included. */
  readonly peakMemoryBytes: number;
}

export interface MemoryOptions {
  readonly provider?: Provider | undefined;
  readonly threads?: number | undefined;
  /** Samples per run; default 1. */
  readonly batch?: number | undefined;
  readonly dims?: Readonly<Record<string, number>> | undefined;
  /** Default 3: the engine's memory plan settles after the first. */
  readonly runs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Measures a model file, or a model in memory through a temporary file. */
export async function peakMemory(subject: Model | string, options: MemoryOptions = {}): Promise<MemoryReport> {
  if (typeof subject === "string") return measure(subject, await loadFile(subject), options);
  const folder = await mkdtemp(join(tmpdir(), "pare-memory-"));
  try {
    const path = join(folder, "model.onnx");
    await saveFile(subject, path, { force: true });
    return await measure(path, subject, options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function measure(path: string, model: Model, options: MemoryOptions): Promise<MemoryReport> {
  const { provider, threads, batch, dims, runs = 3 } = options;
  const job: MemoryJob = {
    path,
    session: { provider, threads },
    synthetic: { batch, dims, ranges: indexRanges(model) },
    runs,
  };
  const text = await runChild(JSON.stringify(job), options.signal);
  const figures = JSON.parse(text) as MemoryFigures;
  return { ...figures, peakMemoryBytes: figures.peakBytes };
}

function runChild(job: string, signal: AbortSignal | undefined): Promise<string> {
  const script = fileURLToPath(workerUrl(import.meta.url, "./memory-child.node.ts"));
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, job], { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    let complaint = "";
    const abort = (): void => void child.kill("SIGKILL");
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
    child.once("error", reject);
    child.once("close", (code) => {
      signal?.removeEventListener("abort", abort);
      if (signal?.aborted) reject(new PareError("aborted", "Stopped while memory was measured"));
      else if (code === 0) resolve(output);
      else
        reject(
          new PareError("engine", "The process that measures memory failed", {
            found: complaint.trim().slice(0, 300) || `exit code ${code}`,
          }),
        );
    });
  });
}
