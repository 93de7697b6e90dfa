/** `pare explain`: one layer's weights before and after, as text and as a page. */
import { existsSync } from "node:fs";
import type { Command } from "commander";
import { PareError } from "../../base/error.ts";
import { explainLayer } from "../../evaluate/explain.node.ts";
import { explainPage, explainText } from "../../report/explain.ts";
import { writeWhole } from "../files.node.ts";
import { addCommonOptions, commonOptions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";
import { changedModel } from "./bisect.node.ts";
import { collect } from "./compress.node.ts";
import { instrumentContext } from "./sensitivity.node.ts";

export function addExplain(program: Command): void {
  const verb = program
    .command("explain <original> <layer> [changed]")
    .summary("one layer's weights before and after: grid, errors, channels")
    .description(
      "Shows what a number format does to the weights of one layer, named as in --keep. The changed model is a file, or what the steps make of the original.",
    )
    .option(
      "--step <step>",
      "instead of a changed model: one step, name:option=value,…; repeat for several",
      collect,
      [],
    )
    .option("--recipe <file>", "instead of a changed model: YAML or JSON with steps")
    .option("--data <name>", "samples for the steps, as reader:path?option=value")
    .option("-o, --output <path>", "write a page (HTML, one file)")
    .option("--force", "overwrite what is there", false);
  addCommonOptions(verb).action(
    (original: string, layer: string, changed: string | undefined, parsed: Record<string, unknown>) =>
      runVerb(commonOptions(parsed).json, async (terminal) => {
        const context = await instrumentContext(original, parsed, terminal);
        const output = parsed["output"];
        if (typeof output === "string" && existsSync(output) && parsed["force"] !== true)
          throw new PareError("output", "The output exists", { where: output, help: "Add --force to overwrite it" });
        const found = await explainLayer(context.original, await changedModel(changed, parsed, context), layer);
        if (typeof output === "string") await writeWhole(output, explainPage(found));
        return {
          json: { original, changed, output, ...found },
          text: [explainText(found), ...(typeof output === "string" ? [`Open ${output}`] : [])].join("\n"),
        };
      }),
  );
}
