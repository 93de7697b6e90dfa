/** The contract of a technique: name, summary, needs, options as a schema, run. Verbs, flags, help, docs and spaces derive from it. */
import type { z } from "zod";
import type { Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import type { Provider } from "../run/session.ts";
import type { Finished } from "./finished.ts";
import type { Journal } from "./journal.ts";

/** What a technique cannot work without; checked before it runs, with a clear error. */
export type Need = "calibration" | "training" | "labels" | "teacher";

/** Progress of a long job: units done of a total, and a word on what is being done. */
export interface Progress {
  readonly stage: string;
  readonly done: number;
  readonly total: number;
  /** Remaining time where the job knows better than its pace tells; default: extrapolated by whoever shows it. */
  readonly secondsLeft?: number | undefined;
}

/** What the runner gives a technique. */
export interface Context {
  /** Samples for calibration and training; undefined when the user named none. */
  readonly data: Dataset | undefined;
  /** Held-out samples for measuring, when there are any. */
  readonly evaluation: Dataset | undefined;
  /** The model that the user started from. */
  readonly original: Model;
  readonly seed: number;
  readonly provider: Provider;
  /** Engine threads; 0: its own choice. */
  readonly threads: number;
  readonly signal: AbortSignal | undefined;
  readonly journal: Journal;
  /** Where finished parts of a long step survive a kill; undefined where there is no such place. */
  readonly finished?: Finished | undefined;
  onProgress(progress: Progress): void;
}

/** Family folder of a technique, for lists and docs. */
export type Family = "simplify" | "quantize" | "prune" | "sparsify" | "factorize" | "share" | "distill" | "tune";

export interface Technique<Options extends z.ZodObject = z.ZodObject> {
  readonly name: string;
  readonly family: Family;
  readonly summary: string;
  readonly needs: readonly Need[];
  /** What these options need beyond that; default nothing. */
  demands?(options: z.output<Options>): readonly Need[];
  /** A step that belongs at the end of any recipe with this one: the runner adds it once, unless the recipe has that technique. */
  closing?(options: z.output<Options>): Step | undefined;
  /** Every option with description, default and (where it is worth searching) `.meta({ search })`. */
  readonly options: Options;
  /**
   * Changes the model in place and returns it (or returns a new one). It journals every layer that it changed and every
   * candidate that it skipped with the reason. It owns the model it is given: the runner has cloned it.
   */
  run(model: Model, options: z.output<Options>, context: Context): Promise<Model>;
}

/** One technique with checked options: what a recipe is a list of. */
export interface Step {
  readonly technique: Technique;
  readonly options: Readonly<Record<string, unknown>>;
}

/** A technique that is also a function from options to a {@link Step}: `quantize({ to: "int8" })`. The schema checks the options. */
export type TechniqueFunction<Input extends object = Readonly<Record<string, unknown>>> = Technique &
  ((options?: Input) => Step);

/** Declares a technique. The type of its options' input, for callers in TypeScript, is the type of the constant it is assigned to. */
export function defineTechnique<Options extends z.ZodObject, Input extends object = Readonly<Record<string, unknown>>>(
  technique: Technique<Options>,
): TechniqueFunction<Input> {
  const make = (options?: Input): Step => ({
    technique: make as unknown as Technique,
    options: technique.options.parse(options ?? {}) as Readonly<Record<string, unknown>>,
  });
  const { name, ...rest } = technique;
  Object.defineProperty(make, "name", { value: name });
  return Object.assign(make, rest) as unknown as TechniqueFunction<Input>;
}
