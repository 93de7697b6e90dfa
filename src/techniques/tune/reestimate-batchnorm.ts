/**
 * Measures the mean and variance of every BatchNormalization anew, on samples, after other steps have changed the weights.
 *
 * Helps: accuracy of models that were pruned, quantized (weights) or merged without training; points, for seconds of work.
 * Hurts: nothing but where the samples are few, or unlike what the model will see: their statistics take the place of the training set's.
 * Needs: samples like those of the training set, some hundred. No labels. BatchNormalization that has not been folded: put it
 *   before `quantize` and `simplify`.
 * Cost: one pass over the samples.
 * Maths: μ_c ← E[x_c], σ²_c ← E[x²_c] − E[x_c]² over samples and positions, unbiased, each layer fed by layers that normalize
 *   with the statistics of their batch.
 * Paper: Li et al. 2016, "Revisiting Batch Normalization For Practical Domain Adaptation" (arXiv 1603.04779); Li et al. 2020,
 *   "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning" (arXiv 2007.02491), on pruned networks.
 */
import { z } from "zod";
import { PareError } from "../../base/error.ts";
import { reestimateBatchNorm } from "../../train/reestimate.ts";
import { convertOpset } from "../../transform/opset.ts";
import { engine } from "../engine.ts";
import { prepareConstants } from "../prepare.ts";
import { range } from "../search-range.ts";
import { defineTechnique, type TechniqueFunction } from "../technique.ts";

/** First opset whose BatchNormalization gives out the statistics of its batch. */
const BATCH_STATISTICS_OPSET = 14;

export const reestimateBatchnorm: TechniqueFunction = defineTechnique({
  name: "reestimate-batchnorm",
  family: "tune",
  summary: "Measure the statistics of BatchNormalization anew on samples, after the weights have changed.",
  needs: ["training"],
  options: z.object({
    samples: z
      .int()
      .min(2)
      .default(1024)
      .describe("samples that the statistics are taken over, as many as fill whole runs")
      .meta({ search: range(256, 4096, { log: true, integer: true }) }),
    batch: z
      .int()
      .min(2)
      .default(64)
      .describe("samples per run: memory grows with it, and statistics of few are noisy"),
  }),
  async run(model, chosen, context) {
    const { data, journal, seed, signal, threads, provider } = context;
    if (!data)
      throw new PareError("bad-option", "reestimate-batchnorm needs samples", { help: "Name them with --data" });
    prepareConstants(model, journal);
    if (model.opset < BATCH_STATISTICS_OPSET) {
      const changes = convertOpset(model, BATCH_STATISTICS_OPSET);
      journal.note(`Raised to opset ${BATCH_STATISTICS_OPSET} (${changes.length} operators rewritten).`);
      prepareConstants(model, journal);
    }
    const before = new Map(Array.from(model.graph.initializers, ([name, { tensor }]) => [name, tensor]));
    const batch = Math.min(chosen.batch, data.size);
    const batches = Math.max(1, Math.floor(Math.min(chosen.samples, data.size) / batch));
    const { openSession } = await engine();
    const options = { batch, batches, seed, signal, threads, provider };
    const changed = await reestimateBatchNorm(model, data, options, openSession);
    if (changed.length === 0) journal.skip("the model", "it has no BatchNormalization with statistics of its own");
    for (const name of changed) {
      const [old, now] = [before.get(name), model.graph.initializers.get(name)?.tensor];
      if (!old || !now) continue;
      const [a, b] = [(await old.data()) as Float32Array, (await now.data()) as Float32Array];
      journal.change({ what: name, how: `${now.elements} channels, on average moved by ${percentMoved(a, b)} %` });
    }
    if (changed.length > 0) journal.note(`Statistics of ${batch * batches} samples, in ${batches} runs.`);
    return model;
  },
});

/** Σ|b − a| over Σ|a|, in percent. */
function percentMoved(a: Float32Array, b: Float32Array): string {
  let [moved, size] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    moved += Math.abs((b[i] as number) - (a[i] as number));
    size += Math.abs(a[i] as number);
  }
  return size > 0 ? ((100 * moved) / size).toPrecision(3) : "∞";
}
