/**
 * Fits each layer of a compressed model to what the original computes in its place, from unlabelled samples.
 *
 * Helps: pruned, thinned, factorized or quantized-and-restored weights, right after compression: a network pruned by 70 %
 *   without training gets most of its accuracy back in seconds, and fine-tuning starts from there.
 * Hurts: nothing structural; with fewer samples than a layer has inputs it follows the samples too closely (raise the ridge).
 * Needs: samples without labels (some hundred), and the original: what compression started from, or a file.
 * Cost: a few passes of the samples through both models (values between fitted layers and the rest are remembered, up to
 *   256 MB); one k × k matrix per layer.
 * Maths: layer by layer, with x the inputs in the compressed model, whose earlier layers are fitted already, and z the
 *   outputs of the original: min over W, b of Σ‖z − Wx − b‖² + λ‖W − W₀‖² on the weights that are not zero. The sums XᵀX
 *   and XᵀZ come from the engine, the solution from conjugate gradients in double precision. `bias` moves b only:
 *   b ← b + mean(z − Wx − b).
 * Paper: He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks"; Nagel et al. 2019, "Data-Free
 *   Quantization through Weight Equalization and Bias Correction"; Frantar and Alistarh 2022, "Optimal Brain Compression".
 */
import { z } from "zod";
import { nameOf } from "../../analyse/keep.ts";
import { PareError, throwIfAborted } from "../../base/error.ts";
import { elementCount } from "../../base/shape.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { FeedStream } from "../../run/feed-stream.ts";
import { gram, type GramRequest } from "../../run/gram.ts";
import type { Feeds } from "../../run/session.ts";
import { joinModels } from "../../transform/join.ts";
import { applyShift, shiftOf } from "../../transform/shift-output.ts";
import { engine } from "../engine.ts";
import { Journal } from "../journal.ts";
import { keepOf, keepOption } from "../keep-option.ts";
import { loadModelFile } from "../model-file.ts";
import { prepareConstants } from "../prepare.ts";
import { dataFeeds } from "../samples.ts";
import { choices, range } from "../search-range.ts";
import { type Context, type TechniqueFunction, defineTechnique } from "../technique.ts";
import { asRows, candidates, gridStep, type Layer, layerOf, rowsOf } from "./fitted-layers.ts";
import { Frontier } from "./frontier.ts";
import { Original } from "./layer-targets.ts";
import { LeastSquares } from "./least-squares.ts";

/** Opset of the counting graph: reductions take their axes as inputs from here on. */
const COUNTING_OPSET = 18;
/** Memory of the patches of one batch. */
const BATCH_BYTES = 96 * 2 ** 20;
const MOST_PER_BATCH = 32;
/** Samples up to this size are read once, larger ones for every layer. */
const REMEMBERED_BYTES = 256 * 2 ** 20;
/** Relative error of a layer that is the original's: squares summed in float32 are known to about 1e-7 of themselves. */
const EXACT = 1e-3;

export const recover: TechniqueFunction = defineTechnique({
  name: "recover",
  family: "tune",
  summary: "Fit each layer of a compressed model to the original's outputs, without labels.",
  needs: ["calibration"],
  options: z.object({
    original: z
      .string()
      .optional()
      .describe("file of the model before compression; default: what the pipeline started from"),
    method: z
      .enum(["least-squares", "bias"])
      .default("least-squares")
      .describe("fit weights and biases, or biases only")
      .meta({ search: choices("least-squares", "bias") }),
    samples: z.int().min(1).default(256).describe("samples to fit on"),
    ridge: z
      .number()
      .min(0)
      .default(1e-3)
      .describe("pull towards the present weights, relative to the inputs' mean square")
      .meta({ search: range(1e-5, 1e-1, { log: true }) }),
    keep: keepOption,
  }),
  async run(model, chosen, context) {
    const { journal } = context;
    prepareConstants(model, journal);
    const original = new Original(await originalModel(chosen.original, context));
    const keep = keepOf(chosen.keep, model, journal);
    const layers: Layer[] = [];
    for (const candidate of candidates(model)) {
      const kept = keep.node(candidate.node) || (candidate.site && keep.value(candidate.site.value));
      const found = kept ? "kept" : await layerOf(model, candidate, original);
      if (typeof found === "string") journal.skip(nameOf(candidate.node), found);
      else layers.push({ ...found, level: candidate.level });
    }
    const { openSession } = await engine();
    const stream = await calibration(model, layers, chosen.samples, context);
    const frontier = new Frontier(stream, chosen.samples);
    const sessions = { threads: context.threads, provider: context.provider, signal: context.signal };
    const solver = await LeastSquares.open(openSession, sessions);
    try {
      const levels = [...new Set(layers.map(({ level }) => level))].sort((a, b) => a - b);
      for (const [done, level] of levels.entries()) {
        throwIfAborted(context.signal);
        context.onProgress({ stage: "recover", done, total: levels.length });
        const open = layers.filter((layer) => layer.level >= level);
        await fitLevel(model, original.model, open, frontier, solver, chosen, context);
      }
    } finally {
      await solver.close();
    }
    return model;
  },
});

