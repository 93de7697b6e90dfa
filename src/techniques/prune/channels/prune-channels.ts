/**
 * Removes whole channels, heads and units together with everything tied to them: tensors shrink and the model runs faster.
 *
 * Helps: latency, MACs, bytes and memory at once, on any engine: what remains is a smaller dense network. Half of the
 * channels of every layer are about a quarter of the MACs.
 * Hurts: accuracy at once, unless the network is fine-tuned afterwards; narrow layers most.
 * Needs: nothing; scores by gradients and activations mean more with samples, and with labels. Fine-tune afterwards.
 * Cost: one pass over the weights; a target of MACs, parameters or bytes infers shapes some ten times, one of latency times the
 * model some seven times. taylor, fisher: a forward and a backward pass per sample; activations: a forward pass.
 * Maths: channels that the operators tie (residual sums, concatenations, groups, heads) are one group, with one score over
 * all its filters: Σ|w| (l1), √Σw² (l2), |γ| of its normalization (scale), distance to the other filters (geometric-median);
 * or from samples, over all layers that read it: E(Σ g·w)² over batches (taylor) or single samples (fisher), E|a|, Var a, the share
 * of activations that are not zero (apoz).
 * Of each family the least important go (local), or of all families together by scores over their family's mean (global;
 * taylor and fisher as they are: they are losses), or as many of each as its measured damage allows (sensitivity).
 * `kind` says what may go: channels, heads, neurons, recurrent units, or the width of the residual stream. A head is its part of the
 * queries, keys, values and output at once; queries that share keys go with them, or evenly, one of each head of keys.
 * What is removed changes nothing that zeros in its place would not; axes that are averaged or normalized over are left
 * alone unless `width` asks for them.
 * Paper: Li et al. 2017 (arXiv 1608.08710); Liu et al. 2017 (arXiv 1708.06519); He et al. 2019 (arXiv 1811.00250);
 * Molchanov et al. 2019 (arXiv 1906.10771); Theis et al. 2018 (arXiv 1801.05787); Hu et al. 2016 (arXiv 1607.03250);
 * Fang et al. 2023, DepGraph (arXiv 2301.12900); heads: Michel et al. 2019 (arXiv 1905.10650); grouped queries: Ainslie et al.
 * 2023 (arXiv 2305.13245).
 */
import { z } from "zod";
import { costOf } from "../../../analyse/cost.ts";
import { FAMILY_KINDS } from "../../../analyse/group-kinds.ts";
import { type ChannelGroups, type Family, type Group, channelGroups } from "../../../analyse/groups.ts";
import type { Keep } from "../../../analyse/keep.ts";
import { PareError } from "../../../base/error.ts";
import { noteKeptPorts } from "../../../ir/kept-ports.ts";
import type { Model } from "../../../ir/model.ts";
import { LOSSES } from "../../../train/losses/table.ts";
import { settleSizes } from "../../../transform/settle-sizes.ts";
import { sliceGroups } from "../../../transform/slice-groups.ts";
import { keepOf, keepOption } from "../../keep-option.ts";
import type { Journal } from "../../journal.ts";
import { prepareConstants, shortList } from "../../prepare.ts";
import { choices, range } from "../../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../../technique.ts";
import { type Allocation, type ScoredFamily, allocate, normalize } from "../allocate.ts";
import type { ChannelScore } from "./channel-scores.ts";
import { ratioFor, targetOf } from "./channel-target.ts";
import { sensitivityPieces } from "./channel-sensitivity.ts";
import { CHANNEL_SCORES, nameOfScore, scoreChannels } from "./score-channels.ts";

/** Scores over all layers together must not close a layer. */
const MOST_OF_A_LAYER = 0.9;
/** Criteria whose numbers are changes of the loss: they compare over families as they are. */
const LOSS_SCORES: ReadonlySet<string> = new Set(["taylor", "fisher"]);

const share = z.number().min(0).max(0.99);

const options = z.object({
  ratio: share
    .default(0.3)
    .describe("share of the channels removed, 0..1 (a target sets its own)")
    .meta({ search: range(0.1, 0.7) }),
  threshold: z
    .number()
    .min(0)
    .optional()
    .describe("remove the channels whose score over their family's mean is at most this; 0: those that are zero"),
  macs: share.optional().describe("remove channels until this share of the multiply-accumulates is gone"),
  parameters: share.optional().describe("remove channels until this share of the parameters is gone"),
  bytes: share.optional().describe("remove channels until this share of the bytes of weights is gone"),
  latency: share
    .optional()
    .describe("remove channels until this share of the time of a run, measured on this machine, is gone"),
  latencyBatch: z.int().min(1).default(1).describe("samples per run whose time is measured"),
  score: z
    .union([
      z.enum(CHANNEL_SCORES as [string, ...string[]]),
      z.custom<ChannelScore>((value) => typeof value === "function"),
    ])
    .default("l2")
    .describe("what makes a channel important; in the library also a function of the family")
    .meta({ search: choices("l1", "l2", "geometric-median", "taylor") }),
  samples: z.int().min(1).default(256).describe("samples that taylor, fisher, apoz and activation scores are taken on"),
  length: z
    .int()
    .min(2)
    .default(128)
    .describe("tokens of the texts that a language model writes where there is no data"),
  loss: z
    .enum(LOSSES)
    .optional()
    .describe("taylor, fisher: the loss whose gradient tells; default: the one for the data's labels"),
  scope: z
    .enum(["local", "global", "sensitivity"])
    .default("local")
    .describe(
      "the ratio holds for each layer, over all layers together by their scores, or as the loss measured for each layer allows",
    )
    .meta({ search: choices("local", "global") }),
  normalize: z
    .enum(["auto", "mean", "max", "sum", "norm", "none"])
    .default("auto")
    .describe(
      "what a family's scores are divided by before they are compared with others; auto: the mean, but nothing for taylor and fisher, which are losses",
    ),
  multipleOf: z.int().min(1).default(1).describe("channels that stay are a multiple of this, where there are as many"),
  minChannels: z.int().min(1).default(1).describe("groups of channels that each layer keeps at least"),
  maxRatio: share
    .optional()
    .describe("share of its channels that no layer loses more of; default: 0.9 unless scope is local"),
  width: z
    .boolean()
    .default(false)
    .describe("also remove channels that are averaged or normalized over: the others change, too"),
  kind: z
    .array(z.enum(FAMILY_KINDS))
    .default([...FAMILY_KINDS])
    .describe(
      "what may go: channels, heads (of attention), neurons (hidden units of dense layers), units (of recurrent layers), width (what residual sums carry); width that is normalized over only where it is asked for here or by --width",
    ),
  queries: z
    .enum(["together", "evenly"])
    .default("together")
    .describe("heads of queries that share a head of keys go with that head, or one of each head's and all keys stay"),
  caches: z
    .boolean()
    .default(false)
    .describe(
      "also heads whose keys and values are inputs and outputs of the model: the caches that a caller keeps get smaller",
    ),
  keep: keepOption,
});

