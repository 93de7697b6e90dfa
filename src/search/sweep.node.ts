/** A sweep: many recipes on one model, each built, saved, verified, evaluated and benchmarked; the front of what came out. */
import { createHash } from "node:crypto";
import { access, mkdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { PareError, messageOf } from "../base/error.ts";
import { VERSION } from "../base/version.ts";
import type { Dataset } from "../data/dataset.ts";
import { machineInfo } from "../evaluate/machine.node.ts";
import { sizeOf } from "../evaluate/size.node.ts";
import { fingerprint } from "../ir/fingerprint.ts";
import { loadFile } from "../ir/load.node.ts";
import type { Model } from "../ir/model.ts";
import { saveFile } from "../ir/save.node.ts";
import type { Provider } from "../run/session.ts";
import { prove } from "../techniques/prove.node.ts";
import { type Recipe, formatSteps } from "../techniques/recipe.ts";
import { Measurer } from "./measure.node.ts";
import { PrefixBuilder } from "./prefix-builder.node.ts";
import type { Entry, Objective, Results } from "./results.ts";
import { folderStore } from "./results-store.node.ts";
import { type NamedRecipe, nameRecipes, recipeAsData } from "./sweep-recipes.ts";
import { type Measured, type SweepJob, type SweepProgress, runSweep } from "./sweep.ts";

export interface SweepOptions {
  /** Folder for results.json and models/. */
  readonly directory: string;
  /** Samples for calibration and training. */
  readonly data?: Dataset | undefined;
  /** Held-out, labelled samples to judge on. Without it models are judged by fidelity to the original. */
  readonly evaluation?: Dataset | undefined;
  readonly seed?: number | undefined;
  readonly provider?: Provider | undefined;
  /** Engine threads; default its own choice. */
  readonly threads?: number | undefined;
  /** Samples per run of the benchmark. Default 1. */
  readonly batch?: number | undefined;
  /** Seconds of timing per model; 0 leaves timing out. Default 1. */
  readonly benchmarkSeconds?: number | undefined;
  /** Measure peak memory in a fresh process per model. Default true. */
  readonly memory?: boolean | undefined;
  /** Judge on at most so many samples. */
  readonly samples?: number | undefined;
  /** Samples for the error of each layer; 0 leaves it out. Default 8. */
  readonly layerSamples?: number | undefined;
  /** Default: quality, download size, time. */
  readonly objectives?: readonly Objective[] | undefined;
  /** Reference point of the hypervolume. */
  readonly reference?: readonly number[] | undefined;
  /** What the report is called; default the model's file name. */
  readonly title?: string | undefined;
  /** The command that runs this sweep, for the report. */
  readonly command?: string | undefined;
  /** Measure everything again, whatever results.json holds. */
  readonly fresh?: boolean | undefined;
  /** Sessions in the calling thread: for tests. */
  readonly inProcess?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: SweepProgress) => void) | undefined;
  readonly onEntry?: ((entry: Entry, resumed: boolean) => void) | undefined;
}

/**
 * Runs every recipe and returns the results, which are also in `directory`/results.json after each recipe. A recipe that fails is an
 * entry with its error. What an earlier run of the same model, recipe, data, seed, settings and version measured is taken over.
 * Errors: `bad-option`, `output`, `aborted`, and whatever keeps the original itself from being measured.
 */
