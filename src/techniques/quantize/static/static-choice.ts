/** Which of several ways to quantize a model statically keeps its outputs best, tried on calibration samples. */
import type { Dataset } from "../../../data/dataset.ts";
import { nameOf } from "../../../analyse/keep.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { asNumbers } from "../../../run/arrays.ts";
import type { Feeds, NdArray } from "../../../run/session.ts";
import { engine } from "../../engine.ts";
import { sampleFeeds } from "../../samples.ts";
import type { Context } from "../../technique.ts";
import type { Journal } from "../../journal.ts";
import type { Calibration, Observed } from "./calibrate.ts";
import { groupRange } from "./effect-ranges.ts";
import { FLOAT, nodeKey, planWithout } from "./float-layers.ts";
import { type LinearCodes, storeCodes } from "./linear-weights.ts";
import { type LinearNode, planQdq, type QdqPlan, type QdqPlanOptions } from "./qdq-plan.ts";
import { type Grid, gridOf } from "./range-search.ts";
import { type StaticOptions, type WrittenValue, writeStatic } from "./static-model.ts";

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

/** Grids by the names of values. */
export type NamedGrids = ReadonlyMap<string, Grid>;

export interface ChoiceOptions extends StaticOptions {
  readonly symmetric: boolean;
  readonly planning: QdqPlanOptions;
}

export interface Choice {
  readonly variant: Variant;
  /** How the ranges were found, for the journal. */
  readonly method: string;
  readonly grids: NamedGrids;
  /** Nodes that stay in floating point beyond those that the plan leaves, by {@link nodeKey}. */
  readonly floats: ReadonlySet<string>;
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

/** The variant and ranges whose outputs are nearest to the original's, which `reference` knows. */
export async function chooseStatic(
  variants: readonly Variant[],
  choices: readonly RangeChoice[],
  options: ChoiceOptions,
  reference: Reference,
  context: Context,
): Promise<Choice> {
  const tried = variants.flatMap((variant) =>
    choices.map((ranges): Choice => ({ ...uniformChoice(variant, ranges, options), error: undefined })),
  );
  const [first] = tried;
  if (!first) throw new PareError("internal", "There is nothing to choose from");
  if (tried.length === 1) return first;
  let best: Choice | undefined;
  for (const [done, choice] of tried.entries()) {
    throwIfAborted(context.signal);
    context.onProgress({ stage: "quantize: choice of ranges", done, total: tried.length });
    const error = await errorOf(choice, options, reference);
    if (error < (best?.error ?? Number.POSITIVE_INFINITY)) best = { ...choice, error };
  }
  return best ?? first;
}

function uniformChoice(variant: Variant, ranges: RangeChoice, options: ChoiceOptions): Omit<Choice, "error"> {
  const { calibration, percentile } = ranges;
  const method = `ranges by ${calibration}${calibration === "percentile" ? ` ${percentile}` : ""}`;
  return { variant, method, grids: gridsOf(variant, ranges, options), floats: new Set() };
}

/** How far the outputs of a choice are from the original's. */
export async function errorOf(
  { variant, grids, floats }: Omit<Choice, "error">,
  options: ChoiceOptions,
  reference: Reference,
): Promise<number> {
  const trial = cloneModel(variant.model);
  writeChoice(trial, { variant, grids, floats }, options);
  return reference.error(trial);
}

/** What was written of a choice: the layers that run on integers, with their codes. */
export interface WrittenChoice {
  readonly linear: readonly LinearNode[];
  readonly codes: readonly LinearCodes[];
  readonly written: ReadonlyMap<string, WrittenValue>;
}

/** Quantizes `model`, the variant's or a copy of it, as chosen; layers that stay in floating point are stored as int8 codes. */
export function writeChoice(
  model: Model,
  { variant, grids, floats }: Pick<Choice, "variant" | "grids" | "floats">,
  options: ChoiceOptions,
  journal?: Journal,
): WrittenChoice {
  const codesOf = new Map(variant.plan.linear.map(({ node }, i) => [nodeKey(node), variant.codes[i] as LinearCodes]));
  const all = planQdq(model, options.planning).linear;
  const plan = floats.size > 0 ? planWithout(model, options.planning, floats) : planQdq(model, options.planning);
  const kept = new Set(plan.linear.map(({ node }) => nodeKey(node)));
  for (const layer of all) {
    const codes = codesOf.get(nodeKey(layer.node));
    if (kept.has(nodeKey(layer.node)) || !codes) continue;
    storeCodes(model, layer, codes);
    journal?.change({
      what: nameOf(layer.node),
      how: `weights int8, computed in floating point: ${FLOAT}`,
      error: codes.error,
    });
  }
  const codes = plan.linear.map(({ node }) => codesOf.get(nodeKey(node)) as LinearCodes);
  const placed = new Map(
    Array.from(plan.groups.keys(), (value) => [value, grids.get(value.name)] as const).filter(
      (pair): pair is readonly [Value, Grid] => pair[1] !== undefined,
    ),
  );
  return { linear: plan.linear, codes, written: writeStatic(model, plan, codes, placed, options, journal) };
}

/** One grid per group: the range that covers those of all its values. */
export function gridsOf(
  { plan, observed }: Pick<Variant, "plan" | "observed">,
  { calibration, percentile }: RangeChoice,
  options: Pick<ChoiceOptions, "activations" | "symmetric">,
): NamedGrids {
  const grids = new Map<string, Grid>();
  for (const group of new Set(plan.groups.values())) {
    const grid = gridOf(groupRange(group, observed, calibration, percentile), options.activations, options.symmetric);
    for (const { name } of group) grids.set(name, grid);
  }
  return grids;
}

/** What the original gives for some calibration samples. */
export class Reference {
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
