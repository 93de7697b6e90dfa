/** `pare train`: an architecture by name, or any ONNX model, on a data set. */
import { existsSync } from "node:fs";
import { type Command } from "commander";
import { PareError } from "../../base/error.ts";
import { ARCHITECTURES, buildArchitecture } from "../../architectures/build.ts";
import { optionsFor } from "../../architectures/fit.ts";
import type { Dataset } from "../../data/dataset.ts";
import { openDataset } from "../../data/open.node.ts";
import { loadFile } from "../../ir/load.node.ts";
import type { Model } from "../../ir/model.ts";
import { saveFile } from "../../ir/save.node.ts";
import { formatSeconds } from "../../report/format.ts";
import { textChart } from "../../report/text-chart.ts";
import { metricLabel, trainingPage } from "../../report/training-run.ts";
import { checkOutput } from "../../techniques/compress-file.node.ts";
import { checkOptions } from "../../techniques/recipe.ts";
import { parseTrainingTexts } from "../../techniques/training-texts.ts";
import type { EpochRecord } from "../../train/checkpoint.ts";
import type { FoundRate } from "../../train/find-rate.ts";
import type { TrainOptions, TrainResult } from "../../train/loop.ts";
import { findLearningRate, train } from "../../train/train.node.ts";
import { trainingSchema, trainOptionsOf } from "../../train/training-schema.ts";
import { convertOpset } from "../../transform/opset.ts";
import {
  addArchitectureOptions,
  architectureOptions,
  refuseArchitectureOptions,
} from "../architecture-options.node.ts";
import { writeWhole } from "../files.node.ts";
import { formatTable } from "../format.ts";
import { addCommonOptions, addSchemaOptions, commonOptions, schemaOptions } from "../options.node.ts";
import { type Outcome, runVerb, type Terminal } from "../run.node.ts";
import { trainingDisplay } from "../training-display.node.ts";

export function addTrain(program: Command): void {
  const verb = program
    .command("train <model>")
    .summary("train an architecture by name, or any ONNX model")
    .description("Trains a model and writes it. <model> is a file, or the name of an architecture from the list below.")
    .requiredOption("--data <name>", "training samples, as reader:path?option=value")
    .option("-o, --output <path>", "the model to write")
    .option("--force", "overwrite what is there", false)
    .option("--validation <name>", "samples to judge each epoch on; the best epoch's weights are kept")
    .option("--teacher <file>", "a model on the same inputs whose answers are learned too")
    .option(
      "--find-learning-rate",
      "try rising learning rates for 100 steps, say which to use, and write nothing",
      false,
    )
    .option("--report <file>", "write the curves as a page (.html), too")
    .option("--checkpoint <file>", "keep the newest state here, to go on after a stop")
    .option("--resume", "go on from the checkpoint", false);
  addSchemaOptions(verb, trainingSchema);
  addArchitectureOptions(verb);
  addCommonOptions(verb).action((subject: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const job = await prepare(subject, parsed, terminal);
      return parsed["findLearningRate"] === true ? findRate(job, terminal) : runTraining(job, parsed, terminal);
    }),
  );
}

interface Job {
  readonly model: Model;
  readonly data: Dataset;
  readonly options: TrainOptions;
}

/** Everything that can be wrong is checked before the work begins. */
async function prepare(subject: string, parsed: Record<string, unknown>, terminal: Terminal): Promise<Job> {
  const chosen = checkOptions("train", trainingSchema, schemaOptions(parsed, trainingSchema));
  const texts = parseTrainingTexts(chosen);
  const output = parsed["output"];
  if (parsed["findLearningRate"] !== true) {
    if (typeof output !== "string")
      throw new PareError("bad-option", "There is no name for the trained model", { help: "Add -o model.onnx" });
    await checkOutput(output, parsed["force"] === true);
    if (typeof parsed["report"] === "string") await checkOutput(parsed["report"], parsed["force"] === true);
  }
  if (parsed["resume"] === true && typeof parsed["checkpoint"] !== "string")
    throw new PareError("bad-option", "There is nothing to resume from", {
      where: "--resume",
      help: "Name the checkpoint with --checkpoint",
    });
  const { provider, threads, seed } = commonOptions(parsed);
  const data = await openDataset(parsed["data"] as string);
  const validation = typeof parsed["validation"] === "string" ? await openDataset(parsed["validation"]) : undefined;
  const model = await modelOf(subject, parsed, data, seed);
  const teacher = typeof parsed["teacher"] === "string" ? await loadFile(parsed["teacher"]) : undefined;
  if (teacher && teacher.opset < model.opset) convertOpset(teacher, model.opset);
  const note = (text: string): void => terminal.say(text);
  const options = trainOptionsOf(chosen, texts, model, teacher, note);
  const { signal } = terminal;
  return { model, data, options: { ...options, provider, threads, seed, validation, signal, onNote: note } };
}

