/** `pare train`: an architecture by name, or any ONNX model, on a data set. */
import { existsSync } from "node:fs";
import { type Command, Option } from "commander";
import { PareError } from "../../base/error.ts";
import { ARCHITECTURES, buildArchitecture } from "../../architectures/build.ts";
import type { Dataset } from "../../data/dataset.ts";
import { openDataset } from "../../data/open.node.ts";
import { loadFile } from "../../ir/load.node.ts";
import type { Model } from "../../ir/model.ts";
import { saveFile } from "../../ir/save.node.ts";
import { formatSeconds } from "../../report/format.ts";
import { checkOutput } from "../../techniques/compress-file.node.ts";
import { camelCase, fromText } from "../../techniques/recipe.ts";
import type { EpochRecord } from "../../train/checkpoint.ts";
import { DEFAULT_EPOCHS } from "../../train/loop.ts";
import { LOSSES } from "../../train/losses/table.ts";
import { OPTIMIZERS } from "../../train/optimizers/optimizer.ts";
import { SCHEDULES } from "../../train/schedule.ts";
import { type NodeTrainOptions, train } from "../../train/train.node.ts";
import { formatTable } from "../format.ts";
import {
  addCommonOptions,
  addOutputOptions,
  commonOptions,
  fraction,
  positiveNumber,
  countingNumber,
} from "../options.node.ts";
import { runVerb } from "../run.node.ts";
import { collect } from "./compress.node.ts";

export function addTrain(program: Command): void {
  const verb = program
    .command("train <model>")
    .summary("train an architecture by name, or any ONNX model")
    .description(
      `Trains a model and writes it. <model> is a file, or one of: ${[...ARCHITECTURES.values()].map(({ name }) => name).join(", ")}.`,
    )
    .requiredOption("--data <name>", "training samples, as reader:path?option=value")
    .option("--validation <name>", "samples to judge each epoch on; the best epoch's weights are kept")
    .option("--set <name=value>", "option of the architecture (width=32); repeat for several", collect, [])
    .option("--epochs <n>", "passes over the data", countingNumber, DEFAULT_EPOCHS)
    .option("--batch <n>", "samples per step", countingNumber, 128)
    .option("--learning-rate <x>", "highest learning rate (default: 0.05 for sgd, 0.001 for adam)", positiveNumber)
    .addOption(new Option("--optimizer <name>", "optimizer").choices([...OPTIMIZERS]).default("sgd"))
    .addOption(new Option("--schedule <name>", "learning rate over time").choices([...SCHEDULES]).default("cosine"))
    .addOption(new Option("--loss <name>", "loss").choices([...LOSSES]).default("cross-entropy"))
    .option("--momentum <x>", "momentum of sgd", fraction, 0.9)
    .option("--weight-decay <x>", "weight decay of matrices and kernels", fraction, 0)
    .option("--label-smoothing <x>", "label smoothing of the cross-entropy", fraction, 0)
    .option("--warmup <x>", "share of the steps during which the learning rate rises", fraction, 0.1)
    .option("--checkpoint <file>", "keep the newest state here, to go on after a stop")
    .option("--resume", "go on from the checkpoint", false);
  addOutputOptions(verb);
  addCommonOptions(verb).action((subject: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const output = parsed["output"] as string;
      const force = parsed["force"] === true;
      await checkOutput(output, force);
      const { provider, threads, seed } = commonOptions(parsed);
      const data = await openDataset(parsed["data"] as string);
      const validation = typeof parsed["validation"] === "string" ? await openDataset(parsed["validation"]) : undefined;
      const model = await modelOf(subject, parsed["set"] as string[], data, seed);
      const result = await train(model, data, {
        ...(parsed as NodeTrainOptions),
        provider,
        threads,
        seed,
        validation,
        signal: terminal.signal,
        onProgress: ({ stage, done, total, loss }) =>
          terminal.onProgress({ stage: `${stage}, loss ${loss.toPrecision(3)}`, done, total }),
        onEpoch: (record) => terminal.say(formatEpoch(record)),
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
async function modelOf(subject: string, settings: readonly string[], data: Dataset, seed: number): Promise<Model> {
  const architecture = ARCHITECTURES.get(subject);
  if (!architecture) {
    if (existsSync(subject) || subject.endsWith(".onnx")) return loadFile(subject);
    return buildArchitecture(subject); // fails, naming the nearest
  }
  const options: Record<string, unknown> = {};
  for (const setting of settings) {
    const equals = setting.indexOf("=");
    if (equals < 0)
      throw new PareError("bad-option", "Not a setting", {
        where: "--set",
        found: `'${setting}'`,
        expected: "name=value",
      });
    const name = camelCase(setting.slice(0, equals));
    const schema = architecture.options.shape[name];
    options[name] = schema ? fromText(setting.slice(equals + 1), schema) : setting.slice(equals + 1);
  }
  const shape = data.fields[0]?.shape;
  if (shape && "input" in architecture.options.shape) options["input"] ??= shape;
  if (data.classes && "classes" in architecture.options.shape) options["classes"] ??= data.classes.length;
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
