/**
 * Random cuts of every architecture: any families, any number of groups of each, grouped queries either way. Each equals its masked
 * original. Two seeds by default; `PARE_SEEDS=100` for as many.
 */
import { describe, expect, it } from "vitest";
import { type ChannelGroups, type Group, channelGroups } from "../../src/analyse/groups.ts";
import type { GroupedQueries } from "../../src/analyse/positions.ts";
import { ARCHITECTURES } from "../../src/architectures/build.ts";
import { Rng } from "../../src/base/rng.ts";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { freezeDefaults, liftConstants } from "../../src/transform/constants.ts";
import { settleSizes } from "../../src/transform/settle-sizes.ts";
import { sliceGroups } from "../../src/transform/slice-groups.ts";
import { smallOf } from "../architectures/small.ts";
import { lively } from "../support/lively.ts";
import { maskGroups } from "../support/mask-groups.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";

/** Sums in another order: float32 through some fifty layers. */
const TOLERANCE = 1e-5;
const SEEDS = Array.from({ length: Number(process.env["PARE_SEEDS"] ?? 2) }, (_, i) => 101 + i);

/** Any number of groups (but not all) of about half of the families that are exact. */
function drawn({ families }: ChannelGroups, rng: Rng): Group[] {
  return families.flatMap(({ groups, mixed }) => {
    const takes = rng.below(2) === 1;
    const count = rng.below(groups.length);
    const order = rng.shuffle(groups);
    return takes && mixed === undefined ? order.slice(0, count) : [];
  });
}

describe("random cuts equal their masks", () => {
  it.each([...ARCHITECTURES.keys()])("%s", async (name) => {
    const original = lively(smallOf(name));
    freezeDefaults(original);
    liftConstants(original);
    settleSizes(original);
    for (const seed of SEEDS) {
      const queries: GroupedQueries = seed % 2 ? "together" : "evenly";
      const cut = (): { model: typeof original; groups: ChannelGroups; removed: Group[] } => {
        const model = cloneModel(original);
        const groups = channelGroups(model, { queries });
        return { model, groups, removed: drawn(groups, new Rng(seed).fork(name)) };
      };
      const [masked, sliced] = [cut(), cut()];
      await maskGroups(masked.removed);
      sliceGroups(sliced.model, sliced.groups, sliced.removed);
      expect(checkModel(sliced.model)).toEqual([]);
      const options = { like: original, optimize: "none" } as const;
      const error = worstError(
        await runOnSynthetic(masked.model, options),
        await runOnSynthetic(sliced.model, options),
      );
      expect(error, `seed ${seed}`).toBeLessThan(TOLERANCE);
    }
  });
});
