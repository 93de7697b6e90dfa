/** `pare inspect`: what is in a model, without reading its weights. */
import type { Command } from "commander";
import { inspectText } from "../../analyse/inspect-text.ts";
import { inspect } from "../../analyse/inspect.ts";
import { bytesOnDisk } from "../../evaluate/size.node.ts";
import { loadFile } from "../../ir/load.node.ts";
import { addCommonOptions, commonOptions, dimensions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";
import { collect } from "./compress.node.ts";

export function addInspect(program: Command): void {
  const verb = program
    .command("inspect <model>")
    .summary("operators, shapes, parameters, MACs and bytes, layer by layer")
    .description("Reads the graph, not the weights: a model of any size is shown at once.")
    .option("--nonzero", "count the parameters that are not zero (reads the weights)", false)
    .option("--dim <name=size>", "size of a symbolic dimension, for MACs; repeat for several", collect, [])
    .option("--no-layers", "leave the table of layers out");
  addCommonOptions(verb).action((path: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async () => {
      const inspection = await inspect(await loadFile(path), {
        path,
        bytes: await bytesOnDisk(path),
        nonzero: parsed["nonzero"] === true,
        dims: dimensions(parsed["dim"] as string[]),
      });
      return { json: inspection, text: inspectText(inspection, { layers: parsed["layers"] !== false }) };
    }),
  );
}
