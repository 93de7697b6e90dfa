/**
 * Removes whole channels, heads and units together with everything tied to them: tensors shrink and the model runs faster.
 *
 * Helps: latency, MACs, bytes and memory at once, on any engine: what remains is a smaller dense network. Half of the
 * channels of every layer are about a quarter of the MACs.
 * Hurts: accuracy at once, unless the network is fine-tuned afterwards; narrow layers most.
 * Needs: nothing; fine-tune afterwards.
 * Cost: one pass over the weights; a target of MACs, parameters or bytes infers shapes some ten times.
 * Maths: channels that the operators tie (residual sums, concatenations, groups, heads) are one group, with one score over
 * all its filters: Σ|w| (l1), √Σw² (l2), |γ| of its normalization (scale), distance to the other filters (geometric-median).
 * Of each family the least important go (local), or of all families together by scores over their family's mean (global).
 * What is removed changes nothing that zeros in its place would not; axes that are averaged or normalized over are left
 * alone unless `width` asks for them.
 * Paper: Li et al. 2017 (arXiv 1608.08710); Liu et al. 2017 (arXiv 1708.06519); He et al. 2019 (arXiv 1811.00250);
 * Fang et al. 2023, DepGraph (arXiv 2301.12900).
 */
import { z } from "zod";
import { costOf } from "../../analyse/cost.ts";
import { type ChannelGroups, type Family, type Group, channelGroups } from "../../analyse/groups.ts";
import type { Keep } from "../../analyse/keep.ts";
import { PareError, throwIfAborted } from "../../base/error.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Model } from "../../ir/model.ts";
import { settleSizes } from "../../transform/settle-sizes.ts";
import { sliceGroups } from "../../transform/slice-groups.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import type { Journal } from "../journal.ts";
import { prepareConstants, shortList } from "../prepare.ts";
import { choices, range } from "../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../technique.ts";
import { type Allocation, type ScoredFamily, allocate, normalize } from "./allocate.ts";
import { CHANNEL_SCORES, floatReader } from "./channel-scores.ts";

/** Halvings of the interval in which the ratio for a target lies: a thousandth of the channels. */
const TARGET_STEPS = 10;

const share = z.number().min(0).max(0.99);

const options = z.object({
  ratio: share
    .default(0.3)
    .describe("share of the channels removed, 0..1 (a target sets its own)")
    .meta({ search: range(0.1, 0.7) }),
  macs: share.optional().describe("remove channels until this share of the multiply-accumulates is gone"),
  parameters: share.optional().describe("remove channels until this share of the parameters is gone"),
  bytes: share.optional().describe("remove channels until this share of the bytes of weights is gone"),
  score: z
    .enum(["l1", "l2", "scale", "geometric-median", "random"])
    .default("l2")
    .describe("what makes a channel important")
    .meta({ search: choices("l1", "l2", "geometric-median") }),
  scope: z
    .enum(["local", "global"])
    .default("local")
    .describe("the ratio holds for each layer, or over all layers together")
    .meta({ search: choices("local", "global") }),
  normalize: z
    .enum(["mean", "max", "sum", "none"])
    .default("mean")
    .describe("what a family's scores are divided by before they are compared with others"),
  multipleOf: z.int().min(1).default(1).describe("channels that stay are a multiple of this, where there are as many"),
  minChannels: z.int().min(1).default(1).describe("groups of channels that each layer keeps at least"),
  width: z
    .boolean()
    .default(false)
    .describe("also remove channels that are averaged or normalized over: the others change, too"),
  keep: keepOption,
});

export const pruneChannels: TechniqueFunction = defineTechnique({
  name: "prune-channels",
  family: "prune",
  summary: "Remove whole channels, heads and units, with everything tied to them.",
  needs: [],
  options,
  async run(model, chosen, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    settleSizes(model);
    const groups = channelGroups(model);
    journalFrozen(groups, journal);
    const keep = keepOf(chosen.keep, model, journal);
    const allowed = groups.families.filter((family) => {
      const why = reasonToKeep(family, keep, chosen.width);
      if (why) journal.skip(family.name, why);
      return !why;
    });
    const scored = await scoresOf(allowed, chosen.score, chosen.normalize, context);
    if (scored.length === 0) return model;
    const how: Allocation = {
      scope: chosen.scope,
      multipleOf: chosen.multipleOf,
      least: chosen.minChannels,
    };
    const target = targetOf(chosen);
    const ratio = target ? ratioFor(model, groups, scored, how, target, context) : chosen.ratio;
    const gone = allocate(scored, ratio, how);
    const before = costOf(model);
    sliceGroups(model, groups, [...gone.values()].flat());
    for (const [family, removed] of gone) journalFamily(family, removed, chosen.score, journal);
    const after = costOf(model);
    journal.note(
      `MACs ${before.macs} -> ${after.macs} (${percent(before.macs, after.macs)}), parameters ${before.parameters} -> ${after.parameters} (${percent(before.parameters, after.parameters)})`,
    );
    return model;
  },
});

