/**
 * Trains with a penalty that drives weights or whole channels to zero, or with dropout of the least weights, so that a later cut
 * takes away what the network has already learned to do without.
 *
 * Helps: high ratios of `prune-channels` and `prune-weights`: channels that are zero leave without any loss
 * (`prune-channels:threshold=0`), and those that are small with little.
 * Hurts: accuracy while the penalty is strong; fine-tune after the cut. Nothing is smaller before the cut. Channels behind an
 * activation that does not keep zero (Sigmoid) are constant, not zero.
 * Needs: training data, labelled unless a teacher has the whole share of the loss; for scale, normalization layers that are not
 * folded into convolutions.
 * Cost: that of finetune, and a few operations per weight and step; as many epochs as ordinary training rewards.
 * Maths: minimizes L + R by proximal steps: the optimizer's step, then w ← argmin_v ‖v − w‖²/2a + R(v), which gives exact zeros.
 * l1: R = λ·Σ|w|. group-lasso: R = λ·Σ_g √n_g·‖W_g‖, g a channel with all filters, biases, scales and shifts that are tied.
 * scale: R = λ·Σ|γ| over the scales of normalizations (√n_g·‖γ_g‖ where several are tied), and β = 0 where γ = 0. growing: of
 * every layer the least important channels are pressed by R = λ_t/2·‖W_g‖², λ_t growing to λ, and set to zero at the end.
 * targeted-dropout: no penalty; the least |w| of each layer are zero in a share of the steps, and back in the others: nothing
 * becomes zero, but what `prune-weights` with that ratio takes is not needed.
 * Paper: Tibshirani 1996 (l1); Wen et al. 2016 (arXiv 1608.03665) and Yuan and Lin 2006 (group lasso); Liu et al. 2017, network
 * slimming (arXiv 1708.06519); Wang et al. 2021, growing regularization (arXiv 2012.09243); Gomez et al. 2019,
 * targeted dropout (arXiv 1905.13678); Parikh and Boyd 2014 (proximal steps).
 */
import { z } from "zod";
import { channelGroups } from "../../analyse/groups.ts";
import { FAMILY_KINDS } from "../../analyse/group-kinds.ts";
import type { Keep } from "../../analyse/keep.ts";
import type { Model } from "../../ir/model.ts";
import type { ShrinkGroups, Shrinkage } from "../../train/shrinkage.ts";
import { settleSizes } from "../../transform/settle-sizes.ts";
import { weightSites } from "../../transform/weight-sites.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { allocate } from "../prune/allocate.ts";
import { journalFrozen, reasonToKeep } from "../prune/channels/prune-channels.ts";
import { CHANNEL_SCORES, scoreChannels } from "../prune/channels/score-channels.ts";
import { choices, range } from "../search-range.ts";
import { type Context, defineTechnique, type TechniqueFunction } from "../technique.ts";
import { teacherDemands, teacherNamed, teacherOptions, trainingOptions, trainOn } from "../training.ts";
import { countZeroGroups, shrinkGroupsOf, zeroGroups } from "./channel-shrinkage.ts";

const METHODS = ["group-lasso", "scale", "growing", "l1", "targeted-dropout"] as const;
/** λ where nobody says one: an epoch of a small network at rate 0.01 feels it, and survives it. */
const STRENGTHS: Readonly<Record<Exclude<(typeof METHODS)[number], "targeted-dropout">, number>> = {
  "group-lasso": 1e-4,
  scale: 1e-4,
  growing: 1,
  l1: 1e-5,
};
/** What growing regularization calls its growth: over this share of the steps λ rises, then it stays. */
const GROWTH = 0.75;

// An average over steps is never exactly zero.
const { averaging: _, ...training } = trainingOptions;

const options = z.object({
  ...training,
  ...teacherOptions,
  method: z
    .enum(METHODS)
    .default("group-lasso")
    .describe(
      "what is driven to zero: whole channels, scales of normalizations, chosen channels, or single weights; or which weights are dropped at times",
    )
    .meta({ search: choices("group-lasso", "scale", "growing", "l1") }),
  strength: z
    .number()
    .positive()
    .optional()
    .describe("weight of the penalty in the loss; default: 1e-4, growing 1, l1 1e-5")
    .meta({ search: range(1e-6, 1e-2, { log: true }) }),
  ramp: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .describe("share of the steps over which the strength grows from 0; default: growing 0.75, else 0"),
  ratio: z
    .number()
    .min(0)
    .max(0.99)
    .default(0.5)
    .describe(
      "share of the channels that are pressed (growing), or of the weights that are dropped at times (targeted-dropout)",
    ),
  rate: z
    .number()
    .min(0)
    .max(0.99)
    .default(0.5)
    .describe("targeted-dropout: share of the steps in which each of them is dropped"),
  score: z
    .enum(CHANNEL_SCORES as [string, ...string[]])
    .default("l1")
    .describe("growing: what makes a channel important, so that it is not pressed"),
  scope: z
    .enum(["local", "global"])
    .default("local")
    .describe("growing: the ratio holds for each layer, or over all layers together"),
  samples: z.int().min(1).default(256).describe("growing: samples of scores that need some"),
  keep: keepOption,
});

type Chosen = z.output<typeof options>;

