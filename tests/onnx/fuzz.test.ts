import { readFileSync, writeFileSync } from "node:fs";
import { expect, it } from "vitest";
import { PareError } from "../../src/base/error.ts";
import { Rng } from "../../src/base/rng.ts";
import { checkModel } from "../../src/ir/check.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { load } from "../../src/ir/load.ts";
import { memoryByteSource } from "../../src/onnx/byte-source.ts";
import { ModelProtoSchema } from "../../src/onnx/gen/onnx_pb.js";
import { scan } from "../../src/onnx/scan.ts";
import { type Seed, mutate } from "../support/mutate.ts";
import { sharedData } from "../support/shared-data.ts";
import { strangeFile } from "../support/strange-file.ts";

// `node tools/fuzz-reader.mjs CASES SEED` runs more of them than the few thousand here, and keeps the figures.
const cases = Number(process.env["PARE_FUZZ_CASES"] ?? 3000);
const seed = Number(process.env["PARE_FUZZ_SEED"] ?? 1);
const figuresPath = process.env["PARE_FUZZ_FIGURES"];

/** Far above what any file of this size needs (single milliseconds), far below what a person takes for a hang. */
const SECONDS_PER_CASE = 2;

/** Resident memory of the test process with its compiler and all seeds is about 300 MB; damage must not add much. */
const PEAK_BYTES = 1.2e9;

/** Real models of up to half a megabyte: CNNs, transformers, recurrent, custom operators, external data. */
const REAL = [
  "mnist-8",
  "dscnn-kws",
  "resnet8-cifar10",
  "tiny-distilbert-cls",
  "tiny-random-llama-fp16/model",
  "qonnx-tfc-2w2a",
  "super-resolution",
  "basic-pitch",
  "cifar10-vit-ibp_3_3_8",
  "swift-f0",
];

async function seeds(): Promise<Seed[]> {
  const files = new Map<string, Uint8Array>([["generated", strangeFile()]]);
  for (const name of REAL) {
    const path = sharedData(`models/${name}.onnx`);
    if (path) files.set(name, readFileSync(path));
  }
  const found: Seed[] = [];
  for (const [name, bytes] of files)
    found.push({ name, bytes, weights: (await scan(memoryByteSource(bytes), ModelProtoSchema)).ranges });
  return found;
}

it(`survives ${cases} damaged files: a model or a PareError, in bounded time and memory`, {
  timeout: 10_000 + cases * 50,
}, async () => {
  const corpus = await seeds();
  const root = new Rng(seed);
  const outcomes: Record<string, number> = {};
  let slowestSeconds = 0;
  let peakBytes = 0;
  const start = performance.now();
  for (let i = 0; i < cases; i++) {
    const rng = root.fork(i);
    // Half of the cases go to the small generated file, where every byte is structure.
    const from = rng.below(2) === 0 ? corpus[0] : corpus[rng.below(corpus.length)];
    const bytes = mutate(from as Seed, corpus, rng);
    const caseStart = performance.now();
    const outcome = await read(bytes);
    const seconds = (performance.now() - caseStart) / 1000;
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    slowestSeconds = Math.max(slowestSeconds, seconds);
    if (i % 100 === 0) peakBytes = Math.max(peakBytes, process.memoryUsage.rss());
    const where = `case ${i} of seed ${seed}, a damaged ${from?.name}`;
    expect(outcome.startsWith("crash"), `${where}: ${outcome}`).toBe(false);
    expect(seconds, where).toBeLessThan(SECONDS_PER_CASE);
  }
  expect(peakBytes).toBeLessThan(PEAK_BYTES);
  // Damage must not be harmless on the whole, nor kill everything at the first check: both kinds must occur.
  expect(outcomes["model"] ?? 0).toBeGreaterThan(cases / 100);
  expect(outcomes["bad-model"] ?? 0).toBeGreaterThan(cases / 100);
  if (figuresPath) {
    const figures = {
      command: `node tools/fuzz-reader.mjs ${cases} ${seed}`,
      node: process.version,
      seeds: corpus.map(({ name }) => name),
      cases,
      seconds: Math.round((performance.now() - start) / 1000),
      slowestCaseSeconds: Number(slowestSeconds.toFixed(3)),
      peakMegabytes: Math.round(peakBytes / 1e6),
      outcomes: Object.fromEntries(Object.entries(outcomes).sort()),
    };
    writeFileSync(figuresPath, `${JSON.stringify(figures, undefined, 2)}\n`);
  }
});

/** What became of the bytes: "model", or the code of the error, or a crash. */
async function read(bytes: Uint8Array): Promise<string> {
  try {
    const model = await load(bytes);
    checkModel(model);
    await encodeModel(model).catch((error: unknown) => {
      // Weights that turn out damaged or absent when they are read.
      if (!(error instanceof PareError) || error.code === "internal") throw error;
    });
    return "model";
  } catch (error) {
    if (error instanceof PareError && error.code !== "internal") return error.code;
    return `crash: ${error instanceof Error ? error.stack : String(error)}`;
  }
}
