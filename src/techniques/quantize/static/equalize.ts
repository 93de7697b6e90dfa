/**
 * Gives channels between two layers scales that 8-bit grids suit, without changing what the model computes.
 *
 * Helps: accuracy of `quantize`, most in depthwise networks, whose channels differ by orders of magnitude; of per-tensor
 *   weights (from weights alone), and of activations, which share one grid (from samples).
 * Hurts: nothing where only rectifiers, sums and averages lie between the layers. Through a clamp (Relu6) it is exact while no
 *   value reaches the bound on other samples either; `clips` says what to do with them.
 * Needs: nothing; with samples the ranges of the activations are equalized, which are what per-channel weights leave to gain.
 * Cost: seconds; with samples one pass over them.
 * Maths: for s_c > 0, W₂ f(W₁x + b₁) = (W₂S) f(S⁻¹W₁x + S⁻¹b₁) where f(sx) = s·f(x). From weights s = √(r₁/r₂) of the ranges
 *   on both sides, again until nothing changes; from samples s_c = min(1, m·p_c/max p)^a with margin m and the strength a of the least predicted
 *   error.
 * Paper: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721);
 *   Meller et al. 2019 (arXiv 1902.01917).
 */
import { z } from "zod";
import { throwIfAborted } from "../../../base/error.ts";
import { type Keep, nameOf } from "../../../analyse/keep.ts";
import type { Node, Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { loadKernels } from "../../../kernels/kernels.ts";
import { type ChannelMoments, channelReducer } from "../../../run/reducers.ts";
import { isClamp } from "../../../transform/clamps.ts";
import { rescale, scaleFamilies, type ScaleFamily } from "../../../transform/rescale.ts";
import { engine } from "../../engine.ts";
import { keepOf, keepOption } from "../../keep-option.ts";
import { dataFeeds } from "../../samples.ts";
import { choices, range } from "../../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../../technique.ts";
import {
  type ChannelStatistics,
  type FamilyStatistics,
  factorsFromSamples,
  factorsFromWeights,
} from "./equalize-factors.ts";
import { foldLayers } from "./fold-layers.ts";

/** Rounds over all families after which weights have settled (each family moves its neighbours'). */
const MOST_ROUNDS = 20;
const SETTLED = 1e-3;

const options = z.object({
  by: z
    .enum(["auto", "weights", "activations"])
    .default("auto")
    .describe(
      "what to equalize: ranges of the weights on both sides, or of the activations in samples; auto: activations where there are samples",
    )
    .meta({ search: choices("weights", "activations") }),
  strength: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .describe(
      "share of the way to equal ranges (by activations); default: for each family the one with the least predicted error",
    )
    .meta({ search: range(0, 1) }),
  clips: z
    .enum(["measured", "keep", "replace"])
    .default("measured")
    .describe(
      "channels that a clamp such as Relu6 bounds: scale them as far as the samples stay below the bound, leave them, or replace the clamp by a Relu, which changes the model",
    ),
  margin: z
    .number()
    .min(1)
    .default(1.5)
    .describe("room above what the samples hold of a channel, below the largest one's range and below a clamp's bound"),
  samples: z.int().min(1).default(64).describe("calibration samples"),
  batch: z.int().min(1).default(16).describe("samples per run: memory grows with it"),
  keep: keepOption,
});

/** What the technique does unless told otherwise. */
export const EQUALIZE: EqualizeOptions = options.parse({});

/** The technique's options. */
export interface EqualizeOptions {
  readonly by: "auto" | "weights" | "activations";
  readonly strength?: number | undefined;
  readonly clips: "measured" | "keep" | "replace";
  readonly margin: number;
  readonly samples: number;
  readonly batch: number;
  readonly keep: readonly string[];
}

export const equalize: TechniqueFunction = defineTechnique({
  name: "equalize",
  family: "quantize",
  summary: "Scale channels between layers so that their ranges suit 8 bits; the model computes the same.",
  needs: [],
  options,
  async run(model, chosen, context) {
    await foldLayers(model, context.journal);
    await equalizeModel(model, chosen, context);
    return model;
  },
});

/** Equalizes a model whose constants are initializers and whose normalizations are folded. Returns the number of families that changed. */
export async function equalizeModel(model: Model, chosen: EqualizeOptions, context: Context): Promise<number> {
  const { journal } = context;
  const keep = keepOf(chosen.keep, model, journal);
  const { families, skipped } = scaleFamilies(model);
  for (const { what, why } of skipped) journal.skip(what, why);
  const byActivations = chosen.by === "activations" || (chosen.by === "auto" && context.data !== undefined);
  const open = families.filter((family) => {
    const why = reasonToLeave(family, keep, chosen, byActivations);
    if (why) journal.skip(family.name, why);
    return why === undefined;
  });
  if (chosen.clips === "replace") replaceClips(open, context);
  if (open.length === 0) return 0;
  if (!byActivations) return byWeights(open, context);
  const statistics = await measure(model, open, chosen, context);
  for (const [index, family] of open.entries()) {
    const { factors, strength } = await factorsFromSamples(family, statistics[index] as FamilyStatistics, chosen);
    await rescale(family, factors);
    const how = `${family.size} channels divided by ${extremes(factors)} (strength ${strength})`;
    journal.change({ what: family.name, how });
  }
  return open.length;
}

function reasonToLeave(
  family: ScaleFamily,
  keep: Keep,
  chosen: EqualizeOptions,
  byActivations: boolean,
): string | undefined {
  const isKept = ({ value, layer }: { readonly value: Value; readonly layer: Node | undefined }): boolean =>
    keep.value(value) || (layer !== undefined && keep.node(layer));
  if (family.constants.some(isKept)) return "kept";
  const [limit] = family.limits;
  if (!limit || chosen.clips === "replace") return undefined;
  if (chosen.clips === "keep") return `${nameOf(limit.node)} clamps at ${bounds(limit)}`;
  return byActivations
    ? undefined
    : `${nameOf(limit.node)} clamps at ${bounds(limit)}: how near values come to it is not known without samples`;
}

function bounds({ low, high }: { readonly low: number; readonly high: number }): string {
  return [low, high].filter((bound) => bound !== 0 && Number.isFinite(bound)).join(" and ");
}

/** Clamps at [0, h] become rectifiers; others bound both sides and lose their bounds. */
function replaceClips(families: ScaleFamily[], { journal }: Context): void {
  for (const [index, family] of families.entries()) {
    for (const { node, low, high } of family.limits) {
      const output = node.outputs[0] as Value;
      if (low === 0) {
        node.opType = "Relu";
        node.setInput(1, undefined);
        node.setInput(2, undefined);
        node.attributes.clear();
      } else node.graph?.replaceValue(output, node.inputs[0] as Value);
      journal.change({
        what: nameOf(node),
        how: `no longer clamps at ${bounds({ low, high })}: the model is another one where values reach that`,
      });
    }
    families[index] = { ...family, limits: [] };
  }
}

/** Round by round over all families until factors are near 1. */
async function byWeights(families: readonly ScaleFamily[], context: Context): Promise<number> {
  const total = families.map(({ size }) => new Float64Array(size).fill(1));
  for (let round = 0; round < MOST_ROUNDS; round++) {
    throwIfAborted(context.signal);
    context.onProgress({ stage: "equalize", done: round, total: MOST_ROUNDS });
    let most = 0;
    for (const [index, family] of families.entries()) {
      const factors = await factorsFromWeights(family);
      await rescale(family, factors);
      for (const [c, factor] of factors.entries()) {
        most = Math.max(most, Math.abs(Math.log(factor)));
        (total[index] as Float64Array)[c] = ((total[index] as Float64Array)[c] as number) * factor;
      }
    }
    if (most < SETTLED) break;
  }
  for (const [index, { name, size }] of families.entries())
    context.journal.change({
      what: name,
      how: `${size} channels divided by ${extremes(total[index] as Float64Array)}`,
    });
  return families.length;
}

function extremes(values: Float64Array): string {
  const [least, most] = [
    values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY),
    values.reduce((a, b) => Math.max(a, b), 0),
  ];
  return `${least.toPrecision(3)}..${most.toPrecision(3)}`;
}

