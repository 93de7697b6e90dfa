/** Runs one technique on a copy of a model, as the pipeline would. */
import type { Dataset } from "../../src/data/dataset.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { Journal } from "../../src/techniques/journal.ts";
import type { Context, Technique } from "../../src/techniques/technique.ts";

/** What a technique is given where nothing is said otherwise: one thread, seed 1, nobody watching. */
export function contextOf(original: Model, data?: Dataset, rest: Partial<Context> = {}): Context {
  return {
    data,
    evaluation: undefined,
    original,
    seed: 1,
    provider: "cpu",
    threads: 1,
    signal: undefined,
    journal: new Journal(),
    onProgress() {},
    ...rest,
  };
}

export async function runTechnique(
  technique: Technique,
  original: Model,
  options: Readonly<Record<string, unknown>> = {},
  data?: Dataset,
  rest: Partial<Context> = {},
): Promise<{ model: Model; journal: Journal }> {
  const context = contextOf(original, data, rest);
  const model = await technique.run(cloneModel(original), technique.options.parse(options), context);
  return { model, journal: context.journal };
}
