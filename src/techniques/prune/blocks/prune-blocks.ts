/**
 * Removes whole residual blocks, or layers of transformers (attention with its MLP): their nodes and weights are gone.
 *
 * Helps: latency on any engine and at any batch, in proportion to the blocks: depth shrinks, widths stay.
 * Hurts: accuracy in large steps; the first and last blocks of a network most. Fine-tune or distill afterwards.
 * Needs: nothing; samples (with labels) make `output` and `influence` mean more.
 * Cost: output: one pass over the samples per block (with `greedy` per block and removal); influence: one pass in all;
 *   a target of latency times the model once per removal.
 * Maths: y = x + f(x) becomes y = x. Importance is what the outputs lose when the block alone goes (output: the loss on labels,
 *   else the divergence of the scores, else the noise), 1 − E cos(x, y) (influence), Σ|w| (magnitude), or random.
 *   The least important go, as many as asked or until the target is reached; with `greedy` the rest is scored anew each time.
 * Paper: Men et al. 2024, ShortGPT (arXiv 2403.03853); Veit et al. 2016 (arXiv 1605.06431); Fan et al. 2019 (arXiv 1909.11556).
 */
import { z } from "zod";
import { costOf } from "../../../analyse/cost.ts";
import { type ResidualUnit, residualBlocks, residualUnits } from "../../../analyse/residual-blocks.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Model } from "../../../ir/model.ts";
import { removeBlocks } from "../../../transform/remove-blocks.ts";
import { settleSizes } from "../../../transform/settle-sizes.ts";
import { keepOf, keepOption } from "../../keep-option.ts";
import { Journal } from "../../journal.ts";
import { prepareConstants } from "../../prepare.ts";
import { choices, range } from "../../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../../technique.ts";
import { type Gauge, gaugeOf, targetOf } from "../channels/channel-target.ts";
import { BLOCK_SCORES, type BlockScore, scoreBlocks } from "./block-scores.ts";

const share = z.number().min(0).max(0.99);

const options = z.object({
  count: z.int().min(0).optional().describe("blocks (or layers) that go"),
  ratio: share
    .default(0.25)
    .describe("share of the blocks (or layers) that go, where neither a count nor a target is given")
    .meta({ search: range(0.1, 0.6) }),
  macs: share.optional().describe("remove until this share of the multiply-accumulates is gone"),
  parameters: share.optional().describe("remove until this share of the parameters is gone"),
  bytes: share.optional().describe("remove until this share of the bytes of weights is gone"),
  latency: share.optional().describe("remove until this share of the time of a run, measured on this machine, is gone"),
  latencyBatch: z.int().min(1).default(1).describe("samples per run whose time is measured"),
  unit: z
    .enum(["block", "layer"])
    .default("block")
    .describe("what goes at once: one residual block, or an attention block with the blocks up to the next one"),
  score: z
    .union([
      z.enum(BLOCK_SCORES as [string, ...string[]]),
      z.custom<BlockScore>((value) => typeof value === "function"),
    ])
    .default("output")
    .describe(
      "what makes a block important: output (what its removal does), influence (how it turns what flows through), magnitude or random; in the library also a function",
    )
    .meta({ search: choices("output", "influence") }),
  greedy: z.boolean().default(false).describe("score the blocks that are left anew after each removal"),
  samples: z.int().min(1).default(64).describe("samples that output and influence are taken on"),
  length: z
    .int()
    .min(2)
    .default(128)
    .describe("tokens of the texts that a language model writes where there is no data"),
  keep: keepOption,
});

type Chosen = z.output<typeof options>;

export const pruneBlocks: TechniqueFunction = defineTechnique({
  name: "prune-blocks",
  family: "prune",
  summary: "Remove whole residual blocks, or layers of transformers.",
  needs: [],
  options,
  async run(model, chosen, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    settleSizes(model);
    const target = targetOf(chosen);
    const all = unitsOf(model, chosen, journal);
    const most = target ? all.length : Math.min(all.length, chosen.count ?? Math.round(chosen.ratio * all.length));
    if (most === 0) return model;
    const gauge = target && (await gaugeOf(model, target, context));
    const before = costOf(model);
    try {
      const {
        model: result,
        removed,
        reached,
      } = await (chosen.greedy ? oneByOne : byOneRanking)(
        model,
        all,
        { chosen, most, share: target?.share ?? 1, gauge },
        context,
      );
      for (const { unit, score } of removed) journalUnit(unit, score, chosen, journal);
      if (target && reached < target.share)
        journal.note(`at most ${percent(reached)} can be removed of the ${percent(target.share)} asked for`);
      const after = costOf(result);
      journal.note(
        `${removed.length} of ${all.length} ${chosen.unit}s gone; MACs ${before.macs} -> ${after.macs}, parameters ${before.parameters} -> ${after.parameters}`,
      );
      return result;
    } finally {
      await gauge?.close?.();
    }
  },
});

function percent(part: number): string {
  return `${(100 * part).toFixed(1)} %`;
}

