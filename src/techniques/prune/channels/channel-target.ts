/** What structured pruning aims at: a share of MACs, parameters, bytes or measured latency, and the ratio of channels that gets there. */
import { costOf } from "../../../analyse/cost.ts";
import { type ChannelGroups, type Family, type Group, channelGroups } from "../../../analyse/groups.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { latencyRatio } from "../../../evaluate/latency.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Model } from "../../../ir/model.ts";
import { indexRanges, syntheticFeeds } from "../../../run/synthetic.ts";
import { sliceGroups } from "../../../transform/slice-groups.ts";
import { engine } from "../../engine.ts";
import { portsOf } from "../../samples.ts";
import type { Context } from "../../technique.ts";
import { type Allocation, type ScoredFamily, allocate } from "../allocate.ts";

/** Halvings of the interval in which the ratio for a target lies: a thousandth of the channels. */
const TARGET_STEPS = 10;
/** Those where each step times the model: a hundredth of the channels. */
const LATENCY_STEPS = 7;
/** Rounds in turns and seconds that one comparison of latencies takes. */
const LATENCY_ROUNDS = 9;
const LATENCY_SECONDS = 1;

export type Quantity = "macs" | "parameters" | "weightBytes" | "latency";

export interface Target {
  readonly quantity: Quantity;
  /** Share that is to go. */
  readonly share: number;
  /** Samples of a run that is timed. */
  readonly batch: number;
}

/** The one target among the options. Throws `bad-option` for more. */
export function targetOf(chosen: {
  readonly macs?: number | undefined;
  readonly parameters?: number | undefined;
  readonly bytes?: number | undefined;
  readonly latency?: number | undefined;
  readonly latencyBatch: number;
}): Target | undefined {
  const { macs, parameters, bytes, latency, latencyBatch: batch } = chosen;
  const all: Readonly<Record<Quantity, number | undefined>> = { macs, parameters, weightBytes: bytes, latency };
  const given = Object.entries(all).flatMap(([quantity, share]) =>
    share === undefined ? [] : [{ quantity: quantity as Quantity, share, batch }],
  );
  if (given.length > 1)
    throw new PareError("bad-option", "More than one target", {
      where: "options 'macs', 'parameters', 'bytes' and 'latency'",
      expected: "one of them",
    });
  return given[0];
}

/** A copy of the model without these groups. Tensors are shared; what is cut is cut when it is read. */
export function withoutGroups(model: Model, groups: ChannelGroups, gone: ReadonlyMap<Family, readonly Group[]>): Model {
  const copy = cloneModel(model);
  const own = channelGroups(copy, groups.options);
  // The same graph has the same families and groups, in the same order.
  const same = groups.families.flatMap((family, i) =>
    (gone.get(family) ?? []).map(({ index }) => own.families[i]?.groups[index] as Group),
  );
  sliceGroups(copy, own, same);
  return copy;
}

/** The least ratio whose cut reaches the target, by bisection on copies that share the tensors. */
export async function ratioFor(
  model: Model,
  groups: ChannelGroups,
  scored: readonly ScoredFamily[],
  how: Allocation,
  target: Target,
  context: Context,
): Promise<number> {
  const { quantity, share } = target;
  const { journal, signal } = context;
  const gauge = await gaugeOf(model, target, context);
  const steps = quantity === "latency" ? LATENCY_STEPS : TARGET_STEPS;
  const removedAt = (ratio: number): Promise<number> => {
    throwIfAborted(signal);
    return gauge.removed(withoutGroups(model, groups, allocate(scored, ratio, how)));
  };
  const text = (part: number): string => `${(100 * part).toFixed(1)} %`;
  try {
    let [low, high] = [0, 1];
    let reached = await removedAt(high);
    if (reached < share) {
      journal.note(`at most ${text(reached)} can be removed of the ${text(share)} asked for`);
      return high;
    }
    for (let i = 0; i < steps; i++) {
      context.onProgress({ stage: `prune-channels: ${quantity}`, done: i, total: steps });
      const middle = (low + high) / 2;
      const removed = await removedAt(middle);
      if (removed < share) low = middle;
      else [high, reached] = [middle, removed];
    }
    if (quantity === "latency")
      journal.note(`Measured in turns, batch ${target.batch}: ${text(reached)} of the time of a run is gone.`);
    return high;
  } finally {
    await gauge.close?.();
  }
}

/** Says which share of a quantity a cut model has lost. */
export interface Gauge {
  removed(cut: Model): Promise<number>;
  close?(): Promise<void>;
}

/** The gauge of a target's quantity: counted, or measured in turns with the whole model. Close it. */
export async function gaugeOf(model: Model, target: Target, context: Context): Promise<Gauge> {
  const { quantity } = target;
  return quantity === "latency" ? timed(model, target, context) : counted(model, quantity);
}

function counted(model: Model, quantity: Exclude<Quantity, "latency">): Gauge {
  const start = costOf(model)[quantity];
  return { removed: (cut) => Promise.resolve(start > 0 ? 1 - costOf(cut)[quantity] / start : 0) };
}

/** Times the cut model and the whole one in turns on synthetic inputs. */
async function timed(model: Model, { batch }: Target, context: Context): Promise<Gauge> {
  const { provider, threads, signal, seed } = context;
  const { openSession } = await engine();
  const options = { provider, threads, signal };
  const whole = await openSession(model, options);
  const feeds = syntheticFeeds(portsOf(model), { seed, batch, ranges: indexRanges(model) });
  return {
    async removed(cut) {
      const session = await openSession(cut, options);
      try {
        const how = { rounds: LATENCY_ROUNDS, seconds: LATENCY_SECONDS, signal };
        return 1 - (await latencyRatio(whole, session, feeds, how)).ratio.value;
      } finally {
        await session.close();
      }
    },
    close: () => whole.close(),
  };
}
