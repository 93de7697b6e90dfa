/** Training in Node: the loop on onnxruntime-node, with checkpoints in a file. */
import type { Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import { openSession } from "../run/open-session.node.ts";
import { checkpointFile } from "./checkpoint.node.ts";
import { type FoundRate, findLearningRate as findRate, type RateRange } from "./find-rate.ts";
import { type TrainOptions, type TrainResult, trainModel } from "./loop.ts";
import { type ReestimateOptions, reestimateBatchNorm as reestimate } from "./reestimate.ts";

export interface NodeTrainOptions extends Omit<TrainOptions, "checkpoints"> {
  /** File that holds the newest checkpoint. */
  readonly checkpoint?: string | undefined;
}

/** Trains a model in place (see {@link trainModel}), by default with the engine in a worker thread. */
export function train(model: Model, dataset: Dataset, options: NodeTrainOptions = {}): Promise<TrainResult> {
  const { checkpoint, ...rest } = options;
  const checkpoints = checkpoint === undefined ? undefined : checkpointFile(checkpoint);
  return trainModel(model, dataset, { ...rest, checkpoints }, openSession);
}

/** The loss while the learning rate rises, and a rate to train with (see {@link findRate}). The model is not changed. */
export function findLearningRate(
  model: Model,
  dataset: Dataset,
  options: TrainOptions & RateRange = {},
): Promise<FoundRate> {
  return findRate(model, dataset, options, openSession);
}

/** Measures the statistics of BatchNormalization anew (see {@link reestimate}); returns the names of what changed. */
export function reestimateBatchNorm(
  model: Model,
  dataset: Dataset,
  options: ReestimateOptions = {},
): Promise<readonly string[]> {
  return reestimate(model, dataset, options, openSession);
}