/** Units that may go; what may not is journaled with the reason. */
function unitsOf(model: Model, { unit, keep: patterns }: Chosen, journal: Journal): ResidualUnit[] {
  const blocks = residualBlocks(model);
  for (const { name, reason } of blocks) if (reason !== undefined) journal.skip(name, reason);
  if (blocks.length === 0) journal.note("No residual block: nothing is added to what it was computed from.");
  const keep = keepOf(patterns, model, journal);
  return residualUnits(blocks, unit).filter(({ name, blocks: own }) => {
    const isKept = own.some(({ nodes, weights }) => [...nodes].some(keep.node) || weights.some(keep.value));
    if (isKept) journal.skip(name, "kept");
    return !isKept;
  });
}

interface Removal {
  readonly unit: ResidualUnit;
  readonly score: number;
}

interface Removed {
  readonly model: Model;
  /** Least important first. */
  readonly removed: readonly Removal[];
  /** Share of the target's quantity that is gone. */
  readonly reached: number;
}

/** How far to go: so many units at most, until the gauge (where there is one) says that this share is gone. */
interface Limits {
  readonly chosen: Chosen;
  readonly most: number;
  readonly share: number;
  readonly gauge: Gauge | undefined;
}

/** All units are scored once, in the whole model. */
async function byOneRanking(
  model: Model,
  units: readonly ResidualUnit[],
  { chosen, most, share: wanted, gauge }: Limits,
  context: Context,
): Promise<Removed> {
  const scores = await scoresOf(model, units, chosen, context);
  const order = [...units.keys()].sort((a, b) => (scores[a] as number) - (scores[b] as number) || a - b);
  let [count, reached, result] = [0, 0, model];
  while (count < most && reached < wanted) {
    throwIfAborted(context.signal);
    count++;
    if (!gauge && count < most) continue;
    result = withoutUnits(model, units, order.slice(0, count));
    if (gauge) reached = await gauge.removed(result);
  }
  const removed = order
    .slice(0, count)
    .map((index) => ({ unit: units[index] as ResidualUnit, score: scores[index] ?? 0 }));
  return { model: result, removed, reached };
}

/** After each removal what is left is scored anew. */
async function oneByOne(
  model: Model,
  units: readonly ResidualUnit[],
  { chosen, most, share: wanted, gauge }: Limits,
  context: Context,
): Promise<Removed> {
  const removed: Removal[] = [];
  let [current, left, reached] = [model, units, 0];
  while (removed.length < most && left.length > 0 && reached < wanted) {
    throwIfAborted(context.signal);
    const scores = await scoresOf(current, left, chosen, context);
    const least = scores.reduce((best, score, i) => (score < (scores[best] as number) ? i : best), 0);
    removed.push({ unit: left[least] as ResidualUnit, score: scores[least] as number });
    current = withoutUnits(current, left, [least]);
    left = unitsOf(current, chosen, new Journal());
    if (gauge) reached = await gauge.removed(current);
  }
  return { model: current, removed, reached };
}

async function scoresOf(
  model: Model,
  units: readonly ResidualUnit[],
  { score, samples, length }: Chosen,
  context: Context,
): Promise<number[]> {
  const without = (index: number): Model => withoutUnits(model, units, [index]);
  const scores = await scoreBlocks(score, { model, units, without, samples, length, context });
  const wrong = scores.findIndex((each) => Number.isNaN(each));
  if (wrong >= 0)
    throw new PareError("bad-option", "A block's score is not a number", {
      where: units[wrong]?.name ?? "",
      found: String(scores[wrong]),
    });
  return scores;
}

/** A copy of the model without these units. Tensors are shared. */
function withoutUnits(model: Model, units: readonly ResidualUnit[], indices: readonly number[]): Model {
  const copy = cloneModel(model);
  const wanted = new Set(indices.flatMap((index) => units[index]?.blocks.map(({ sum }) => sum) ?? []));
  // The same graph has the same nodes, in the same order.
  const places = new Set(model.graph.nodes.flatMap((node, i) => (wanted.has(node) ? [i] : [])));
  const own = new Set(copy.graph.nodes.filter((_, i) => places.has(i)));
  removeBlocks(
    copy,
    residualBlocks(copy).filter(({ sum }) => own.has(sum)),
  );
  return copy;
}

function journalUnit({ name, blocks }: ResidualUnit, score: number, chosen: Chosen, journal: Journal): void {
  const nodes = blocks.reduce((sum, block) => sum + block.nodes.size, 0);
  const by = typeof chosen.score === "string" ? chosen.score : chosen.score.name || "function";
  const parameters = blocks
    .flatMap(({ weights }) => weights)
    .reduce((sum, { tensor }) => sum + (tensor?.elements ?? 0), 0);
  const what = blocks.map(({ kind }) => kind).join(" and ");
  journal.change({
    what: name,
    how: `gone: ${what}, ${nodes} nodes, ${parameters} parameters (${by} ${score.toPrecision(3)})`,
  });
}
