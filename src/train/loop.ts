/** Training a model on a data set. */
import type { Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import type { OpenSession } from "./evaluator.ts";
import { reestimateBatchNorm } from "./reestimate.ts";
import { checkTrainOptions, type TrainOptions, type TrainResult } from "./train-options.ts";
import { TrainingRun } from "./training-run.ts";

export { DEFAULT_EPOCHS, type TrainOptions, type TrainProgress, type TrainResult } from "./train-options.ts";

/**
 * Trains a model on a data set: its initializers are replaced by the trained ones; names, structure and sharing stay.
 * The same model, data, options and seed give the same weights, also when interrupted and resumed. Throws `bad-data` for
 * data without labels or with labels out of range, `shape-mismatch`, `bad-option`, `not-differentiable`, `unsupported`,
 * `aborted`.
 */
export async function trainModel(
  model: Model,
  dataset: Dataset,
  options: TrainOptions,
  open: OpenSession,
): Promise<TrainResult> {
  checkTrainOptions(options, dataset);
  const run = await TrainingRun.open(model, dataset, options, open);
  try {
    await run.train();
    const result = await run.finish(model);
    if (options.reestimate)
      await reestimateBatchNorm(model, dataset, { ...options, batches: options.reestimate }, open);
    return result;
  } finally {
    await run.close();
  }
}