async function runTraining(
  { model, data, options }: Job,
  parsed: Record<string, unknown>,
  terminal: Terminal,
): Promise<Outcome> {
  const output = parsed["output"] as string;
  const display = trainingDisplay(terminal);
  let result: TrainResult;
  try {
    result = await train(model, data, {
      ...options,
      checkpoint: parsed["checkpoint"] as string | undefined,
      resume: parsed["resume"] === true,
      onProgress: (progress) => display.progress(progress),
      onEpoch: (record) => display.epoch(record),
    });
  } finally {
    display.stop();
  }
  await saveFile(model, output, { force: parsed["force"] === true, signal: terminal.signal });
  const { epochs, best, secondsPerStep, steps, trained, masked, stoppedEarly, skippedSteps } = result;
  const json = { output, epochs, best, secondsPerStep, steps, trained, masked, stoppedEarly, skippedSteps };
  const report = parsed["report"];
  if (typeof report === "string") await writeWhole(report, trainingPage(json));
  const notes = [
    ...(stoppedEarly ? [`Stopped early: no better score for ${options.patience} epochs`] : []),
    ...(skippedSteps > 0 ? [`${skippedSteps} steps skipped because a gradient overflowed in half precision`] : []),
    ...(typeof report === "string" ? [`Wrote ${report}`] : []),
  ];
  return {
    json,
    text: [
      formatTable(epochs.map(epochRow), ["epoch", "loss", ...Object.keys(best.metrics).map(metricLabel), "time"]),
      ...notes,
      `Wrote ${output} (weights of epoch ${best.epoch}; ${formatSeconds(secondsPerStep)} per step)`,
    ].join("\n"),
  };
}

async function findRate({ model, data, options }: Job, terminal: Terminal): Promise<Outcome> {
  const onProgress = ({ stage, done, total }: { stage: string; done: number; total: number }): void =>
    terminal.onProgress({ stage, done, total });
  const found = await findLearningRate(model, data, { ...options, onProgress });
  return { json: found, text: formatRates(found) };
}

function formatRates({ points, suggestion, steepest, lowest }: FoundRate): string {
  const series = {
    label: "loss by learning rate",
    xs: points.map(({ rate }) => rate),
    ys: points.map(({ smoothed }) => smoothed),
  };
  const rate = (value: number): string => value.toPrecision(2);
  return [
    ...textChart(series, {
      logX: true,
      logY: true,
      height: 10,
      marks: [suggestion],
      formatX: (x) => x.toExponential(0),
    }),
    `The loss is lowest at ${rate(lowest)} and falls fastest at ${rate(steepest)}.`,
    `Suggested (a tenth of the lowest): --learning-rate ${rate(suggestion)}`,
  ].join("\n");
}

/** A model file, or an architecture sized to the data. */
async function modelOf(
  subject: string,
  parsed: Readonly<Record<string, unknown>>,
  data: Dataset,
  seed: number,
): Promise<Model> {
  const architecture = ARCHITECTURES.get(subject);
  if (!architecture) {
    if (!existsSync(subject) && !subject.endsWith(".onnx")) return buildArchitecture(subject); // fails, naming the nearest
    refuseArchitectureOptions(parsed, subject);
    return loadFile(subject);
  }
  const options = { ...optionsFor(architecture, data), ...architectureOptions(parsed, architecture) };
  return buildArchitecture(subject, { ...options, seed });
}

function epochRow({ epoch, loss, metrics, seconds }: EpochRecord): string[] {
  return [
    String(epoch),
    loss.toFixed(4),
    ...Object.values(metrics).map((value) => value.toFixed(4)),
    formatSeconds(seconds),
  ];
}
