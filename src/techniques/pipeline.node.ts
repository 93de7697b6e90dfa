/** The runner: runs the steps of a recipe, checks the model after each, and proves the result before it is called a success. */
import { PareError, throwIfAborted } from "../base/error.ts";
import { formatShape } from "../base/shape.ts";
import type { Dataset } from "../data/dataset.ts";
import { type IntegerReport, integerLines } from "../evaluate/integer-report.node.ts";
import { type SizeReport, sizeOf } from "../evaluate/size.node.ts";
import { checkModel } from "../ir/check.ts";
import { cloneModel } from "../ir/clone.ts";
import { fingerprint } from "../ir/fingerprint.ts";
import type { Model } from "../ir/model.ts";
import { isStoredSparse } from "../ir/sparse/sparse-storage.ts";
import type { Provider } from "../run/session.ts";
import { VERSION } from "../base/version.ts";
import { type Change, Journal, type Skip } from "./journal.ts";
import { storeSparse } from "./prune/storage/store-sparse.ts";
import { type Proof, prove, proveIntegers } from "./prove.node.ts";
import type { Finished } from "./finished.ts";
import { canImagine, imaginedData } from "./imagined-data.ts";
import { formatStep } from "./recipe.ts";
import type { Context, Progress, Step } from "./technique.ts";

export interface CompressOptions {
  /** Samples for calibration and training. */
  readonly data?: Dataset | undefined;
  /** Held-out samples: the proof compares outputs on them; default: `data`, else synthetic inputs. */
  readonly evaluation?: Dataset | undefined;
  readonly seed?: number | undefined;
  readonly provider?: Provider | undefined;
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What the user started from, when the given model has gone through steps already; default: the given model. */
  readonly original?: Model | undefined;
  /** Where finished parts of long steps survive a kill. */
  readonly finished?: Finished | undefined;
  onProgress?(progress: Progress): void;
}

/** One step of the report. */
export interface StepReport {
  readonly technique: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly seconds: number;
  readonly changed: readonly Change[];
  readonly skipped: readonly Skip[];
  readonly notes: readonly string[];
}

/** What `compress --json` prints, without the output's path. Bytes are of the files as written. */
export interface CompressReport {
  readonly input: SizeReport;
  readonly result: SizeReport;
  /** Bytes of the input over bytes of the result. */
  readonly ratio: number;
  readonly steps: readonly StepReport[];
  readonly verified: Proof;
  /** Of a model that computes with integers: which operators do, which do not and why, and what makes it slow where it is. */
  readonly integer?: IntegerReport;
  /** What a user should know: a file that grew, a proof that was partial. */
  readonly notes: readonly string[];
}

/** Recipe, version, seed and fingerprint that the runner itself adds to a file: no growth worth a note. */
const METADATA_BYTES = 1024;

/** A model that has gone through its steps but is not proven yet. */
export interface Unproven {
  readonly model: Model;
  readonly steps: readonly StepReport[];
}

/**
 * Runs the steps on a clone; the given model stays as it is. After each step the structure is checked and the promised
 * inputs and outputs are compared. Weights may still be lazy: they are computed when the model is saved.
 */
export async function runSteps(
  original: Model,
  steps: readonly Step[],
  options: CompressOptions = {},
): Promise<Unproven> {
  for (const step of steps) checkNeeds(step, original, options);
  let model = cloneModel(original);
  let imagined: Dataset | undefined;
  const reports: StepReport[] = [];
  const all = [...steps, ...closingSteps(original, steps)];
  for (const [index, step] of all.entries()) {
    throwIfAborted(options.signal);
    const journal = new Journal();
    const given: Context = {
      data: options.data,
      evaluation: options.evaluation,
      original: options.original ?? original,
      seed: options.seed ?? 1,
      provider: options.provider ?? "cpu",
      threads: options.threads ?? 0,
      signal: options.signal,
      journal,
      finished: options.finished && {
        get: (key) => options.finished?.get(`${index} ${key}`) ?? Promise.resolve(undefined),
        put: (key, bytes) => options.finished?.put(`${index} ${key}`, bytes) ?? Promise.resolve(),
      },
      onProgress: (progress) =>
        options.onProgress?.({
          stage: all.length > 1 ? `${index + 1}/${all.length} ${progress.stage}` : progress.stage,
          done: progress.done,
          total: progress.total,
        }),
    };
    const started = performance.now();
    let context = given;
    if (!given.data && step.technique.needs.includes("calibration")) {
      // Steps before may have folded the normalizations
      imagined ??= await imaginedData(original, {}, given);
      context = { ...given, data: imagined };
      journal.note(
        `Calibrated on ${imagined.size} samples made from the statistics of BatchNormalization, half of them noise: real ones (--data) are better.`,
      );
    }
    model = await step.technique.run(model, step.options as never, context);
    checkResult(original, model, step);
    const seconds = (performance.now() - started) / 1000;
    const { changed, skipped, notes } = journal;
    reports.push({ technique: step.technique.name, options: step.options, seconds, changed, skipped, notes });
  }
  await stamp(original, model, steps, options.seed ?? 1);
  return { model, steps: reports };
}

