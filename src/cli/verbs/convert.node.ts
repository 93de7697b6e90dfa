/** `pare convert`: write a model again: other opset, external data, text form, inputs fixed. */
import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { PareError } from "../../base/error.ts";
import { loadFile } from "../../ir/load.node.ts";
import type { Model } from "../../ir/model.ts";
import { saveFile } from "../../ir/save.node.ts";
import { parseModel } from "../../ir/text-parse.ts";
import { printModel } from "../../ir/text-print.ts";
import { checkOutput } from "../../techniques/compress-file.node.ts";
import { fixInputs } from "../../transform/fix-inputs.ts";
import { convertOpset } from "../../transform/opset.ts";
import { writeWhole } from "../files.node.ts";
import {
  addCommonOptions,
  addOutputOptions,
  commonOptions,
  countingNumber,
  inputShapes,
  inputValues,
  positiveNumber,
} from "../options.node.ts";
import { runVerb } from "../run.node.ts";
import { collect } from "./compress.node.ts";

/** Files in the text form end so. */
const TEXT = /\.(onnxtxt|txt)$/;

export function addConvert(program: Command): void {
  const verb = program
    .command("convert <model>")
    .summary("write a model again: other opset, external data, text form, inputs fixed")
    .description("Reads .onnx or .onnxtxt and writes either, unchanged unless an option asks for it.")
    .option("--opset <n>", "convert the standard operators up to this opset", countingNumber)
    .option("--external-data <bytes>", "weights above this total go to a .data file beside the model", positiveNumber)
    .option("--fix-input <name=value>", "make an input a constant, and keep only the branches it chooses", collect, [])
    .option("--fix-shape <name=1x576>", "settle the open sizes of an input; repeat for several", collect, [])
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
      notes.push(...fix(model, parsed));
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

function fix(model: Model, parsed: Record<string, unknown>): string[] {
  const values = inputValues(parsed["fixInput"] as string[]);
  const shapes = inputShapes(parsed["fixShape"] as string[]);
  const names = [...new Set([...Object.keys(values), ...Object.keys(shapes)])];
  if (names.length === 0) return [];
  const gone = fixInputs(model, { values, shapes });
  const decided = gone === 0 ? "" : `; ${gone} ${gone === 1 ? "condition was" : "conditions were"} decided by it`;
  return [`Fixed ${names.join(", ")}${decided}`];
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
