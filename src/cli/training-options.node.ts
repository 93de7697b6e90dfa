/** Flags that say how to train: optimizer, schedule, loss, augmentation, checkpoints. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { LOSSES } from "../train/losses/table.ts";
import { OPTIMIZERS } from "../train/optimizers/optimizer.ts";
import { SCHEDULES } from "../train/schedule.ts";
import type { NodeTrainOptions } from "../train/train.node.ts";
import { DEFAULT_EPOCHS } from "../train/train-options.ts";
import { countingNumber, fraction, positiveNumber, wholeNumber } from "./options.node.ts";

/** Share of the steps of a schedule without a rise of its own. */
const DEFAULT_WARMUP = 0.1;

/** Adds the flags; {@link trainingOptions} reads them. */
export function addTrainingOptions(command: Command): void {
  command
    .option("--epochs <n>", "passes over the data", countingNumber, DEFAULT_EPOCHS)
    .option("--batch <n>", "samples per step", countingNumber, 128)
    .option("--accumulate <n>", "runs of the model that share a step, each of batch/n samples", countingNumber)
    .addOption(new Option("--loss <name>", "loss").choices([...LOSSES]).default("cross-entropy"))
    .option("--label-smoothing <x>", "label smoothing of the cross-entropy", fraction, 0)
    .addOption(new Option("--optimizer <name>", "optimizer").choices([...OPTIMIZERS]).default("sgd"))
    .option("--learning-rate <x>", "highest learning rate (default: 0.05 for sgd, 0.001 for adam)", positiveNumber)
    .addOption(new Option("--schedule <name>", "learning rate over time").choices([...SCHEDULES]).default("cosine"))
    .option("--warmup <x>", "share of the steps during which the rate rises (default: 0.1; one-cycle 0.3)", fraction)
    .option("--minimum-rate <x>", "lowest learning rate, as a share of the highest", fraction, 0)
    .option("--momentum <x>", "momentum (default: 0.9 of sgd, 0 of rmsprop)", fraction)
    .option("--nesterov", "Nesterov's form of sgd's momentum", false)
    .option("--beta1 <x>", "averaging of gradients in adam and lion", fraction)
    .option("--beta2 <x>", "averaging of squares in adam and rmsprop, of the momentum in lion", fraction)
    .option("--weight-decay <x>", "weight decay of matrices and kernels", fraction, 0)
    .option("--clip-norm <x>", "largest norm of all gradients together", positiveNumber)
    .option("--averaging <x>", "keep a moving average of the weights: share of the old one, such as 0.999", fraction)
    .option(
      "--reestimate <n>",
      "measure the statistics of BatchNorm anew over so many batches at the end",
      countingNumber,
    )
    .option("--flip", "augment: mirror images left and right", false)
    .option("--crop <pixels>", "augment: pad images by so many pixels and cut their size out again", wholeNumber)
    .option("--cutout <pixels>", "augment: erase a square of this side", wholeNumber)
    .option("--noise <x>", "augment: deviation of normal noise", positiveNumber)
    .option("--fill <values>", "value of padding and erased squares, one or one per channel: a,b,c", numbers)
    .option("--mixup <alpha>", "augment: blend pairs of samples and their labels", positiveNumber)
    .option("--cutmix <alpha>", "augment: paste rectangles of other samples, and blend labels", positiveNumber)
    .option("--patience <n>", "stop after so many epochs without a better score on the validation data", countingNumber)
    .option("--checkpoint <file>", "keep the newest state here, to go on after a stop")
    .option("--resume", "go on from the checkpoint", false);
}

/** What the flags say; flags of other kinds in `parsed` are left out. */
export function trainingOptions(parsed: Readonly<Record<string, unknown>>): NodeTrainOptions {
  const { schedule, warmup = schedule === "one-cycle" ? undefined : DEFAULT_WARMUP } = parsed;
  const only = (names: readonly string[]): Record<string, unknown> =>
    Object.fromEntries(names.filter((name) => parsed[name] !== undefined).map((name) => [name, parsed[name]]));
  return { ...only(PLAIN), warmup, augment: only(AUGMENTATION) } as NodeTrainOptions;
}

const PLAIN: readonly (keyof NodeTrainOptions)[] = [
  "epochs",
  "batch",
  "accumulate",
  "loss",
  "labelSmoothing",
  "optimizer",
  "learningRate",
  "schedule",
  "minimumRate",
  "momentum",
  "nesterov",
  "beta1",
  "beta2",
  "weightDecay",
  "clipNorm",
  "averaging",
  "reestimate",
  "patience",
  "checkpoint",
  "resume",
];

const AUGMENTATION: readonly (keyof NonNullable<NodeTrainOptions["augment"]>)[] = [
  "flip",
  "crop",
  "cutout",
  "noise",
  "fill",
  "mixup",
  "cutmix",
];

/** Parses one number, or several joined by commas. */
function numbers(text: string): number | number[] {
  const values = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (!values.every(Number.isFinite))
    throw new InvalidArgumentError(`Found '${text}', expected numbers joined by commas, such as -1.9,-2,-1.8.`);
  return values.length === 1 ? (values[0] as number) : values;
}
