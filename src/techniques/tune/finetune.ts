/**
 * Fine-tuning: trains the weights of the model on data, so that accuracy lost to earlier steps comes back.
 *
 * Helps: after pruning, factorization or low-bit grids; most of what was lost returns within a few epochs.
 * Hurts: nothing structural; too high a learning rate or too little data can lower accuracy. It costs training time.
 * Needs: labelled training data; every operator between the trained weights and the output must have a gradient.
 * Cost: about three forward passes per sample and epoch; memory for weights, gradients, optimizer state and activations.
 * Maths: w <- w - eta * v with v <- mu * v + dL/dw (SGD with momentum), or Adam; weights that pruning set to zero are
 *   multiplied by their mask after every step and stay zero exactly. With a teacher,
 *   L = (1 - s) * CE(labels) + s * T^2 * KL(teacher/T || student/T).
 *   BatchNorm that was not folded trains with batch statistics: after pruning 85 % of a small network one epoch won back
 *   2 to 7 points more than with frozen ones.
 * Paper: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks"; Hinton et al. 2015,
 *   "Distilling the Knowledge in a Neural Network".
 */
import { z } from "zod";
import type { Keep } from "../../analyse/keep.ts";
import { PareError } from "../../base/error.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Model } from "../../ir/model.ts";
import type { Tensor } from "../../ir/tensor.ts";
import { trainModel } from "../../train/loop.ts";
import { OPTIMIZERS } from "../../train/optimizers/optimizer.ts";
import { SCHEDULES } from "../../train/schedule.ts";
import { convertOpset } from "../../transform/opset.ts";
import { engine } from "../engine.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { choices, range } from "../search-range.ts";
import { type TechniqueFunction, defineTechnique } from "../technique.ts";

/** The oldest opset in which every gradient can be written. */
const TRAINING_OPSET = 17;

export const finetune: TechniqueFunction = defineTechnique({
  name: "finetune",
  family: "tune",
  summary: "Train the weights on data, so that accuracy lost to earlier steps comes back.",
  needs: ["training", "labels"],
  options: z.object({
    epochs: z
      .number()
      .positive()
      .default(1)
      .describe("passes over the training data; 0.5 is half of it")
      .meta({ search: range(1, 5, { integer: true }) }),
    learningRate: z
      .number()
      .positive()
      .default(0.01)
      .describe("highest learning rate")
      .meta({ search: range(1e-4, 0.1, { log: true }) }),
    optimizer: z.enum(OPTIMIZERS).default("sgd").describe("how gradients become steps"),
    momentum: z.number().min(0).max(1).default(0.9).describe("momentum of sgd"),
    nesterov: z.boolean().default(true).describe("Nesterov's form of momentum"),
    weightDecay: z.number().min(0).default(1e-4).describe("weight decay of matrices and kernels"),
    schedule: z.enum(SCHEDULES).default("cosine").describe("how the learning rate changes"),
    warmup: z.number().min(0).max(1).default(0.05).describe("share of the steps over which the learning rate rises"),
    batch: z.int().min(1).default(128).describe("samples per step"),
    labelSmoothing: z.number().min(0).max(1).default(0).describe("share of the target spread over all classes"),
    teacher: z
      .enum(["none", "original"])
      .default("none")
      .describe("learn the soft labels of the model that compression started from, too")
      .meta({ search: choices("none", "original") }),
    teacherShare: z.number().min(0).max(1).default(0.5).describe("weight of the teacher's part of the loss"),
    temperature: z.number().positive().default(2).describe("temperature of the soft labels"),
    maskZeros: z.boolean().default(true).describe("weights that pruning set to zero stay zero"),
    batchNorm: z
      .enum(["batch", "frozen"])
      .default("batch")
      .describe(
        "BatchNorm uses each batch's statistics and moves its running ones (wins back more), or keeps these frozen",
      ),
    loss: z.enum(["cross-entropy", "mse"]).default("cross-entropy").describe("what is minimized"),
    keep: keepOption,
  }),
  async run(model, chosen, context) {
    const { data, journal } = context;
    if (!data) throw new PareError("bad-option", "finetune needs training data", { help: "Name it with --data" });
    const { keep: patterns, teacher, teacherShare, temperature, epochs, ...training } = chosen;
    const keep = keepOf(patterns, model, journal);
    const frozen = frozenNames(model, keep);
    for (const name of frozen) journal.skip(name, "kept");
    const before = new Map(
      [...model.graph.initializers].flatMap(([name, { tensor }]) => (tensor ? [[name, tensor] as const] : [])),
    );
    const { openSession } = await engine();
    // A part of an epoch is an epoch over that part of the data.
    const whole = Math.max(1, Math.ceil(epochs));
    const part = epochs / whole;
    const used = part < 1 ? data.subset({ part: [0, part], seed: context.seed }) : data;
    // Training runs on a copy in a newer opset where the model's own is too old; the model itself only gets the weights.
    const work = model.opset < TRAINING_OPSET ? cloneModel(model) : model;
    if (work !== model) convertOpset(work, TRAINING_OPSET);
    const result = await trainModel(
      work,
      used,
      {
        ...training,
        epochs: whole,
        seed: context.seed,
        frozen: (name) => frozen.has(name),
        teacher: teacher === "original" ? { model: context.original, share: teacherShare, temperature } : undefined,
        threads: context.threads,
        provider: context.provider,
        signal: context.signal,
        onProgress: ({ stage, done, total }) => context.onProgress({ stage: `finetune: ${stage}`, done, total }),
      },
      openSession,
    );
    const masked = new Set(result.masked);
    for (const name of result.trained) {
      const old = before.get(name);
      const tensor = work.graph.initializers.get(name)?.tensor;
      const value = model.graph.initializers.get(name);
      if (!old || !tensor || !value) continue;
      value.tensor = tensor;
      journal.change({
        what: name,
        how: `trained for ${result.steps} steps${masked.has(name) ? ", zeros held" : ""}`,
        error: await relativeChange(old, tensor),
      });
    }
    const losses = result.epochs.map(({ loss }) => loss.toFixed(4)).join(", ");
    journal.note(`training loss per epoch: ${losses}`);
    return model;
  },
});

/** Names of the weights that the patterns name, directly or through the node that reads them. */
function frozenNames(model: Model, keep: Keep): Set<string> {
  const names = new Set<string>();
  for (const value of model.graph.initializers.values())
    if (keep.value(value) || value.uses.some((use) => keep.node(use.node))) names.add(value.name);
  return names;
}

/** ‖ŵ − w‖/‖w‖. */
async function relativeChange(before: Tensor, after: Tensor): Promise<number> {
  const [w, v] = [(await before.data()) as Float32Array, (await after.data()) as Float32Array];
  let [difference, size] = [0, 0];
  for (let i = 0; i < w.length; i++) {
    difference += ((v[i] ?? 0) - (w[i] ?? 0)) ** 2;
    size += (w[i] ?? 0) ** 2;
  }
  return size === 0 ? 0 : Math.sqrt(difference / size);
}
