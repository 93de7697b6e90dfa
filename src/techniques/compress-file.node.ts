/** File in, proven file out: the result is written beside its place, proven as it lies on the disk, and only then moved there. */
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { PareError } from "../base/error.ts";
import { both } from "../base/settle.ts";
import { type SizeReport, sizeOf } from "../evaluate/size.node.ts";
import { VERSION } from "../base/version.ts";
import { fingerprintData } from "../data/fingerprint.ts";
import { fingerprint } from "../ir/fingerprint.ts";
import type { Model } from "../ir/model.ts";
import { FinishedFolder } from "./finished.node.ts";
import { formatStep } from "./recipe.ts";
import { loadFile } from "../ir/load.node.ts";
import { saveFile } from "../ir/save.node.ts";
import { outputError } from "../onnx/atomic-write.node.ts";
import { type CompressOptions, type CompressReport, reportOf, runSteps } from "./pipeline.node.ts";
import { prove, proveIntegers } from "./prove.node.ts";
import type { Step } from "./technique.ts";

export interface CompressFileOptions extends CompressOptions {
  /** Overwrite what is at the output path. */
  readonly force?: boolean;
  /** Bytes above which weights go to a `.data` file beside the model; default: only what protobuf cannot hold. */
  readonly externalDataThreshold?: number;
}

/** Runs the steps on a file of any size. Memory is bounded by the largest tensors in flight, not by the model. */
export async function compressFile(
  input: string,
  output: string,
  steps: readonly Step[],
  options: CompressFileOptions = {},
): Promise<CompressReport> {
  await checkOutput(output, options.force ?? false);
  const original = await loadFile(input);
  const finished = new FinishedFolder(output, () => identityOf(original, steps, options));
  const { model, steps: reports } = await runSteps(original, steps, { ...options, finished });
  const staging = join(dirname(resolve(output)), `.${basename(output)}.${process.pid}.tmp`);
  try {
    await rm(staging, { recursive: true, force: true }); // of a killed process that had the same number
    // Not recursive: where the kernel refuses new folders (/proc), Node's recursive mkdir never returns.
    await mkdir(staging).catch((error: unknown) => {
      throw outputError(error, output);
    });
    const staged = join(staging, basename(output));
    const { externalDataThreshold, signal } = options;
    await saveFile(model, staged, {
      signal,
      onProgress: (done, total) => options.onProgress?.({ stage: "writing", done, total }),
      ...(externalDataThreshold === undefined ? {} : { externalDataThreshold }),
    });
    // Sizes are packed samples, which keep a processor busy while the proof waits for its sessions
    const sizes = async (): Promise<[SizeReport, SizeReport]> => [
      await sizeOf(input, { signal }),
      await sizeOf(staged, { signal }),
    ];
    const [verified, [before, after]] = await both(prove(original, await loadFile(staged), options), sizes());
    const integer = await proveIntegers(original, await loadFile(staged), options);
    const report = reportOf(before, after, reports, verified, integer);
    for (const name of await readdir(staging)) if (name !== basename(output)) await move(staging, name, output);
    await move(staging, basename(output), output);
    await finished.remove();
    return report;
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

/** What makes two runs the same run. */
async function identityOf(original: Model, steps: readonly Step[], options: CompressFileOptions): Promise<string> {
  const { data, seed = 1, provider = "cpu" } = options;
  const input = await fingerprint(original);
  return JSON.stringify({
    version: VERSION,
    input,
    steps: steps.map(formatStep),
    data: data && (await fingerprintData(data)),
    seed,
    provider,
  });
}

function move(staging: string, name: string, output: string): Promise<void> {
  return rename(join(staging, name), join(dirname(resolve(output)), name));
}

/** Fails before any work is done when the output cannot be written. */
export async function checkOutput(output: string, force: boolean): Promise<void> {
  const folder = dirname(resolve(output));
  if (!(await stat(folder).catch(() => undefined))?.isDirectory())
    throw new PareError("output", "The output's folder does not exist", {
      where: output,
      help: `Make it: mkdir -p '${dirname(output)}'`,
    });
  if ((await stat(output).catch(() => undefined))?.isDirectory())
    throw new PareError("output", "The output is a folder", { where: output, expected: "the name of a file" });
  if (!force && existsSync(output))
    throw new PareError("output", "The output exists already", {
      where: output,
      help: "Name another, or pass --force to overwrite it",
    });
}
