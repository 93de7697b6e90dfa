/** `pare convert`: write a model again, unchanged but for its container: opset, external data, text form. */
import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { PareError } from "../../base/error.ts";
import { loadFile } from "../../ir/load.node.ts";
import type { Model } from "../../ir/model.ts";
import { saveFile } from "../../ir/save.node.ts";
import { parseModel } from "../../ir/text-parse.ts";
import { printModel } from "../../ir/text-print.ts";
import { checkOutput } from "../../techniques/compress-file.node.ts";
import { convertOpset } from "../../transform/opset.ts";
import { writeWhole } from "../files.node.ts";
import { addCommonOptions, addOutputOptions, commonOptions, positiveNumber, countingNumber } from "../options.node.ts";
import { runVerb } from "../run.node.ts";

/** Files in the text form end so. */
const TEXT = /\.(onnxtxt|txt)$/;

export function addConvert(program: Command): void {
  const verb = program
    .command("convert <model>")
    .summary("write a model again: other opset, external data, text form")
    .description("Reads .onnx or .onnxtxt and writes either, unchanged unless an option asks for it.")
    .option("--opset <n>", "convert the standard operators up to this opset", countingNumber)
    .option("--external-data <bytes>", "weights above this total go to a .data file beside the model", positiveNumber)
    .option("--elide", "leave large weights out of the text form", false);
  addOutputOptions(verb, "the file to write: .onnx, or .onnxtxt for the text form");
  addCommonOptions(verb).action((input: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const output = parsed["output"] as string;
      const force = parsed["force"] === true;
      await checkOutput(output, force);
      const model = await read(input);
      const notes: string[] = [];
      if (typeof parsed["opset"] === "number") notes.push(...(await raiseOpset(model, parsed["opset"])));
      if (TEXT.test(output)) {
        const text = await printModel(model, { weights: parsed["elide"] === true ? "elide" : "inline" });
        await writeWhole(output, text);
      } else {
        const externalDataThreshold = parsed["externalData"] as number | undefined;
        await saveFile(model, output, {
          force,
          signal: terminal.signal,
          onProgress: (done, total) => terminal.onProgress({ stage: "writing", done, total }),
          ...(externalDataThreshold === undefined ? {} : { externalDataThreshold }),
        });
      }
      return { json: { output, opset: model.opset, notes }, text: [`Wrote ${output}`, ...notes].join("\n") };
    }),
  );
}

async function read(path: string): Promise<Model> {
  return TEXT.test(path) ? parseModel(await readFile(path, "utf8")) : loadFile(path);
}

async function raiseOpset(model: Model, target: number): Promise<string[]> {
  if (target < model.opset)
    throw new PareError("unsupported", "Opsets are converted upward only", {
      where: "--opset",
      found: String(target),
      expected: `${model.opset} or more, the model's own`,
    });
  const before = model.opset;
  await convertOpset(model, target);
  return [`Opset ${before} -> ${model.opset}`];
}
