/** `pare train`: an architecture by name, or any ONNX model, on a data set. */
import { existsSync } from "node:fs";
import type { Command } from "commander";
import { ARCHITECTURES, buildArchitecture } from "../../architectures/build.ts";
import { optionsFor } from "../../architectures/fit.ts";
import type { Dataset } from "../../data/dataset.ts";
import { openDataset } from "../../data/open.node.ts";
import { loadFile } from "../../ir/load.node.ts";
import type { Model } from "../../ir/model.ts";
import { saveFile } from "../../ir/save.node.ts";
import { formatSeconds } from "../../report/format.ts";
import { checkOutput } from "../../techniques/compress-file.node.ts";
import type { EpochRecord } from "../../train/checkpoint.ts";
import { train } from "../../train/train.node.ts";
import {
  addArchitectureOptions,
  architectureOptions,
  refuseArchitectureOptions,
} from "../architecture-options.node.ts";
import { formatTable } from "../format.ts";
import { addCommonOptions, addOutputOptions, commonOptions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";
import { addTrainingOptions, trainingOptions } from "../training-options.node.ts";

export function addTrain(program: Command): void {
  const verb = program
    .command("train <model>")
    .summary("train an architecture by name, or any ONNX model")
    .description("Trains a model and writes it. <model> is a file, or the name of an architecture from the list below.")
    .requiredOption("--data <name>", "training samples, as reader:path?option=value")
    .option("--validation <name>", "samples to judge each epoch on; the best epoch's weights are kept");
  addTrainingOptions(verb);
  addArchitectureOptions(verb);
  addOutputOptions(verb);
  addCommonOptions(verb).action((subject: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const output = parsed["output"] as string;
      const force = parsed["force"] === true;
      await checkOutput(output, force);
      const { provider, threads, seed } = commonOptions(parsed);
      const data = await openDataset(parsed["data"] as string);
      const validation = typeof parsed["validation"] === "string" ? await openDataset(parsed["validation"]) : undefined;
      const model = await modelOf(subject, parsed, data, seed);
      const result = await train(model, data, {
        ...trainingOptions(parsed),
        provider,
        threads,
        seed,
        validation,
        signal: terminal.signal,
        onProgress: ({ stage, done, total, loss }) =>
          terminal.onProgress({ stage: `${stage}, loss ${loss.toPrecision(3)}`, done, total }),
        onEpoch: (record) => terminal.say(formatEpoch(record)),
        onNote: (note) => terminal.say(note),
      });
      await saveFile(model, output, { force, signal: terminal.signal });
      const { epochs, best, secondsPerStep, steps } = result;
      return {
        json: { output, epochs, best, secondsPerStep, steps, trained: result.trained, masked: result.masked },
        text: [
          formatTable(epochs.map(epochRow), ["epoch", "loss", ...Object.keys(best.metrics), "time"]),
          `Wrote ${output} (weights of epoch ${best.epoch}; ${formatSeconds(secondsPerStep)} per step)`,
        ].join("\n"),
      };
    }),
  );
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

function formatEpoch({ epoch, loss, metrics, seconds }: EpochRecord): string {
  const scores = Object.entries(metrics).map(([name, value]) => `, ${name} ${value.toFixed(4)}`);
  return `epoch ${epoch}: loss ${loss.toFixed(4)}${scores.join("")} (${formatSeconds(seconds)})`;
}