export const sparsify: TechniqueFunction = defineTechnique({
  name: "sparsify",
  family: "sparsify",
  summary: "Train with a penalty that drives weights or whole channels to zero.",
  needs: ["training"],
  options,
  demands: teacherDemands,
  async run(model, chosen, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    const { method, teacher, teacherShare } = chosen;
    const keep = keepOf(chosen.keep, model, journal);
    const single = method === "l1" || method === "targeted-dropout";
    const channels = single ? [] : await channelsOf(model, chosen, keep, context);
    const weights = single ? kernelsOf(model, keep) : new Set<string>();
    if (channels.length + weights.size === 0) {
      journal.note("There is nothing that the penalty could be on: the model was not trained.");
      return model;
    }
    const teaching = await teacherNamed(teacher, context.original);
    await trainOn(
      model,
      { ...chosen, averaging: undefined },
      {
        name: "sparsify",
        teaching: teaching && { model: teaching, share: teacherShare },
        shrinkage: shrinkageOf(chosen, channels, weights),
        targetedDropout:
          method === "targeted-dropout" ? { weights, share: chosen.ratio, rate: chosen.rate } : undefined,
      },
      context,
    );
    for (const { name, groups, pressed } of channels) {
      if (pressed) await zeroGroups(model, groups, pressed);
      const zero = await countZeroGroups(model, groups);
      journal.change({ what: name, how: `${zero} of ${groups.count} channels are zero` });
    }
    for (const name of weights) journal.change({ what: name, how: await sparsityOf(model, name, chosen) });
    return model;
  },
});

/** What became of a weight. */
async function sparsityOf(model: Model, name: string, { method, ratio }: Chosen): Promise<string> {
  const weights = (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  if (method === "l1") {
    const zeros = weights.reduce((count, w) => count + Number(w === 0), 0);
    return `${zeros} of ${weights.length} weights are zero (${percent(zeros / weights.length)})`;
  }
  const sizes = weights.map(Math.abs).sort();
  const sum = (part: Float32Array): number => part.reduce((total, w) => total + w * w, 0);
  const least = sum(sizes.subarray(0, Math.round(ratio * sizes.length)));
  return `the least ${percent(ratio)} of the weights have ${percent(Math.sqrt(least / (sum(sizes) || 1)))} of its norm`;
}

interface Channels {
  readonly name: string;
  readonly groups: ShrinkGroups;
  /** growing: 1 for each group that is pressed. */
  readonly pressed: Float32Array | undefined;
}

/** The channels that the penalty is on, by family. */
async function channelsOf(model: Model, chosen: Chosen, keep: Keep, context: Context): Promise<Channels[]> {
  const { journal } = context;
  const { method, score, samples, scope, ratio } = chosen;
  settleSizes(model);
  const groups = channelGroups(model);
  journalFrozen(groups, journal);
  const found = groups.families.flatMap((family) => {
    const shrunk = shrinkGroupsOf(model, family, method === "scale" ? "scale" : "all");
    const why =
      reasonToKeep(family, keep, { kind: [...FAMILY_KINDS], width: false }) ??
      (shrunk ? undefined : method === "scale" ? "it has no scale of a normalization" : "nothing of it is trained");
    if (why) journal.skip(family.name, why);
    return shrunk && !why ? [{ family, groups: shrunk }] : [];
  });
  if (method !== "growing")
    return found.map(({ family, groups: own }) => ({ name: family.name, groups: own, pressed: undefined }));
  const families = found.map(({ family }) => family);
  const scores = await scoreChannels(score, { model, groups, families, options: { samples, length: 128 }, context });
  const scored = families.flatMap((family) => {
    const own = scores.get(family);
    return own ? [{ family, scores: own }] : [];
  });
  const gone = allocate(scored, ratio, { scope, multipleOf: 1, least: 1, most: 0.99 });
  return found.map(({ family, groups: own }) => {
    const chosenGroups = new Set(gone.get(family));
    return {
      name: family.name,
      groups: own,
      pressed: Float32Array.from(family.groups, (group) => Number(chosenGroups.has(group))),
    };
  });
}

function shrinkageOf(
  chosen: Chosen,
  channels: readonly Channels[],
  weights: ReadonlySet<string>,
): Shrinkage | undefined {
  const { method } = chosen;
  if (method === "targeted-dropout") return undefined;
  const course = {
    strength: chosen.strength ?? STRENGTHS[method],
    ramp: chosen.ramp ?? (method === "growing" ? GROWTH : 0),
  };
  if (method === "l1") return { ...course, kind: "weights", weights };
  if (method !== "growing") return { ...course, kind: "groups", groups: channels.map(({ groups }) => groups) };
  return {
    ...course,
    kind: "pressed",
    groups: channels.map(({ groups, pressed }) => ({ ...groups, pressed: pressed as Float32Array })),
  };
}

/** Kernels that single weights may leave. */
function kernelsOf(model: Model, keep: Keep): Set<string> {
  const sites = weightSites(model, { roles: ["kernel"], dtypes: ["float32"] }).filter(
    ({ value, uses, graph }) =>
      graph === model.graph && !keep.value(value) && !uses.some(({ node }) => keep.node(node)),
  );
  return new Set(sites.map(({ value }) => value.name));
}
