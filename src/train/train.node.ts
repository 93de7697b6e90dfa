/** Training in Node: the loop on onnxruntime-node, with checkpoints in a file. */
import type { Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import { openSession } from "../run/open-session.node.ts";
import { checkpointFile } from "./checkpoint.node.ts";
import { type TrainOptions, type TrainResult, trainModel } from "./loop.ts";

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
