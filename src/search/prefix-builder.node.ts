/** Builds the recipes of a sweep, each shared beginning once: simplifying and training are not repeated for every recipe. */
import type { Model } from "../ir/model.ts";
import { type CompressOptions, type StepReport, type Unproven, runSteps } from "../techniques/pipeline.node.ts";
import type { Step } from "../techniques/technique.ts";
import { prefixKey, sharedPrefixes } from "./sweep-recipes.ts";

export class PrefixBuilder {
  readonly #original: Model;
  readonly #options: CompressOptions;
  /** Recipes that still need a beginning; kept models are dropped with the last one. */
  readonly #waiting: Map<string, number>;
  readonly #kept = new Map<string, Unproven>();

  constructor(
    original: Model,
    recipes: readonly { readonly steps: readonly Step[] }[],
    options: Omit<CompressOptions, "onProgress" | "original">,
  ) {
    this.#original = original;
    this.#options = options;
    this.#waiting = sharedPrefixes(recipes);
  }

  /** The recipe's model and journal, as if it had been run from the start: steps never depend on their place. */
  async build(steps: readonly Step[], onProgress?: (share: number, stage: string) => void): Promise<Unproven> {
    let from = 0;
    let current: Unproven = { model: this.#original, steps: [] };
    for (let length = steps.length; length > 0 && from === 0; length--) {
      const kept = this.#kept.get(prefixKey(steps.slice(0, length)));
      if (kept) [from, current] = [length, kept];
    }
    for (let index = from; index < steps.length; index++) {
      const key = prefixKey(steps.slice(0, index + 1));
      const step = steps[index] as Step;
      const made = await runSteps(current.model, [step], {
        ...this.#options,
        original: this.#original,
        onProgress: ({ stage, done, total }) => onProgress?.((index + done / Math.max(1, total)) / steps.length, stage),
      });
      const reports: readonly StepReport[] = [...current.steps, ...made.steps];
      current = { model: made.model, steps: reports };
      if ((this.#waiting.get(key) ?? 0) > 1) this.#kept.set(key, current);
    }
    return current;
  }

  /** To be called once per recipe, built or not: what no later recipe begins with is let go. */
  done(steps: readonly Step[]): void {
    for (let length = 1; length <= steps.length; length++) {
      const key = prefixKey(steps.slice(0, length));
      const left = (this.#waiting.get(key) ?? 1) - 1;
      this.#waiting.set(key, left);
      if (left <= 0) this.#kept.delete(key);
    }
  }
}
