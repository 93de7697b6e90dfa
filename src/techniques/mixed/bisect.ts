/** Finds the layers that cause an accuracy drop by putting the original's layers back into the changed model. */
import { PareError } from "../../base/error.ts";
import { Probe } from "../../evaluate/probe.ts";
import { type RestorableLayer, type RestorePlan, planRestore, restoreLayers } from "../../evaluate/restore-layers.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Model } from "../../ir/model.ts";
import { freezeDefaults, liftConstants } from "../../transform/constants.ts";
import { convertOpset } from "../../transform/opset.ts";
import { engine } from "../engine.ts";
import { sourceOf } from "../probe-source.ts";
import type { Context } from "../technique.ts";
import { type Culprits, findCulprits } from "./culprits.ts";
import { measureNamed, usualMeasure } from "./sensitivity.ts";

export interface BisectOptions {
  /** Damage that may stay; default a tenth of what the changed model does. */
  readonly drop?: number | undefined;
  /** Measure of the damage; default as in sensitivities. */
  readonly by?: string | undefined;
  /** Samples to judge on; default 256. */
  readonly samples?: number | undefined;
  readonly batch?: number | undefined;
  readonly length?: number | undefined;
}

/** One layer that was changed. */
export interface SuspectLayer {
  readonly name: string;
  readonly op: string;
  /** Bytes of its weights in the original. */
  readonly bytes: number;
  /** Damage with this layer alone changed; undefined where the whole is within the limit and nothing was looked for. */
  readonly alone: number | undefined;
  /** True if it has to be put back. */
  readonly culprit: boolean;
  /** Damage if it alone of the culprits stayed as it is; undefined for the others. */
  readonly without: number | undefined;
}

export interface Bisection {
  readonly measure: string;
  readonly samples: number;
  readonly on: string;
  /** Damage of the changed model; with every layer put back; that may stay; with the culprits put back. */
  readonly total: number;
  readonly rest: number;
  readonly limit: number;
  readonly left: number;
  /** False when not even all layers together bring the damage under the limit: it comes from elsewhere. */
  readonly found: boolean;
  /** Every changed layer, worst first: culprits, then by what they do alone. */
  readonly layers: readonly SuspectLayer[];
  /** Layers that are the same in both models or cannot be put back. */
  readonly others: RestorePlan["others"];
  readonly judged: number;
  /** The changed model with the culprits put back (all layers where that is not enough). */
  readonly model: Model;
}

/**
 * Judges `changed` and mixtures of it with `original`. Errors: `bad-model` when no layer of both can be paired, `bad-option` for an
 * unknown measure, `shape-mismatch` when the models have different inputs.
 */
export async function bisect(
  original: Model,
  changed: Model,
  options: BisectOptions,
  context: Context,
): Promise<Bisection> {
  const plan = await planOf(original, changed, context);
  const { source, on } = await sourceOf(plan.original, options, context);
  const { openSession } = await engine();
  const { seed, provider, threads, signal } = context;
  const metrics = options.by === undefined || ["auto", "kl", "noise"].includes(options.by) ? [] : [options.by];
  const { samples, batch } = options;
  const probe = await Probe.open(
    plan.original,
    source,
    { seed, provider, threads, signal, samples, batch, metrics },
    openSession,
  );
  try {
    const first = await probe.judge(plan.changed);
    const measures = Object.keys(first.damages);
    const measure = measureNamed(options.by, { measures, measure: usualMeasure(measures) });
    const chosen = (undone: ReadonlySet<number>): Set<RestorableLayer> =>
      new Set(plan.layers.filter((_, index) => undone.has(index)));
    let limit = 0;
    const culprits = await findCulprits(
      plan.layers.length,
      async (undone) => {
        const score = undone.size === 0 ? first : await probe.judge(restoreLayers(plan, chosen(undone)));
        return score.damages[measure]?.value ?? Number.POSITIVE_INFINITY;
      },
      (total, rest) => {
        limit = options.drop ?? Math.max(0, rest) + (total - Math.max(0, rest)) / 10;
        return limit;
      },
      (judged) => {
        const total = expected(plan.layers.length);
        context.onProgress({ stage: "bisect", done: Math.min(judged, total - 1), total });
      },
    );
    const undone = culprits.undone ?? plan.layers.map((_, index) => index);
    return {
      measure,
      samples: probe.samples,
      on,
      total: culprits.total,
      rest: culprits.rest,
      limit,
      left: culprits.left,
      found: culprits.undone !== undefined,
      layers: suspects(plan.layers, culprits),
      others: plan.others,
      judged: culprits.judged,
      model: restoreLayers(plan, chosen(new Set(undone))),
    };
  } finally {
    await probe.close();
  }
}

/** Both models at one opset with their constants in one form, and the layers that can be put back. */
async function planOf(original: Model, changed: Model, context: Context): Promise<RestorePlan> {
  const [before, after] = [cloneModel(original), cloneModel(changed)];
  for (const model of [before, after]) {
    freezeDefaults(model);
    liftConstants(model);
  }
  if (before.opset < after.opset) convertOpset(before, after.opset);
  liftConstants(before);
  const { pairModels } = await import("../../evaluate/compare.node.ts");
  const { data, seed, provider, threads, signal } = context;
  const paired = await pairModels(before, after, { data, seed, provider, threads, signal });
  const plan = await planRestore(paired.before, paired.after, paired.pairs);
  if (plan.layers.length === 0)
    throw new PareError("bad-model", "No layer of the original differs from its counterpart", {
      ...(plan.others.length > 0 ? { found: plan.others.map(({ name, why }) => `${name}: ${why}`).join("; ") } : {}),
      help: "Name the original and a model that was made from it",
    });
  return plan;
}

/** Culprits first, by what would be lost without them; then the others by what they do alone. */
function suspects(layers: readonly RestorableLayer[], { alone, undone, without }: Culprits): SuspectLayer[] {
  const guilty = new Set(undone ?? []);
  return layers
    .map(({ name, op, bytes }, index) => ({
      name,
      op,
      bytes,
      alone: alone[index],
      culprit: guilty.has(index),
      without: without.get(index),
    }))
    .sort(
      (a, b) =>
        Number(b.culprit) - Number(a.culprit) || (b.without ?? 0) - (a.without ?? 0) || (b.alone ?? 0) - (a.alone ?? 0),
    );
}

/** About so many combinations are judged. */
function expected(layers: number): number {
  return layers + 2 * Math.ceil(Math.log2(layers + 1)) + 4;
}
