/**
 * Removes channels in several rounds with training between them, so that the network adapts to each cut before the next.
 *
 * Helps: high ratios, where one cut at once leaves a network too damaged for its scores to mean anything.
 * Hurts: nothing structural; it costs the training of every round.
 * Needs: training data, labelled unless a teacher has the whole share of the loss.
 * Cost: `rounds` times that of prune-channels and of finetune with `epochs` epochs; later rounds train a smaller network.
 * Maths: after round t of n the share s_t = s·(1 − (1 − t/n)³) of the target is gone (cubic: much while the network is redundant,
 *   little at the end), or s·t/n (linear); scores are taken anew in each round.
 * Paper: Zhu and Gupta 2017 (arXiv 1710.01878); Molchanov et al. 2017 (arXiv 1611.06440).
 */
import { z } from "zod";
import { costOf } from "../../../analyse/cost.ts";
import { choices } from "../../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../../technique.ts";
import { finetune } from "../../tune/finetune.ts";
import { type Quantity, targetOf } from "./channel-target.ts";
import { pruneChannels } from "./prune-channels.ts";

const options = z.object({
  ...finetune.options.shape,
  // What both have (`keep`, `loss`) is one option.
  ...Object.fromEntries(
    Object.entries(pruneChannels.options.shape).filter(([name]) => !(name in finetune.options.shape)),
  ),
  rounds: z.int().min(1).default(4).describe("cuts, each followed by training"),
  course: z
    .enum(["cubic", "linear"])
    .default("cubic")
    .describe("how much is gone after each round: most in the first ones, or equal parts")
    .meta({ search: choices("cubic", "linear") }),
});

/** The option of prune-channels that asks for each quantity. */
const OPTION_OF: Readonly<Record<Quantity, string>> = {
  macs: "macs",
  parameters: "parameters",
  weightBytes: "bytes",
  latency: "latency",
};

export const pruneGradually: TechniqueFunction = defineTechnique({
  name: "prune-gradually",
  family: "prune",
  summary: "Remove channels in rounds, with training after each.",
  needs: ["training"],
  demands: (chosen) => finetune.demands?.(chosen) ?? [],
  options,
  async run(model, chosen, context) {
    const { rounds, course } = chosen;
    const cut = pruneChannels.options.parse(chosen) as CutOptions;
    const training = finetune.options.parse(chosen);
    const target = targetOf(cut);
    const wanted = target?.share ?? cut.ratio;
    const name = target ? OPTION_OF[target.quantity] : "ratio";
    const countable = target && target.quantity !== "latency" ? target.quantity : undefined;
    const start = countable && costOf(model)[countable];
    let current = model;
    let gone = 0;
    for (let round = 1; round <= rounds; round++) {
      const part = round / rounds;
      const left = countable && start ? costOf(current)[countable] / start : 1 - gone;
      gone = wanted * (course === "cubic" ? 1 - (1 - part) ** 3 : part);
      // Of what is left, the part that leaves 1 − gone of the start.
      const share = Math.min(0.99, Math.max(0, 1 - (1 - gone) / left));
      context.journal.note(`Round ${round} of ${rounds}: ${(100 * gone).toFixed(1)} % gone (${name}).`);
      const own: Context = {
        ...context,
        onProgress: (progress) =>
          context.onProgress({ ...progress, stage: `round ${round} of ${rounds}: ${progress.stage}` }),
      };
      current = await pruneChannels.run(current, { ...cut, [name]: share }, own);
      current = await finetune.run(current, training, own);
    }
    return current;
  },
});

/** The part of prune-channels' options that the rounds divide. */
type CutOptions = Parameters<typeof targetOf>[0] & { readonly ratio: number };