async function originalModel(file: string | undefined, context: Context): Promise<Model> {
  if (file !== undefined) return loadModelFile(file);
  const model = cloneModel(context.original);
  prepareConstants(model, new Journal());
  return model;
}

/** The calibration samples, for every pass the same; remembered where they fit. */
async function calibration(
  model: Model,
  layers: readonly Layer[],
  limit: number,
  { data, seed, signal }: Context,
): Promise<FeedStream> {
  if (!data) throw new PareError("bad-option", "recover needs samples", { help: "Name them with --data" });
  const patchBytes = layers.map((layer) => 4 * layer.k * layer.node.int("group", 1) * rowsOf(layer));
  const size = Math.max(1, Math.min(MOST_PER_BATCH, Math.floor(BATCH_BYTES / Math.max(1, ...patchBytes))));
  const stream = (): AsyncGenerator<Feeds> => dataFeeds(model, data, { limit, size, seed, signal });
  const sampleBytes = data.fields.reduce((bytes, { shape }) => bytes + 4 * elementCount(shape), 0);
  if (sampleBytes * limit > REMEMBERED_BYTES) return stream;
  const remembered: Feeds[] = [];
  for await (const feeds of stream()) remembered.push(feeds);
  return () => remembered;
}

/** Counts and solves those of the open layers that come next and do not depend on each other. */
async function fitLevel(
  model: Model,
  original: Model,
  open: readonly Layer[],
  frontier: Frontier,
  solver: LeastSquares,
  chosen: { readonly method: string; readonly ridge: number },
  { journal, signal, threads, provider }: Context,
): Promise<void> {
  const { openSession } = await engine();
  const { model: joined, names } = joinModels(model, original, { prefix: "original/", opset: COUNTING_OPSET });
  const level = Math.min(...open.map((layer) => layer.level));
  const layers = open.filter((layer) => layer.level === level);
  const targetOf = ({ target }: Layer): string => names.get(target.name) ?? target.name;
  const run = frontier.run(joined, level, new Set(open.map(targetOf)));
  const requests = layers.map((layer): GramRequest => {
    const { node, channels, patches } = layer;
    const wanted = { value: targetOf(layer), channels };
    return patches
      ? { conv: node.name, every: gridStep(node), target: wanted }
      : { value: node.inputs[0]?.name ?? "", target: wanted };
  });
  const counted = await gram(run.model, requests, run.stream, openSession, {
    threads,
    provider,
    signal,
    fetch: run.fetch,
    onBatch: run.fetched,
  });
  run.advance();
  for (const [index, layer] of layers.entries()) {
    const { node, site, rowsFirst, outputs } = layer;
    const sums = counted[index];
    if (!sums) continue;
    const weights = asRows((await site.value.tensor?.data()) as Float32Array, outputs, rowsFirst);
    const shift = shiftOf(model, node, outputs);
    const now = shift?.own ? ((await shift.value.tensor?.data()) as Float32Array) : [];
    const solution = await solver.solve({
      gram: sums,
      weights,
      bias: shift && now,
      ridge: chosen.ridge,
      shiftOnly: chosen.method === "bias",
    });
    const name = nameOf(node);
    if (solution.before < EXACT) {
      journal.skip(name, "it computes what the original computes");
      continue;
    }
    if (!(solution.after < solution.before) || !solution.weights.every(Number.isFinite)) {
      journal.skip(name, "nothing was found that fits the original better");
      continue;
    }
    if (chosen.method !== "bias") {
      const k = weights.length / outputs;
      const stored = rowsFirst ? solution.weights : asRows(solution.weights, k, false);
      site.value.tensor = Tensor.float32(site.tensor.shape, stored);
    }
    if (shift && solution.shift) await applyShift(shift, solution.shift);
    journal.change({
      what: name,
      how: `error of its output ${percent(solution.before)} -> ${percent(solution.after)}`,
      error: solution.after,
    });
  }
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
}
