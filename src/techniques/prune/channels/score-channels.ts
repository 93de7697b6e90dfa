/** The criteria of structured pruning by name, and the scores of all families by one of them. */
import type { Family } from "../../../analyse/groups.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { activationMean, activationVariance, percentageOfZeros } from "./activation-channel-scores.ts";
import {
  type ChannelScore,
  type FamilyScores,
  floatReader,
  type Scoring,
  WEIGHT_CHANNEL_SCORES,
} from "./channel-scores.ts";
import { fisher, taylor } from "./gradient-channel-scores.ts";

const FAMILY_SCORES: Readonly<Record<string, FamilyScores>> = {
  taylor,
  fisher,
  apoz: percentageOfZeros,
  "activation-mean": activationMean,
  "activation-variance": activationVariance,
};

/** Criteria that read weights alone, then those that need samples. */
export const CHANNEL_SCORES: readonly string[] = [...Object.keys(WEIGHT_CHANNEL_SCORES), ...Object.keys(FAMILY_SCORES)];

/** What a criterion is called. */
export function nameOfScore(score: string | ChannelScore): string {
  return typeof score === "string" ? score : score.name || "function";
}

/** Importance of each group, by family; families that the criterion cannot tell of are left out. */
export async function scoreChannels(
  score: string | ChannelScore,
  scoring: Scoring,
): Promise<ReadonlyMap<Family, Float64Array>> {
  const found = typeof score === "string" ? FAMILY_SCORES[score] : undefined;
  const weights = typeof score === "string" ? WEIGHT_CHANNEL_SCORES[score] : score;
  const scores = found ? await found(scoring) : await eachFamily(weights, scoring);
  for (const [family, each] of scores)
    if (each.length !== family.groups.length || !each.every((value) => Number.isFinite(value) && value >= 0))
      throw new PareError(
        "bad-option",
        `The score '${nameOfScore(score)}' does not tell the importance of each group`,
        {
          where: family.name,
          found: `${each.length} numbers, such as ${each.find((value) => !(value >= 0)) ?? each[0]}`,
          expected: `${family.groups.length} finite numbers from 0 on`,
        },
      );
  return scores;
}

async function eachFamily(
  score: ChannelScore | undefined,
  { families, context }: Scoring,
): Promise<Map<Family, Float64Array>> {
  const floats = floatReader();
  const scores = new Map<Family, Float64Array>();
  for (const [done, family] of families.entries()) {
    throwIfAborted(context.signal);
    context.onProgress({ stage: "prune-channels", done, total: families.length });
    const each = await score?.(family, { seed: context.seed, floats });
    if (each) scores.set(family, Float64Array.from(each));
  }
  return scores;
}