/** Statistics of the channels of every family: one pass over the samples. */
async function measure(
  model: Model,
  families: readonly ScaleFamily[],
  chosen: EqualizeOptions,
  context: Context,
): Promise<FamilyStatistics[]> {
  const kernels = await loadKernels();
  const { tap } = await engine();
  const { data, seed, signal, threads, provider } = context;
  const axes = new Map<string, number>();
  for (const family of families) for (const { value, axis } of family.activations) axes.set(value.name, axis);
  const limit = Math.min(chosen.samples, data?.size ?? 0);
  const batches = Math.ceil(limit / chosen.batch);
  const seen = await tap<ChannelMoments>(
    model,
    [...axes.keys()],
    () => (data ? dataFeeds(model, data, { limit, size: chosen.batch, seed, signal }) : []),
    (name) => channelReducer(kernels, axes.get(name)),
    {
      threads,
      provider,
      signal,
      onBatch: ({ batch }) => context.onProgress({ stage: "equalize: ranges", done: batch + 1, total: batches }),
    },
  );
  return families.map((family) => statisticsOf(family, seen));
}

/** Of the values that some operator other than a rectifier reads: those have grids. */
function statisticsOf(family: ScaleFamily, seen: ReadonlyMap<string, ChannelMoments>): FamilyStatistics {
  const found = new Map<Value, ChannelStatistics>();
  for (const { value, channels } of family.activations) {
    const moments = seen.get(value.name);
    if (!moments || isRectifiedOnly(value)) continue;
    const peaks = new Float64Array(family.size);
    const meanSquares = new Float64Array(family.size);
    for (const [i, c] of channels.entries()) {
      if (c < 0) continue;
      peaks[c] = Math.max(peaks[c] as number, Math.abs(moments.min[i] ?? 0), Math.abs(moments.max[i] ?? 0));
      meanSquares[c] = Math.max(meanSquares[c] as number, moments.meanSquare[i] ?? 0);
    }
    found.set(value, { peaks, meanSquares });
  }
  return found;
}

function isRectifiedOnly(value: Value): boolean {
  return value.uses.length > 0 && value.uses.every(({ node }) => isClamp(node));
}
