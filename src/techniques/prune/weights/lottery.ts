/**
 * Trains, prunes and rewinds what is left to its first values, in rounds: looks for a small network inside the large one that
 * learns as well from the same start.
 *
 * Helps: extreme sparsity of networks that are trained from scratch; tells whether a sparse structure together with its first
 * values is enough. With `rewind=none`, iterative pruning with fine-tuning, which is the usual way for a trained network.
 * Hurts: the same as prune-weights; with rewinding what the model has learned before is given up, by intention.
 * Needs: training data, labelled unless a teacher has the whole share of the loss. Rewinding means something from a model that
 * is not trained yet: build one, or put `reinitialise` in front.
 * Cost: `rounds` + 1 trainings of `epochs` epochs (`rounds` without rewinding). What a killed run had finished is taken over.
 * Maths: after round t of n the share (1 − s)^(t/n) of the weights is left, so that every round takes the same part of what there
 * is. initial: w ← m·w₀ for the mask m and the first values w₀; early: w ← m·w_k with the weights w_k after a short first
 * training, which deeper networks need; none: w ← m·w. Biases, scales and running statistics are rewound, too.
 * Paper: Frankle and Carbin 2019, "The Lottery Ticket Hypothesis" (arXiv 1803.03635); Frankle et al. 2020, early rewinding (arXiv
 * 1912.05671); Han et al. 2015, iterative pruning (arXiv 1506.02626); Renda et al. 2020 (arXiv 2003.02389).
 */
import { z } from "zod";
import { PareError } from "../../../base/error.ts";
import { fingerprint } from "../../../ir/fingerprint.ts";
import type { Model } from "../../../ir/model.ts";
import { prepareConstants } from "../../prepare.ts";
import { choices, range } from "../../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../../technique.ts";
import { teacherNamed, type TrainingChoice, trainOn } from "../../training.ts";
import { finetune } from "../../tune/finetune.ts";
import { pruneWeights } from "./prune-weights.ts";
import { packSnapshot, rewindWeights, snapshotWeights, unpackSnapshot, type WeightSnapshot } from "./rewind.ts";

// Zeros are always held here.
const { maskZeros: _, ...training } = finetune.options.shape;

const options = z.object({
  ...training,
  // What both have (`keep`, `learningRate`) is one option.
  ...Object.fromEntries(
    Object.entries(pruneWeights.options.shape).filter(([name]) => !(name in finetune.options.shape)),
  ),
  ratio: z
    .number()
    .min(0)
    .max(1)
    .default(0.9)
    .describe("share of the weights that is zero at the end, 0..1")
    .meta({ search: range(0.5, 0.99) }),
  rounds: z.int().min(1).default(5).describe("prunings, with training between them"),
  rewind: z
    .enum(["initial", "early", "none"])
    .default("initial")
    .describe(
      "what the weights that are left become after each pruning: what they were at first, or after the early epochs, or they stay",
    )
    .meta({ search: choices("initial", "early", "none") }),
  early: z.number().positive().default(0.5).describe("rewind=early: epochs, at a constant rate, that are rewound to"),
});

/** What the rounds read of the options; the rest is for pruning. */
interface Chosen extends TrainingChoice {
  readonly ratio: number;
  readonly rounds: number;
  readonly rewind: "initial" | "early" | "none";
  readonly early: number;
  readonly pattern?: string | undefined;
  readonly teacher: string;
  readonly teacherShare: number;
  readonly batchNorm: "batch" | "frozen";
}

export const lottery: TechniqueFunction = defineTechnique({
  name: "lottery",
  family: "prune",
  summary: "Train, prune and rewind the weights that are left to their first values, in rounds.",
  needs: ["training"],
  demands: (chosen) => finetune.demands?.(chosen) ?? [],
  closing: (chosen) => pruneWeights.closing?.(chosen),
  options,
  async run(model, given, context) {
    const chosen = given as unknown as Chosen;
    const { rounds, ratio, rewind, early } = chosen;
    if (chosen.pattern?.includes(":") && rounds > 1)
      throw new PareError("bad-option", "A pattern n:m sets its own share, which rounds cannot divide", {
        where: "lottery option 'rounds'",
        found: String(rounds),
        expected: "1",
      });
    const cut = pruneWeights.options.parse(chosen);
    prepareConstants(model, context.journal);
    const parts = new Parts(model, JSON.stringify([chosen, await fingerprint(model)]), context);
    const phase = (name: string): Context => ({
      ...context,
      onProgress: (progress) => context.onProgress({ ...progress, stage: `${name}: ${progress.stage}` }),
    });
    let start: WeightSnapshot = snapshotWeights(model);
    if (rewind === "early") {
      await parts.once("early", () =>
        train(model, { ...chosen, epochs: early, schedule: "constant" }, phase("early epochs")),
      );
      start = snapshotWeights(model);
    }
    for (let round = 1; round <= rounds; round++) {
      const gone = 1 - (1 - ratio) ** (round / rounds);
      const name = `round ${round} of ${rounds}`;
      await parts.once(name, async () => {
        if (rewind !== "none") await train(model, chosen, phase(name));
        await pruneWeights.run(model, { ...cut, ratio: gone }, phase(name));
        if (rewind === "none") await train(model, chosen, phase(name));
        else await rewindWeights(model, start);
      });
      context.journal.note(`Round ${round} of ${rounds}: ${(100 * gone).toFixed(2)} % of the weights are zero.`);
    }
    if (rewind !== "none") await train(model, chosen, phase("the last training"));
    return model;
  },
});

async function train(model: Model, chosen: Chosen, context: Context): Promise<void> {
  const teaching = await teacherNamed(chosen.teacher, context.original);
  await trainOn(
    model,
    chosen,
    {
      name: "lottery",
      teaching: teaching && { model: teaching, share: chosen.teacherShare },
      maskThreshold: 0,
      batchNorm: chosen.batchNorm,
    },
    context,
  );
}

/** Phases whose weights are kept, so that a run that was killed need not repeat them. */
class Parts {
  readonly #model: Model;
  readonly #key: string;
  readonly #context: Context;

  constructor(model: Model, key: string, context: Context) {
    this.#model = model;
    this.#key = key;
    this.#context = context;
  }

  async once(phase: string, work: () => Promise<void>): Promise<void> {
    const { finished } = this.#context;
    const key = `lottery ${phase} ${this.#key}`;
    const known = await finished?.get(key);
    if (!known) {
      await work();
      await finished?.put(key, await packSnapshot(snapshotWeights(this.#model)));
      return;
    }
    for (const [name, tensor] of unpackSnapshot(known)) {
      const value = this.#model.graph.initializers.get(name);
      if (value) value.tensor = tensor;
    }
  }
}