type Chosen = z.output<typeof options>;

export const pruneChannels: TechniqueFunction = defineTechnique({
  name: "prune-channels",
  family: "prune",
  summary: "Remove whole channels, heads and units, with everything tied to them.",
  needs: [],
  options,
  run,
});

async function run(model: Model, chosen: Chosen, context: Context): Promise<Model> {
  const { journal } = context;
  prepareConstants(model, journal);
  settleSizes(model);
  const groups = channelGroups(model, { queries: chosen.queries, caches: chosen.caches });
  journalFrozen(groups, journal);
  const keep = keepOf(chosen.keep, model, journal);
  const families = groups.families.filter((family) => {
    const why = reasonToKeep(family, keep, chosen);
    if (why) journal.skip(family.name, why);
    return !why;
  });
  const target = targetOf(chosen);
  if (chosen.caches && (chosen.scope === "sensitivity" || target?.quantity === "latency"))
    throw new PareError("bad-option", "Networks whose caches differ are not run side by side", {
      where: "prune-channels option 'caches'",
      help: "Choose another scope, and a target of MACs, parameters or bytes",
    });
  const { threshold } = chosen;
  if (target && threshold !== undefined)
    throw new PareError("bad-option", "A target and a threshold both say how much goes", {
      where: "prune-channels option 'threshold'",
      expected: "one of them",
    });
  const scored = await scoresOf(model, groups, families, chosen, context);
  if (scored.length === 0) return model;
  const { scope, multipleOf, samples, length } = chosen;
  const pieces =
    scope === "sensitivity"
      ? await sensitivityPieces(model, groups, scored, { quantity: target?.quantity, samples, length }, context)
      : undefined;
  const most = chosen.maxRatio ?? (scope === "local" ? 1 : MOST_OF_A_LAYER);
  const how: Allocation = { scope, threshold, pieces, multipleOf, least: chosen.minChannels, most };
  const ratio = target ? await ratioFor(model, groups, scored, how, target, context) : chosen.ratio;
  const gone = allocate(scored, ratio, how);
  const before = costOf(model);
  const sides = sliceGroups(model, groups, [...gone.values()].flat());
  const ports = [...Object.keys(sides.inputs), ...Object.keys(sides.outputs)];
  if (ports.length > 0) {
    noteKeptPorts(model, sides);
    journal.note(`Inputs and outputs that got smaller: ${shortList(ports)}.`);
  }
  for (const [family, removed] of gone) journalFamily(family, removed, nameOfScore(chosen.score), journal);
  const after = costOf(model);
  journal.note(
    `MACs ${before.macs} -> ${after.macs} (${percent(before.macs, after.macs)}), parameters ${before.parameters} -> ${after.parameters} (${percent(before.parameters, after.parameters)})`,
  );
  return model;
}

function percent(before: number, after: number): string {
  return before > 0 ? `${((100 * (after - before)) / before).toFixed(1)} %` : "0 %";
}

/** Why a family's channels are left alone; undefined where they may go. */
export function reasonToKeep(
  family: Family,
  keep: Keep,
  { kind, width }: { readonly kind: readonly string[]; readonly width: boolean },
): string | undefined {
  if (!kind.includes(family.kind)) return `these are ${family.kind}, and ${kind.join(", ")} were asked for`;
  const named = [...family.producers, ...family.companions].some(
    ({ node, value }) => keep.node(node) || keep.value(value),
  );
  if (named) return "kept";
  const asked = width || (family.kind === "width" && kind.length < FAMILY_KINDS.length);
  return family.mixed !== undefined && !asked ? `${family.mixed}; ask for it with width` : undefined;
}

export function journalFrozen({ frozen }: ChannelGroups, journal: Journal): void {
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
  model: Model,
  groups: ChannelGroups,
  families: readonly Family[],
  chosen: Chosen,
  context: Context,
): Promise<ScoredFamily[]> {
  const { score, samples, length, loss } = chosen;
  const by =
    chosen.normalize === "auto"
      ? typeof score === "string" && LOSS_SCORES.has(score)
        ? "none"
        : "mean"
      : chosen.normalize;
  if (families.length === 0) return [];
  const found = await scoreChannels(score, { model, groups, families, options: { samples, length, loss }, context });
  return families.flatMap((family) => {
    const scores = found.get(family);
    if (scores) return [{ family, scores: normalize(scores, by) }];
    context.journal.skip(family.name, `nothing there tells '${nameOfScore(score)}' what is important`);
    return [];
  });
}
