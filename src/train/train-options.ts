/** What a training run is told, and what it gives back. */
import { PareError } from "../base/error.ts";
import type { Augmentation } from "../data/augment.ts";
import { augments } from "../data/augment.ts";
import type { Dataset } from "../data/dataset.ts";
import { type Mixing, mixes } from "../data/mix.ts";
import type { Model } from "../ir/model.ts";
import type { Provider } from "../run/session.ts";
import type { CheckpointStore, EpochRecord } from "./checkpoint.ts";
import { termsOf } from "./objective.ts";
import type { Rewiring } from "./rewiring.ts";
import type { ScheduleOptions } from "./schedule.ts";
import type { StepOptions } from "./step-graph.ts";

/** A word on how far training is. */
export interface TrainProgress {
  readonly stage: string;
  /** Steps done, and all. */
  readonly done: number;
  readonly total: number;
  /** Extrapolated from the steps of this process. */
  readonly secondsLeft: number;
  /** Loss of the last step. */
  readonly loss: number;
}

/** A teacher of a training run; see {@link StepOptions.teacher}. */
export interface TeacherOptions {
  readonly model: Model;
  readonly share?: number | undefined;
  readonly temperature?: number | undefined;
}

export interface TrainOptions
  extends Omit<
      StepOptions,
      | "batch"
      | "teacher"
      | "masks"
      | "parameters"
      | "softLabels"
      | "labelLength"
      | "block"
      | "observeSteps"
      | "rampSteps"
      | "rewired"
      | "targetSizes"
    >,
    ScheduleOptions {
  /** Passes over the data; default 10. */
  readonly epochs?: number | undefined;
  /** Samples per step; default 128 (all of them where there are fewer). What does not fill a batch is left out of an epoch. */
  readonly batch?: number | undefined;
  /** Highest learning rate; default: the optimizer's own (0.05 for SGD, 0.001 for Adam, AdamW and RMSprop, 0.0001 for Lion). */
  readonly learningRate?: number | undefined;
  /** Default 1. */
  readonly seed?: number | undefined;
  /** Evaluated after every epoch. */
  readonly validation?: Dataset | undefined;
  /** End with the weights of the epoch that scored best on the validation data; default true when there is any. */
  readonly keepBest?: boolean | undefined;
  /** Stop after so many epochs without a better score on the validation data; default: never. */
  readonly patience?: number | undefined;
  /** How much better a score must be to count for `patience`; default 0. */
  readonly minimumGain?: number | undefined;
  /** Keep zeros of weights that pruning has thinned at zero; default true. */
  readonly maskZeros?: boolean | undefined;
  /** Share of zeros from which a weight counts as thinned; default 0.05: a few zeros are chance. */
  readonly maskThreshold?: number | undefined;
  /** Moves the zeros of thinned weights between steps, instead of holding them. */
  readonly rewiring?: Rewiring | undefined;
  /** A model on the same inputs whose answers are learned too. */
  readonly teacher?: TeacherOptions | undefined;
  /** Random changes of the training samples. */
  readonly augment?: (Augmentation & Mixing) | undefined;
  /** Batches over which the statistics of BatchNormalization are measured anew when training has ended; default 0: they stay. */
  readonly reestimate?: number | undefined;
  /** Share of all steps during which observed ranges of simulated activations follow the data; then they stay. Default 0. */
  readonly observe?: number | undefined;
  readonly threads?: number | undefined;
  readonly provider?: Provider | undefined;
  /** Run the engine in the calling thread; default false: a worker, so that timers and Ctrl-C stay alive. */
  readonly inProcess?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: TrainProgress) => void) | undefined;
  readonly onEpoch?: ((record: EpochRecord) => void) | undefined;
  /** Things that a user should know but that stop nothing, such as a missing checkpoint to resume from. */
  readonly onNote?: ((note: string) => void) | undefined;
  /** Where to keep checkpoints; none are kept without it. */
  readonly checkpoints?: CheckpointStore | undefined;
  /** Go on from the checkpoint in the store if there is one; default false. */
  readonly resume?: boolean | undefined;
  /** Seconds between checkpoints within an epoch; default 30. Every epoch ends with one. */
  readonly checkpointSeconds?: number | undefined;
}

export interface TrainResult {
  readonly epochs: readonly EpochRecord[];
  /** The epoch whose weights the model has now. */
  readonly best: EpochRecord;
  readonly secondsPerStep: number;
  readonly steps: number;
  /** Names of the weights that were trained, and of those held at zero by a mask. */
  readonly trained: readonly string[];
  readonly masked: readonly string[];
  /** True if training ended before its last epoch because the score no longer improved. */
  readonly stoppedEarly: boolean;
  /** Steps that mixed precision skipped because a gradient overflowed. */
  readonly skippedSteps: number;
}

/** Passes over the data where nobody says how many. */
export const DEFAULT_EPOCHS = 10;

/** Throws for options that do not go together, or that the data cannot serve. */
export function checkTrainOptions(options: TrainOptions, dataset: Dataset): void {
  const bad = (message: string, where: string, help: string): PareError =>
    new PareError("bad-option", message, { where, help });
  if (dataset.size === 0) throw new PareError("bad-data", "The data set is empty", { where: dataset.name });
  const labelled = termsOf(options).some(({ loss }) => loss.target !== "teacher");
  if (labelled && !dataset.labels) throw new PareError("bad-data", "Training needs labels", { where: dataset.name });
  if (!options.validation && options.patience !== undefined)
    throw bad("Early stopping needs data to judge by", "patience", "Name it with --validation");
  if (options.validation && !options.validation.labels)
    throw new PareError("bad-data", "The validation data has no labels", { where: options.validation.name });
  const mixed = options.augment !== undefined && mixes(options.augment);
  if (mixed && dataset.labels === "tokens")
    throw bad("mixup and cutmix blend labels, and tokens cannot be blended", "mixup", "Train without them");
  if (mixed && !labelled) throw bad("mixup and cutmix blend labels, and none are used", "mixup", "Train without them");
  if (mixed && termsOf(options).some(({ loss }) => loss.target === "sequences"))
    throw bad("mixup and cutmix cannot blend sequences of labels", "mixup", "Train without them");
  const { accumulate = 1, batch = 128 } = options;
  const samples = Math.min(batch, dataset.size);
  if (samples % accumulate !== 0)
    throw bad(
      `A batch of ${samples} cannot be split into ${accumulate} equal runs`,
      "accumulate",
      "Choose a divisor of the batch",
    );
}

/** True if what the model sees of a sample changes from epoch to epoch. */
export function isAugmented({ augment }: TrainOptions): boolean {
  return augment !== undefined && (augments(augment) || mixes(augment));
}

/** Options that decide the weights: what tells one run from another, beside model, data, teacher and functions. */
export const RUN_KEYS: readonly (keyof TrainOptions)[] = [
  "epochs",
  "learningRate",
  "seed",
  "optimizer",
  "momentum",
  "nesterov",
  "weightDecay",
  "beta1",
  "beta2",
  "epsilon",
  "clipNorm",
  "clipValue",
  "accumulate",
  "averaging",
  "schedule",
  "warmup",
  "milestones",
  "decay",
  "minimumRate",
  "loss",
  "labelSmoothing",
  "terms",
  "batchNorm",
  "statisticsMomentum",
  "dropout",
  "precision",
  "maskZeros",
  "maskThreshold",
  "rewiring",
  "observe",
  "augment",
  "patience",
  "minimumGain",
];
