/** `pare sensitivity`: what each layer loses in each number format. */
import type { Command } from "commander";
import { z } from "zod";
import { openDataset } from "../../data/open.node.ts";
import { loadFile } from "../../ir/load.node.ts";
import { formatBytes, formatCount } from "../../report/format.ts";
import { Journal } from "../../techniques/journal.ts";
import { measuringOptions, sensitivityOptionsOf } from "../../techniques/mixed/options.ts";
import { measureNamed, measureSensitivities, openBench } from "../../techniques/mixed/sensitivity.ts";
import { checkOptions } from "../../techniques/recipe.ts";
import type { Context } from "../../techniques/technique.ts";
import { addCommonOptions, addSchemaOptions, commonOptions, countingNumber, schemaOptions } from "../options.node.ts";
import { type Terminal, runVerb } from "../run.node.ts";
import { sensitivityJson, sensitivityTable } from "../sensitivity-table.ts";

const schema = z.object(measuringOptions);

export function addSensitivity(program: Command): void {
  const verb = program
    .command("sensitivity <model>")
    .summary("what each layer loses in each number format")
    .description(
      "Stores one layer at a time in each format and judges the model on the same samples: task metrics with labels, divergence and SQNR without. What was measured is kept: a killed run goes on where it stopped.",
    )
    .option(
      "--data <name>",
      "samples, as reader:path?option=value; default: text that a language model writes, else synthetic",
    )
    .option("--top <n>", "show only so many layers, the worst first", countingNumber, 10);
  addSchemaOptions(verb, schema);
  addCommonOptions(verb).action((path: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const chosen = checkOptions("sensitivity", schema, schemaOptions(parsed, schema)) as z.output<typeof schema>;
      const context = await instrumentContext(path, parsed, terminal);
      const options = sensitivityOptionsOf(chosen);
      const bench = await openBench(context.original, options, context);
      try {
        const found = await measureSensitivities(bench, options, context);
        const measure = measureNamed(chosen.by, found);
        return {
          json: { path, ...sensitivityJson(found, measure), notes: context.journal.notes },
          text: [
            sensitivityTable(found, { measure, top: parsed["top"] as number }),
            `${formatCount(found.cells.length)} variants judged on ${found.on}${found.fromCache > 0 ? `, ${found.fromCache} of them by an earlier run` : ""}; the original has ${formatBytes(found.baseBytes)}`,
            ...context.journal.notes.map((note) => `Note: ${note}`),
          ].join("\n"),
        };
      } finally {
        await bench.close();
      }
    }),
  );
}

/** A technique's context for a verb that looks at a model as techniques do. */
export async function instrumentContext(
  path: string,
  parsed: Readonly<Record<string, unknown>>,
  terminal: Terminal,
): Promise<Context> {
  const { provider, threads, seed } = commonOptions({ ...parsed });
  return {
    data: typeof parsed["data"] === "string" ? await openDataset(parsed["data"]) : undefined,
    evaluation: undefined,
    original: await loadFile(path),
    seed,
    provider,
    threads,
    signal: terminal.signal,
    journal: new Journal(),
    onProgress: terminal.onProgress,
  };
}