export async function sweep(
  subject: Model | string,
  recipes: readonly Recipe[],
  options: SweepOptions,
): Promise<Results> {
  const { directory, data, evaluation, signal, seed = 1 } = options;
  const model = typeof subject === "string" ? await loadFile(subject) : subject;
  const path = typeof subject === "string" ? subject : model.path;
  const folder = join(directory, "models");
  await makeFolder(folder);
  const named = nameRecipes(recipes);
  const print = await fingerprint(model);
  const { provider, threads } = options;
  const builder = new PrefixBuilder(model, named, { data, evaluation, seed, provider, threads, signal });
  const measurer = new Measurer(model, options);
  const keyOf = (steps: NamedRecipe["steps"]): string => sweepKey(print, steps, options);
  const jobs: SweepJob[] = [
    {
      id: "baseline",
      label: "Original",
      family: "baseline",
      recipe: [],
      key: keyOf([]),
      run: (onStage) => measurer.baseline(path ?? model, onStage),
    },
    ...named.map(({ id, label, family, steps }): SweepJob => {
      const file = join(folder, `${id}.onnx`);
      const output = `models/${id}.onnx`;
      return {
        id,
        label,
        family,
        recipe: recipeAsData(steps),
        command: commandFor(path, steps, options, join(directory, output)),
        key: keyOf(steps),
        present: (entry) => exists(join(directory, entry.output ?? output)),
        run: async (onStage): Promise<Measured> => {
          try {
            const built = await builder.build(steps, (share, stage) => onStage(stage, 0.4 * share));
            onStage("saving", 0.4);
            await saveFile(built.model, file, { force: true, signal });
            const saved = await loadFile(file);
            onStage("verifying", 0.45);
            const verified = await prove(model, saved, { data, evaluation, seed, provider, threads, signal });
            const measured = await measurer.measure(saved, file, (stage, share) => onStage(stage, 0.5 + share / 2));
            return { ...measured, verified, steps: built.steps, output };
          } finally {
            builder.done(steps);
          }
        },
      };
    }),
  ];
  const machine = machineInfo();
  const size = await sizeOf(path ?? model, { brotliQuality: 1, countBytes: 0, signal });
  try {
    return await runSweep({
      header: {
        title: options.title ?? (path === undefined ? "model" : basename(path).replace(/\.onnx$/, "")),
        created: new Date().toISOString(),
        machine: { ...machine, cpu: [machine.cpu, ...machine.features].join(", ") },
        model: { name: path === undefined ? "model" : basename(path), bytes: size.bytes, sha256: print },
        data: { calibration: data?.name, evaluation: evaluation?.name },
        seed,
        command: options.command,
        measured: { provider: provider ?? "cpu", threads: threads ?? 0, batch: options.batch ?? 1 },
      },
      jobs,
      objectives: options.objectives,
      reference: options.reference,
      store: folderStore(directory, { fresh: options.fresh }),
      signal,
      onProgress: options.onProgress,
      onEntry: options.onEntry,
    });
  } finally {
    await measurer.close();
  }
}

/** Everything that decides the outcome of one recipe, hashed. */
function sweepKey(print: string, steps: NamedRecipe["steps"], options: SweepOptions): string {
  const { data, evaluation, seed = 1, provider = "cpu", threads = 0, batch = 1 } = options;
  const { benchmarkSeconds = 1, memory = true, samples, layerSamples = 8 } = options;
  const parts = [
    VERSION,
    print,
    recipeAsData(steps),
    [data?.name, data?.size, evaluation?.name, evaluation?.size],
    [seed, provider, threads, batch, benchmarkSeconds, memory, samples, layerSamples],
  ];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
}

/** The command that makes one model again; undefined for a model that was never a file. */
function commandFor(
  path: string | undefined,
  steps: NamedRecipe["steps"],
  options: SweepOptions,
  output: string,
): string | undefined {
  if (path === undefined) return undefined;
  const { data, evaluation, seed = 1, threads, provider } = options;
  return [
    `npx pare compress ${quoted(path)}`,
    formatSteps(steps),
    data && `--data ${quoted(data.name)}`,
    evaluation && `--evaluate ${quoted(evaluation.name)}`,
    `--seed ${seed}`,
    threads && `--threads ${threads}`,
    provider && provider !== "cpu" && `--provider ${provider}`,
    `-o ${quoted(output)}`,
  ]
    .filter(Boolean)
    .join(" ");
}

/** A shell word: as it is when nothing in it is special, else in single quotes. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw new PareError("output", `Cannot make the folder for the models: ${messageOf(error)}`, {
      where: folder,
      help: "Name a folder that can be written",
      cause: error,
    });
  }
}
