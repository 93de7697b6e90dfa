/** `pare bisect`: which layers cause an accuracy drop, and what has to go back. */
import type { Command } from "commander";
import { PareError } from "../../base/error.ts";
import { saveFile } from "../../ir/save.node.ts";
import { loadFile } from "../../ir/load.node.ts";
import type { Model } from "../../ir/model.ts";
import { formatBytes } from "../../report/format.ts";
import { type Bisection, bisect } from "../../techniques/mixed/bisect.ts";
import { runSteps } from "../../techniques/pipeline.node.ts";
import type { Context } from "../../techniques/technique.ts";
import { formatTable } from "../format.ts";
import { addCommonOptions, commonOptions, countingNumber, positiveNumber } from "../options.node.ts";
import { runVerb } from "../run.node.ts";
import { collect, stepsOf } from "./compress.node.ts";
import { instrumentContext } from "./sensitivity.node.ts";

export function addBisect(program: Command): void {
  const verb = program
    .command("bisect <original> [changed]")
    .summary("which layers cause an accuracy drop, the worst ten")
    .description(
      "Puts layers of the original back into the changed model, one by one and together, until the drop is under a limit. The changed model is a file, or what the steps make of the original.",
    )
    .option("--data <name>", "samples, as reader:path?option=value; with labels the task metric is judged")
    .option("--recipe <file>", "instead of a changed model: YAML or JSON with steps")
    .option(
      "--step <step>",
      "instead of a changed model: one step, name:option=value,…; repeat for several",
      collect,
      [],
    )
    .option("--by <measure>", "a task metric (loss, accuracy, …), kl or noise", "auto")
    .option("--drop <x>", "damage that may stay, by the measure; default: a tenth of the drop", positiveNumber)
    .option("--samples <n>", "samples to judge on", countingNumber, 256)
    .option("--batch <n>", "samples per run", countingNumber, 32)
    .option("--top <n>", "show only so many layers, the worst first", countingNumber, 10)
    .option("-o, --output <path>", "write the changed model with the culprits put back")
    .option("--force", "overwrite what is there", false);
  addCommonOptions(verb).action((original: string, changed: string | undefined, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const context = await instrumentContext(original, parsed, terminal);
      const found = await bisect(
        context.original,
        await changedModel(changed, parsed, context),
        {
          by: parsed["by"] as string,
          drop: parsed["drop"] as number | undefined,
          samples: parsed["samples"] as number,
          batch: parsed["batch"] as number,
        },
        context,
      );
      const output = parsed["output"];
      if (typeof output === "string") await saveFile(found.model, output, { force: parsed["force"] === true });
      const { model: _, ...json } = found;
      return {
        json: { original, changed, output, ...json },
        text: [
          bisectionText(found, parsed["top"] as number),
          ...(typeof output === "string" ? [`Written: ${output}`] : []),
        ].join("\n"),
      };
    }),
  );
}

/** The model of a file, or what `--step` and `--recipe` make of the original: one of both. */
export async function changedModel(
  path: string | undefined,
  parsed: Readonly<Record<string, unknown>>,
  { original, ...options }: Context,
): Promise<Model> {
  const isRecipe = typeof parsed["recipe"] === "string" || (parsed["step"] as string[]).length > 0;
  if (isRecipe === (path !== undefined))
    throw new PareError(
      "bad-option",
      isRecipe ? "A changed model and steps were named" : "No changed model was named",
      {
        help: "Name its file after the original, or the steps that make it: --step NAME or --recipe FILE",
      },
    );
  if (path !== undefined) return loadFile(path);
  return (await runSteps(original, await stepsOf(parsed), options)).model;
}

/** The worst layers as a table, and what follows. */
export function bisectionText(found: Bisection, top: number): string {
  const { measure, layers, total, rest, limit, left } = found;
  const number = (value: number | undefined): string => (value === undefined ? "" : value.toPrecision(3));
  const rows = layers
    .slice(0, top)
    .map(({ name, op, bytes, alone, culprit, without }) => [
      culprit && found.found ? `* ${name}` : `  ${name}`,
      op,
      formatBytes(bytes),
      number(alone),
      number(without),
    ]);
  const culprits = layers.filter(({ culprit }) => culprit);
  const hidden = layers.length - rows.length;
  const verdict =
    total <= limit
      ? `The drop is within ${number(limit)}: nothing has to go back.`
      : found.found
        ? `Put back ${culprits.length} of ${layers.length} changed layers (*, ${formatBytes(culprits.reduce((sum, { bytes }) => sum + bytes, 0))} of weights): the drop falls from ${number(total)} to ${number(left)}, limit ${number(limit)}.`
        : `With all ${layers.length} changed layers put back a drop of ${number(rest)} stays (limit ${number(limit)}): it does not come from single layers.`;
  return [
    formatTable(rows, ["  layer", "op", "weights", "alone", "if left changed"]),
    ...(hidden > 0 ? [`… ${hidden} more`] : []),
    verdict,
    `Damage by ${measure}, ${found.judged} combinations judged on ${found.on}${found.others.length > 0 ? `; ${found.others.length} layers are the same in both or cannot be put back` : ""}`,
  ].join("\n");
}
