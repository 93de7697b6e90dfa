/** `pare sweep`: many recipes on one model, each built, proven, judged and timed; the front and its report. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { PareError, messageOf } from "../../base/error.ts";
import { TECHNIQUES } from "../../catalog.ts";
import { openDataset } from "../../data/open.node.ts";
import { terminalReport } from "../../report/terminal.ts";
import type { Objective, Results } from "../../search/results.ts";
import { standardRecipes } from "../../search/standard-recipes.ts";
import { type SweepOptions, sweep } from "../../search/sweep.node.ts";
import { type Recipe, recipeFromData } from "../../techniques/recipe.ts";
import { makeOutputFolder, writeWhole } from "../files.node.ts";
import { addCommonOptions, commonOptions, positiveNumber, countingNumber } from "../options.node.ts";
import { type Outcome, type Terminal, runVerb } from "../run.node.ts";
import { collect, parseYaml } from "./compress.node.ts";
import { writeReport } from "./report.node.ts";

export function addSweep(program: Command): void {
  const verb = program
    .command("sweep <model>")
    .summary("many recipes, the Pareto front, one report")
    .description(
      "Builds, proves, judges and times every recipe, and writes models, results.json, report.html, front.svg and report.md. A killed run goes on where it stopped.",
    )
    .requiredOption("-o, --output <folder>", "folder for models and report")
    .option("--recipes <file>", "YAML or JSON: a list of recipes; default: the standard ones")
    .option("--data <name>", "samples for calibration and training, as reader:path?option=value")
    .option("--evaluate <name>", "held-out labelled samples to judge on")
    .option("--limit <n>", "judge on at most so many samples", countingNumber)
    .option(
      "--objective <name>",
      "axis of the front, min:NAME or max:NAME; repeat (default: quality, brotli bytes, latency)",
      collect,
      [],
    )
    .option("--batch <n>", "samples per timed run", countingNumber, 1)
    .option("--seconds <x>", "timing per model", positiveNumber, 1)
    .option("--no-memory", "skip peak memory, which needs a fresh process per model")
    .option("--fresh", "measure everything again", false)
    .option("--title <text>", "title of the report");
  addCommonOptions(verb).action((model: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const { provider, threads, seed } = commonOptions(parsed);
      const open = async (name: unknown) => (typeof name === "string" ? await openDataset(name) : undefined);
      const data = await open(parsed["data"]);
      const file = parsed["recipes"];
      const recipes =
        typeof file === "string"
          ? await readRecipes(file)
          : standardRecipes(TECHNIQUES, { samples: data !== undefined, labels: data?.labels !== undefined });
      return sweepAndReport(terminal, model, recipes, {
        directory: parsed["output"] as string,
        data,
        evaluation: await open(parsed["evaluate"]),
        samples: parsed["limit"] as number | undefined,
        objectives: objectivesOf(parsed["objective"] as string[]),
        batch: parsed["batch"] as number,
        benchmarkSeconds: parsed["seconds"] as number,
        memory: parsed["memory"] !== false,
        fresh: parsed["fresh"] === true,
        title: parsed["title"] as string | undefined,
        command: `pare ${process.argv.slice(2).map(quote).join(" ")}`,
        provider,
        threads,
        seed,
      });
    }),
  );
}

/** Runs a sweep and writes its report in every form; shared by `sweep` and `demo`. */
export async function sweepAndReport(
  terminal: Terminal,
  model: string,
  recipes: readonly Recipe[],
  options: SweepOptions,
): Promise<Outcome> {
  const { directory } = options;
  await makeOutputFolder(directory);
  const results = await sweep(model, recipes, {
    ...options,
    signal: terminal.signal,
    onProgress: ({ share, label, stage, secondsLeft }) =>
      terminal.onProgress({ stage: `${label}: ${stage}`, done: share, total: 1, secondsLeft }),
  });
  for (const name of ["report.html", "report.md", "front.svg"]) await writeReport(results, join(directory, name));
  await writeFront(results, join(directory, "front.json"));
  const failed = results.entries.filter((entry) => entry.error);
  return {
    json: results,
    text: [
      terminalReport(results, { width: process.stdout.columns ?? 110, color: process.stdout.isTTY === true }),
      ...failed.map((entry) => `${entry.label} failed: ${entry.error?.message}`),
      `Open ${join(directory, "report.html")}; models are in ${join(directory, "models")}`,
    ].join("\n"),
  };
}

/** The front alone: objectives, and the entries on it without their journals. */
async function writeFront(results: Results, path: string): Promise<void> {
  const front = results.entries
    .filter((entry) => results.front.includes(entry.id))
    .map((entry) => ({ ...entry, steps: undefined, layers: undefined }));
  const document = { objectives: results.objectives, hypervolume: results.hypervolume, front };
  await writeWhole(
    path,
    `${JSON.stringify(document, null, 2)}
`,
  );
}

async function readRecipes(file: string): Promise<Recipe[]> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw new PareError("missing-file", "Cannot read the recipes", { where: file, found: messageOf(error) });
  });
  const data = parseYaml(text, file);
  const list = Array.isArray(data) ? (data as unknown[]) : (data as { recipes?: unknown[] } | null)?.recipes;
  if (!Array.isArray(list) || list.length === 0)
    throw new PareError("bad-option", "No recipes in this file", {
      where: file,
      expected: "a list of recipes, each with 'steps'",
    });
  return list.map((item, index) => recipeFromData(item, TECHNIQUES, `${file}: recipe ${index + 1}`));
}

function objectivesOf(texts: readonly string[]): Objective[] | undefined {
  if (texts.length === 0) return undefined;
  return texts.map((text) => {
    const [, direction, name] = /^(min|max):(.+)$/.exec(text) ?? [];
    if (name === undefined)
      throw new PareError("bad-option", "Not an objective", {
        where: "--objective",
        found: `'${text}'`,
        expected: "min:NAME or max:NAME",
      });
    return { name, direction: direction === "min" ? "minimize" : "maximize" };
  });
}

function quote(word: string): string {
  return /^[\w./:=+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
