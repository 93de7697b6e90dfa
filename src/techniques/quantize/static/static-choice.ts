/** Which of several ways to quantize a model statically keeps its outputs best, tried on calibration samples. */
import type { Dataset } from "../../../data/dataset.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { asNumbers } from "../../../run/arrays.ts";
import type { Feeds, NdArray } from "../../../run/session.ts";
import { engine } from "../../engine.ts";
import { sampleFeeds } from "../../samples.ts";
import type { Context } from "../../technique.ts";
import { type Calibration, type Observed, rangeOf } from "./calibrate.ts";
import type { LinearCodes } from "./linear-weights.ts";
import { planQdq, type QdqPlan, type QdqPlanOptions } from "./qdq-plan.ts";
import { type Grid, gridOf } from "./range-search.ts";
import { type StaticOptions, writeStatic } from "./static-model.ts";

/** One way to get ranges. */
export interface RangeChoice {
  readonly calibration: Calibration;
  readonly percentile: number;
}

/** A model in floating point, ready to be quantized: with its channels as they were, or equalized. */
export interface Variant {
  readonly name: string;
  readonly model: Model;
  readonly plan: QdqPlan;
  readonly observed: ReadonlyMap<string, Observed>;
  readonly codes: readonly LinearCodes[];
}

export interface ChoiceOptions extends StaticOptions {
  readonly symmetric: boolean;
  readonly planning: QdqPlanOptions;
}

export interface Choice {
  readonly variant: Variant;
  readonly ranges: RangeChoice;
  /** ‖ŷ − y‖/‖y − mean y‖ of the outputs; undefined where there was nothing to choose. */
  readonly error: number | undefined;
}

/** Samples on which choices are compared. */
export const CHOICE_SAMPLES = 32;
/** Data sets with fewer samples are used for both: to calibrate and to choose. */
const FEWEST_TO_SPLIT = 4 * CHOICE_SAMPLES;

/**
 * Samples to calibrate on, and others to choose on: on those that it was calibrated on, whatever cuts nothing off looks best.
 */
export function splitCalibration(data: Dataset, seed: number): { calibrate: Dataset; choose: Dataset } {
  if (data.size < FEWEST_TO_SPLIT) return { calibrate: data, choose: data };
  const border = 1 - CHOICE_SAMPLES / data.size;
  return { calibrate: data.subset({ part: [0, border], seed }), choose: data.subset({ part: [border, 1], seed }) };
}

/** The variant and ranges whose outputs are nearest to the original's on calibration samples. */
export async function chooseStatic(
  variants: readonly Variant[],
  choices: readonly RangeChoice[],
  options: ChoiceOptions,
  context: Context,
): Promise<Choice> {
  const [first] = variants;
  const [ranges] = choices;
  if (!first || !ranges) throw new PareError("internal", "There is nothing to choose from");
  if (variants.length * choices.length === 1) return { variant: first, ranges, error: undefined };
  const reference = await Reference.of(first.model, context);
  let best: Choice | undefined;
  const total = variants.length * choices.length;
  for (const [i, variant] of variants.entries())
    for (const [k, choice] of choices.entries()) {
      throwIfAborted(context.signal);
      context.onProgress({ stage: "quantize: choice of ranges", done: i * choices.length + k, total });
      const trial = cloneModel(variant.model);
      const plan = planQdq(trial, options.planning);
      writeStatic(trial, plan, variant.codes, gridsOf(plan, variant.observed, choice, options), options);
      const error = await reference.error(trial);
      if (!best || error < (best.error ?? Number.POSITIVE_INFINITY)) best = { variant, ranges: choice, error };
    }
  return best as Choice;
}

/** One grid per group: the range that covers those of all its values. */
export function gridsOf(
  plan: QdqPlan,
  observed: ReadonlyMap<string, Observed>,
  { calibration, percentile }: RangeChoice,
  options: Pick<ChoiceOptions, "activations" | "symmetric">,
): Map<Value, Grid> {
  const grids = new Map<Value, Grid>();
  for (const group of new Set(plan.groups.values())) {
    let low = 0;
    let high = 0;
    for (const value of group) {
      const seen = observed.get(value.name);
      const found = seen && rangeOf(seen, calibration, percentile);
      low = Math.min(low, found?.low ?? 0);
      high = Math.max(high, found?.high ?? 0);
    }
    const grid = gridOf({ low, high }, options.activations, options.symmetric);
    for (const value of group) grids.set(value, grid);
  }
  return grids;
}

/** What the original gives for some calibration samples. */
class Reference {
  readonly #feeds: readonly Feeds[];
  readonly #outputs: readonly Readonly<Record<string, NdArray>>[];
  readonly #context: Context;

  private constructor(
    feeds: readonly Feeds[],
    outputs: readonly Readonly<Record<string, NdArray>>[],
    context: Context,
  ) {
    this.#feeds = feeds;
    this.#outputs = outputs;
    this.#context = context;
  }

  static async of(model: Model, context: Context): Promise<Reference> {
    const feeds = await sampleFeeds(model, context, CHOICE_SAMPLES);
    return new Reference(feeds, await outputsOf(model, feeds, context), context);
  }

  /** ‖ŷ − y‖ / ‖y − mean(y)‖ over all outputs. */
  async error(trial: Model): Promise<number> {
    const got = await outputsOf(trial, this.#feeds, this.#context);
    let [difference, spread] = [0, 0];
    for (const [i, wanted] of this.#outputs.entries())
      for (const [name, array] of Object.entries(wanted)) {
        const other = got[i]?.[name];
        const [y, approximate] = [asNumbers(array), other && asNumbers(other)];
        let mean = 0;
        for (let j = 0; j < y.length; j++) mean += Number(y[j]) / y.length;
        for (let j = 0; j < y.length; j++) {
          difference += (Number(y[j]) - Number(approximate?.[j] ?? 0)) ** 2;
          spread += (Number(y[j]) - mean) ** 2;
        }
      }
    return spread > 0 ? Math.sqrt(difference / spread) : difference;
  }
}

async function outputsOf(
  model: Model,
  feeds: readonly Feeds[],
  { threads, signal }: Context,
): Promise<Readonly<Record<string, NdArray>>[]> {
  const { openSession } = await engine();
  const session = await openSession(model, { threads, signal });
  try {
    const outputs: Readonly<Record<string, NdArray>>[] = [];
    for (const each of feeds) outputs.push(await session.run(each));
    return outputs;
  } finally {
    await session.close();
  }
}
