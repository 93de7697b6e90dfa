/** Ratios by sensitivity: each family is cut alone to some widths, what that costs and saves is measured, and the sum of the cost is minimized. */
import { costOf } from "../../../analyse/cost.ts";
import type { ChannelGroups } from "../../../analyse/groups.ts";
import { throwIfAborted } from "../../../base/error.ts";
import { lowerHull } from "../../../base/lower-hull.ts";
import { Probe } from "../../../evaluate/probe.ts";
import type { Model } from "../../../ir/model.ts";
import { engine } from "../../engine.ts";
import { sourceOf } from "../../probe-source.ts";
import type { Context } from "../../technique.ts";
import { leastImportant, type Piece, type ScoredFamily } from "../allocate.ts";
import { type Quantity, withoutGroups } from "./channel-target.ts";

/** Shares of a family's groups whose loss is measured; no family loses more than the last. */
const SHARES = [0.125, 0.25, 0.5, 0.75, 0.9];

/**
 * The pieces of the lower convex hulls of damage against saving, one curve for each family: damage is how much the loss on the
 * labels rises (without labels: how far the outputs move) when that family alone loses its least important groups, the saving
 * is the share of the quantity (latency: of the MACs) that goes with them. Taken in order of slope they solve
 * min Σ damage with Σ saving ≥ target, as far as families are independent.
 */
export async function sensitivityPieces(
  model: Model,
  groups: ChannelGroups,
  scored: readonly ScoredFamily[],
  options: { readonly quantity: Quantity | undefined; readonly samples: number; readonly length: number },
  context: Context,
): Promise<Piece[]> {
  const { seed, provider, threads, signal, journal } = context;
  const quantity = options.quantity === undefined || options.quantity === "latency" ? "macs" : options.quantity;
  const { openSession } = await engine();
  const { source, on } = await sourceOf(model, options, context);
  const probe = await Probe.open(
    model,
    source,
    { seed, provider, threads, signal, samples: options.samples },
    openSession,
  );
  const start = costOf(model)[quantity];
  const pieces: Piece[] = [];
  let measure: string | undefined;
  try {
    for (const [family, each] of scored.entries()) {
      const points = [{ x: 0, y: 0, count: 0 }];
      const size = each.family.groups.length;
      const counts = new Set(SHARES.map((share) => Math.min(size - 1, Math.round(share * size))));
      counts.delete(0);
      for (const count of counts) {
        throwIfAborted(signal);
        context.onProgress({ stage: "prune-channels: sensitivity", done: family, total: scored.length });
        const cut = withoutGroups(model, groups, new Map([[each.family, leastImportant(each, count)]]));
        const { damages } = await probe.judge(cut);
        measure ??= ["loss", "mse", "kl", "noise"].find((name) => damages[name] !== undefined) ?? "noise";
        const x = start > 0 ? 1 - costOf(cut)[quantity] / start : 0;
        // A loss that falls is noise of the samples.
        const y = Math.max(0, damages[measure]?.value ?? 0);
        if (x > (points.at(-1)?.x ?? 0)) points.push({ x, y, count });
      }
      const hull = lowerHull(points);
      for (const [i, point] of hull.slice(1).entries()) {
        const before = hull[i] as typeof point;
        const saving = point.x - before.x;
        pieces.push({ family, groups: point.count - before.count, saving, slope: (point.y - before.y) / saving });
      }
    }
  } finally {
    await probe.close();
  }
  journal.note(`Sensitivity: ${measure ?? "noise"} against ${quantity} on ${on}.`);
  return pieces.sort((a, b) => a.slope - b.slope);
}