/** What the steps want done at the end, and the sparse storage that the given model has: its weights are dense while steps change them. */
function closingSteps(original: Model, steps: readonly Step[]): Step[] {
  const closing = new Map<string, Step>();
  for (const { technique, options } of steps) {
    const step = technique.closing?.(options);
    if (step) closing.set(step.technique.name, step);
  }
  if ([...original.graph.initializers.values()].some(isStoredSparse)) closing.set(storeSparse.name, storeSparse());
  for (const { technique } of steps) closing.delete(technique.name);
  return [...closing.values()];
}

/** Runs the steps in memory and proves the result: for models that fit into memory. Larger ones: {@link compressFile}. */
export async function compress(
  original: Model,
  steps: readonly Step[],
  options: CompressOptions = {},
): Promise<{ readonly model: Model; readonly report: CompressReport }> {
  const { model, steps: reports } = await runSteps(original, steps, options);
  const verified = await prove(original, model, options);
  const [input, result] = [await sizeOf(original), await sizeOf(model)];
  const integer = await proveIntegers(original, model, options);
  return { model, report: reportOf(input, result, reports, verified, integer) };
}

/** Puts the report together and says what a user should know. */
export function reportOf(
  input: SizeReport,
  result: SizeReport,
  steps: readonly StepReport[],
  verified: Proof,
  integer?: IntegerReport,
): CompressReport {
  const notes = verified.note === undefined ? [] : [verified.note];
  if (integer) notes.push(...integerLines(integer));
  if (result.bytes > input.bytes + METADATA_BYTES)
    notes.push(`The result is larger than the input: ${result.bytes} bytes instead of ${input.bytes}.`);
  for (const step of steps) if (step.changed.length === 0) notes.push(`${step.technique} changed nothing.`);
  return {
    input,
    result,
    ratio: input.bytes / result.bytes,
    steps,
    verified,
    ...(integer ? { integer } : {}),
    notes,
  };
}

/** Refuses a step whose needs are not met, before anything runs. */
function checkNeeds(step: Step, original: Model, options: CompressOptions): void {
  const { name, needs, demands } = step.technique;
  for (const need of [...needs, ...(demands?.(step.options) ?? [])]) {
    if (need === "calibration" && needs.includes(need) && !options.data && canImagine(original)) continue;
    if ((need === "calibration" || need === "training" || need === "labels") && !options.data)
      throw new PareError("bad-option", `${name} needs samples (${need})`, {
        help: "Name a data set with --data, for example --data 'idx:mnist?split=train'",
      });
    if (need === "labels" && options.data && options.data.labels === undefined)
      throw new PareError("bad-data", `${name} needs labels, and the data set has none`, { where: options.data.name });
  }
}

/** Names of inputs or outputs. Inputs with a default are weights that older exporters list; a technique may freeze them. */
function promised(model: Model, side: "inputs" | "outputs"): string {
  const values = model.graph[side].filter((value) => side === "outputs" || value.tensor === undefined);
  return values.map((value) => value.name).join(", ");
}

function hasProblem(model: Model, message: string): boolean {
  return checkModel(model).some((problem) => problem.severity === "error" && problem.message === message);
}

/** Structure, inputs and outputs of a step's result. */
function checkResult(original: Model, model: Model, step: Step): void {
  const problem = checkModel(model).find(({ severity }) => severity === "error");
  if (problem && hasProblem(original, problem.message))
    throw new PareError("bad-model", `The model is not valid: ${problem.message}`, {
      where: problem.where,
      help: "Repair it first; 'pare check' lists what is wrong with it",
    });
  if (problem)
    throw new PareError("verification", `${step.technique.name} made an invalid model: ${problem.message}`, {
      where: problem.where,
    });
  for (const side of ["inputs", "outputs"] as const) {
    const before = promised(original, side);
    const after = promised(model, side);
    if (before !== after)
      throw new PareError("verification", `${step.technique.name} changed the model's ${side}`, {
        found: after,
        expected: before,
      });
  }
  for (const value of original.graph.inputs) {
    const now = model.graph.inputs.find((input) => input.name === value.name);
    if (now && value.shape && now.shape && value.shape.length !== now.shape.length)
      throw new PareError("verification", `${step.technique.name} changed the rank of an input`, {
        where: value.name,
        found: formatShape(now.shape),
        expected: formatShape(value.shape),
      });
  }
}

/** Writes recipe, version and the input's fingerprint into the model's metadata: what was done can be read from the file. */
async function stamp(original: Model, model: Model, steps: readonly Step[], seed: number): Promise<void> {
  const before = original.metadata.get("pare.recipe");
  const recipe = steps.map(formatStep).join(" ");
  model.metadata.set("pare.version", VERSION);
  model.metadata.set("pare.recipe", before ? `${before} ${recipe}` : recipe);
  model.metadata.set("pare.seed", String(seed));
  if (!before) model.metadata.set("pare.input", `sha256:${await fingerprint(original)}`);
}
