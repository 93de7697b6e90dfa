/** The forms of a model in floating point that are compared: its channels as they are, or equalized; with codes and statistics of each. */
import type { ChannelNormal } from "../../../transform/channel-normals.ts";
import { nameOf } from "../../../analyse/keep.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Model } from "../../../ir/model.ts";
import { loadKernels } from "../../../kernels/kernels.ts";
import type { Kernels } from "../../../kernels/types.ts";
import type { Feeds } from "../../../run/session.ts";
import { Journal } from "../../journal.ts";
import { dataFeeds } from "../../samples.ts";
import type { Context } from "../../technique.ts";
import { type ChannelMeans, correctedBiases, sampleMeans } from "./bias-correction.ts";
import { type Calibration, type Observed, observe } from "./calibrate.ts";
import { EQUALIZE, equalizeModel } from "./equalize.ts";
import { type LinearCodes, linearCodes, type LinearOptions } from "./linear-weights.ts";
import { reducesRange } from "../reduce-range.ts";
import { planQdq, type QdqPlan, type QdqPlanOptions } from "./qdq-plan.ts";
import type { StaticFormats } from "./static-formats.ts";
import type { Variant } from "./static-choice.ts";

export interface VariantOptions extends Omit<LinearOptions, "bits" | "reduceRange"> {
  /** Formats of single layers' weights. */
  readonly formats: StaticFormats;
  readonly reduceRange: Parameters<typeof reducesRange>[0];
  readonly keep: readonly string[];
  readonly equalize: "auto" | "always" | "never";
  readonly correct: "samples" | "statistics" | "none";
  /** What normalizations said before they were folded (correct "statistics"). */
  readonly normals: ReadonlyMap<string, ChannelNormal> | undefined;
  readonly calibration: Calibration | "auto";
  readonly samples: number;
  readonly batch: number;
  readonly planning: QdqPlanOptions;
}

/** The model as it is, the model with equalized channels, or both; the latter with what the journal says of it. */
export async function variantsOf(
  model: Model,
  chosen: VariantOptions,
  context: Context,
): Promise<{ variant: Variant; entries: Journal | undefined }[]> {
  const kernels = await loadKernels();
  const made: { variant: Variant; entries: Journal | undefined }[] = [];
  const reduceRange = await reducesRange(chosen.reduceRange, context);
  const add = async (name: string, each: Model, entries?: Journal): Promise<void> => {
    const plan = planQdq(each, chosen.planning);
    const observed = await measure(each, plan, kernels, chosen, context);
    const means = await meansOf(each, plan, kernels, chosen, entries === undefined, context);
    const codes: LinearCodes[] = [];
    for (const linear of plan.linear) {
      const nearest = await linearCodes(each, kernels, linear, {
        ...chosen,
        reduceRange,
        ...chosen.formats.weightsOf(linear),
      });
      const corrected = means ? correctedBiases(linear, nearest, means) : nearest;
      if (typeof corrected === "string" && made.length === 0)
        context.journal.skip(`bias of ${nameOf(linear.node)}`, corrected);
      codes.push(typeof corrected === "string" ? nearest : corrected);
    }
    made.push({ variant: { name, model: each, plan, observed, codes }, entries });
  };
  const equal = chosen.equalize === "never" ? undefined : cloneModel(model);
  const entries = new Journal();
  const changed = equal
    ? await equalizeModel(
        equal,
        { ...EQUALIZE, batch: chosen.batch, samples: chosen.samples, keep: chosen.keep },
        { ...context, journal: entries },
      )
    : 0;
  if (chosen.equalize !== "always" || changed === 0) await add("as they are", model);
  if (equal && changed > 0) await add("equalized", equal, entries);
  return made;
}

/** Statistics of every activation that will be quantized, by name. */
async function measure(
  model: Model,
  plan: QdqPlan,
  kernels: Kernels,
  chosen: VariantOptions,
  context: Context,
): Promise<Map<string, Observed>> {
  const samples = Math.min(chosen.samples, context.data?.size ?? 0);
  const batches = Math.ceil(samples / chosen.batch);
  const histograms = chosen.calibration !== "min-max" && chosen.calibration !== "average";
  return observe(
    model,
    Array.from(plan.groups.keys(), (value) => value.name),
    streamOf(model, chosen, context),
    kernels,
    {
      histograms,
      threads: context.threads,
      signal: context.signal,
      onBatch: (batch) => context.onProgress({ stage: "quantize: calibration", done: batch + 1, total: batches }),
    },
  );
}

/** Means of what layers read; undefined where biases stay. Those of normalizations hold for channels that are `asTheyWere`. */
async function meansOf(
  model: Model,
  plan: QdqPlan,
  kernels: Kernels,
  chosen: VariantOptions,
  asTheyWere: boolean,
  context: Context,
): Promise<ChannelMeans | undefined> {
  if (chosen.correct === "none") return undefined;
  if (chosen.correct === "samples")
    return sampleMeans(model, plan, streamOf(model, { ...chosen, samples: MEAN_SAMPLES }, context), kernels, context);
  if (!asTheyWere || !chosen.normals) return undefined;
  return new Map(Array.from(chosen.normals, ([name, { mean }]) => [name, mean]));
}

/** Samples over which means are taken: they settle soon. */
const MEAN_SAMPLES = 64;

function streamOf(
  model: Model,
  { samples, batch }: Pick<VariantOptions, "samples" | "batch">,
  { data, seed, signal }: Context,
): () => AsyncGenerator<Feeds> | [] {
  return () => (data ? dataFeeds(model, data, { limit: Math.min(samples, data.size), size: batch, seed, signal }) : []);
}