function percent(before: number, after: number): string {
  return before > 0 ? `${((100 * (after - before)) / before).toFixed(1)} %` : "0 %";
}

function reasonToKeep(family: Family, keep: Keep, width: boolean): string | undefined {
  const named = [...family.producers, ...family.companions].some(
    ({ node, value }) => keep.node(node) || keep.value(value),
  );
  if (named) return "kept";
  return family.mixed !== undefined && !width ? `${family.mixed}; ask for it with width` : undefined;
}

function journalFrozen({ frozen }: ChannelGroups, journal: Journal): void {
  for (const { name, count, size, reason } of frozen)
    journal.skip(name, `${count === size ? "" : `${count} of ${size} channels: `}${reason}`);
}

function journalFamily(family: Family, removed: readonly Group[], score: string, journal: Journal): void {
  if (removed.length === 0) return;
  const total = family.groups.length;
  const indices = removed.map(({ index }) => index).sort((a, b) => a - b);
  journal.change({
    what: family.name,
    how: `${total} -> ${total - removed.length} ${family.kind} by ${score}; gone: ${shortList(indices.map(String), 12)}`,
  });
}

async function scoresOf(
  families: readonly Family[],
  score: keyof typeof CHANNEL_SCORES,
  by: "mean" | "max" | "sum" | "none",
  context: Context,
): Promise<ScoredFamily[]> {
  const floats = floatReader();
  const scored: ScoredFamily[] = [];
  for (const [done, family] of families.entries()) {
    throwIfAborted(context.signal);
    context.onProgress({ stage: "prune-channels", done, total: families.length });
    const scores = await CHANNEL_SCORES[score](family, { seed: context.seed, floats });
    if (scores) scored.push({ family, scores: normalize(scores, by) });
    else context.journal.skip(family.name, `nothing is stored there that '${score}' could tell by`);
  }
  return scored;
}

interface Target {
  readonly quantity: "macs" | "parameters" | "weightBytes";
  readonly share: number;
}

function targetOf(chosen: {
  readonly macs?: number | undefined;
  readonly parameters?: number | undefined;
  readonly bytes?: number | undefined;
}): Target | undefined {
  const given: Target[] = [];
  if (chosen.macs !== undefined) given.push({ quantity: "macs", share: chosen.macs });
  if (chosen.parameters !== undefined) given.push({ quantity: "parameters", share: chosen.parameters });
  if (chosen.bytes !== undefined) given.push({ quantity: "weightBytes", share: chosen.bytes });
  if (given.length > 1)
    throw new PareError("bad-option", "More than one target", {
      where: "prune-channels options 'macs', 'parameters' and 'bytes'",
      expected: "one of them",
    });
  return given[0];
}

/** The least ratio whose cut reaches the target, by bisection on copies that share the tensors. */
function ratioFor(
  model: Model,
  groups: ChannelGroups,
  scored: readonly ScoredFamily[],
  how: Allocation,
  { quantity, share: wanted }: Target,
  context: Context,
): number {
  const start = costOf(model)[quantity];
  const removedAt = (ratio: number): number => {
    throwIfAborted(context.signal);
    const copy = cloneModel(model);
    const own = channelGroups(copy);
    const gone = allocate(scored, ratio, how);
    // The same graph has the same families and groups, in the same order.
    const same = groups.families.flatMap((family, i) =>
      (gone.get(family) ?? []).map(({ index }) => own.families[i]?.groups[index] as Group),
    );
    sliceGroups(copy, own, same);
    return 1 - costOf(copy)[quantity] / start;
  };
  let [low, high] = [0, 1];
  const most = removedAt(high);
  if (most < wanted) {
    context.journal.note(
      `at most ${(100 * most).toFixed(1)} % can be removed of the ${(100 * wanted).toFixed(1)} % asked for`,
    );
    return high;
  }
  for (let i = 0; i < TARGET_STEPS; i++) {
    const middle = (low + high) / 2;
    if (removedAt(middle) < wanted) low = middle;
    else high = middle;
  }
  return high;
}
