/**
 * Trains with few weights from the first step to the last, and moves them to where they help: dynamic sparse training.
 *
 * Helps: high sparsity without a dense training before it; one run instead of rounds of pruning and training.
 * Hurts: networks that are trained already lose what the first choice of weights takes; needs about as many epochs as dense
 * training, and rewards more. The engine computes zeros like other numbers: a step takes as long as a dense one.
 * Needs: training data, labelled unless a teacher has the whole share of the loss; meant for a network that is not trained yet
 * (put `reinitialise` in front of one that is).
 * Cost: that of finetune, the gradients in memory once more, and two sorts of each weight at each move.
 * Maths: after every ΔT-th step each layer gives up the share α/2·(1 + cos(πt/T)) of its weights, those of least |w|, and takes as
 * many of the free places: those of the largest |∂L/∂w| (rigl), or by chance (set), beginning at 0. static moves nothing, the
 * control. How many weights a layer has follows from its shape (erk) or is the same share everywhere (uniform).
 * Paper: Evci et al. 2020, RigL (arXiv 1911.11134); Mocanu et al. 2018, SET (arXiv 1707.04780).
 */
import { z } from "zod";
import type { Model } from "../../ir/model.ts";
import type { Rewiring } from "../../train/rewiring.ts";
import { keepOption } from "../keep-option.ts";
import { pruneWeights } from "../prune/weights/prune-weights.ts";
import { choices, range } from "../search-range.ts";
import { defineTechnique, type TechniqueFunction } from "../technique.ts";
import { teacherDemands, teacherNamed, teacherOptions, trainingOptions, trainOn } from "../training.ts";

const GROWTH: Readonly<Record<"rigl" | "set", Rewiring["grow"]>> = { rigl: "gradient", set: "random" };

// An average over steps has weights in every place that was ever taken.
const { averaging: _, ...training } = trainingOptions;

const options = z.object({
  ...training,
  ...teacherOptions,
  ratio: z
    .number()
    .min(0)
    .max(1)
    .default(0.9)
    .describe("share of the weights that is zero, 0..1")
    .meta({ search: range(0.5, 0.98) }),
  method: z
    .enum(["rigl", "set", "static"])
    .default("rigl")
    .describe("where weights appear: at the largest gradients, at random, or nothing moves")
    .meta({ search: choices("rigl", "set", "static") }),
  allocation: z
    .enum(["erk", "uniform"])
    .default("erk")
    .describe("weights of each layer: by its shape (Erdős–Rényi-kernel), or the same share"),
  first: z
    .enum(["random", "magnitude", "snip"])
    .default("random")
    .describe("which weights there are at first: any, the largest, or by SNIP on 1024 samples"),
  moved: z.number().min(0).max(1).default(0.3).describe("share of its weights that a layer moves at first"),
  every: z.int().min(1).default(100).describe("steps between two moves"),
  until: z.number().min(0).max(1).default(0.75).describe("share of the steps after which nothing moves any more"),
  store: pruneWeights.options.shape["store"] as z.ZodType<"sparse" | "dense">,
  keep: keepOption,
});

/** Samples of the first choice by SNIP. */
const SNIP_SAMPLES = 1024;

export const trainSparse: TechniqueFunction = defineTechnique({
  name: "train-sparse",
  family: "sparsify",
  summary: "Train with few weights all along, moved to where they help (RigL, SET).",
  needs: ["training"],
  options,
  demands: teacherDemands,
  closing: (chosen) => pruneWeights.closing?.(chosen),
  async run(model, chosen, context) {
    const { journal } = context;
    const { ratio, method, allocation, first, moved, every, until, store, keep, teacher, teacherShare } = chosen;
    await pruneWeights.run(
      model,
      pruneWeights.options.parse({
        ratio,
        score: first,
        allocation,
        scope: "local",
        samples: SNIP_SAMPLES,
        store,
        keep,
      }),
      context,
    );
    const before = await placesOf(model);
    const teaching = await teacherNamed(teacher, context.original);
    const result = await trainOn(
      model,
      { ...chosen, averaging: undefined },
      {
        name: "train-sparse",
        teaching: teaching && { model: teaching, share: teacherShare },
        maskThreshold: 0,
        rewiring: method === "static" ? undefined : { grow: GROWTH[method], share: moved, every, until },
      },
      context,
    );
    const after = await placesOf(model);
    for (const name of result.masked) {
      const [old, now] = [before.get(name), after.get(name)];
      if (!old || !now) continue;
      const [taken, stayed] = [old, old.map((each, i) => each * (now[i] as number))].map((places) =>
        places.reduce((sum, each) => sum + each, 0),
      ) as [number, number];
      const share = taken > 0 ? ((100 * (taken - stayed)) / taken).toFixed(1) : "0";
      journal.change({ what: name, how: `${taken} of ${old.length} weights, ${share} % of them elsewhere at the end` });
    }
    if (result.masked.length === 0) journal.note("No weight was thinned: the training was dense.");
    return model;
  },
});

/** 1 where a weight is not zero, by the names of kernels. */
async function placesOf(model: Model): Promise<Map<string, Uint8Array>> {
  const places = new Map<string, Uint8Array>();
  for (const [name, { tensor }] of model.graph.initializers)
    if (tensor && tensor.dtype === "float32" && tensor.shape.length >= 2)
      places.set(
        name,
        Uint8Array.from((await tensor.data()) as Float32Array, (w) => Number(w !== 0)),
      );
  return places;
}
