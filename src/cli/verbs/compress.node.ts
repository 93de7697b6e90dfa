/** `pare compress` and what it shares with the verbs of single techniques: several steps, proven, with a report. */
import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { parse } from "yaml";
import { PareError, messageOf } from "../../base/error.ts";
import { TECHNIQUES } from "../../catalog.ts";
import { openDataset } from "../../data/open.node.ts";
import { judge, parseRequirement } from "../../evaluate/require.ts";
import { loadFile } from "../../ir/load.node.ts";
import { compressFile } from "../../techniques/compress-file.node.ts";
import { type CompressReport, type StepReport, runSteps } from "../../techniques/pipeline.node.ts";
import { parseStep, recipeFromData } from "../../techniques/recipe.ts";
import type { Step } from "../../techniques/technique.ts";
import { formatBytes, formatCount } from "../../report/format.ts";
import { formatTable } from "../format.ts";
import { addCommonOptions, commonOptions, positiveNumber } from "../options.node.ts";
import { type Outcome, runVerb } from "../run.node.ts";

export function addCompress(program: Command): void {
  const verb = program
    .command("compress <model>")
    .summary("run several techniques and prove the result")
    .description("Runs the steps of a recipe in order, checks the model after each, proves the result and writes it.")
    .option("--recipe <file>", "YAML or JSON: steps: [simplify, quantize-weights: { bits: 4 }]")
    .option("--step <step>", "one step, name:option=value,…; repeat for several", collect, []);
  addCompressOptions(verb);
  verb.action((model: string, parsed: Record<string, unknown>) => runCompress(model, parsed, () => stepsOf(parsed)));
}

/** Options of every verb that writes a compressed model. */
export function addCompressOptions(verb: Command): void {
  verb
    .option("-o, --output <path>", "the model to write")
    .option("--force", "overwrite what is there", false)
    .option("--dry-run", "say what would change; write nothing", false)
    .option("--data <name>", "samples for calibration and training, as reader:path?option=value")
    .option(
      "--evaluate <name>",
      "held-out samples on which outputs are compared; default: --data, else synthetic inputs",
    )
    .option("--external-data <bytes>", "weights above this total go to a .data file beside the model", positiveNumber)
    .option(
      "--require <condition>",
      "exit 1 unless it holds, e.g. 'ratio>=3' or 'sqnrDb>=20'; repeat for several",
      collect,
      [],
    );
  addCommonOptions(verb);
}

/** Runs the steps that `makeSteps` gives; shared by `compress` and the verbs of techniques. */
export function runCompress(
  input: string,
  parsed: Record<string, unknown>,
  makeSteps: () => readonly Step[] | Promise<readonly Step[]>,
): Promise<void> {
  const { json, seed, threads, provider } = commonOptions(parsed);
  return runVerb(json, async (terminal) => {
    const steps = await makeSteps();
    const requirements = (parsed["require"] as string[]).map(parseRequirement);
    const open = async (name: unknown) => (typeof name === "string" ? await openDataset(name) : undefined);
    const options = {
      data: await open(parsed["data"]),
      evaluation: await open(parsed["evaluate"]),
      seed,
      threads,
      provider,
      signal: terminal.signal,
      onProgress: terminal.onProgress,
    };
    if (parsed["dryRun"] === true) return dryRun(input, steps, options);
    const output = parsed["output"];
    if (typeof output !== "string")
      throw new PareError("bad-option", "No output was named", {
        help: "Add -o OUT.onnx, or --dry-run to see what would change",
      });
    const externalDataThreshold = parsed["externalData"] as number | undefined;
    const report = await compressFile(input, output, steps, {
      ...options,
      force: parsed["force"] === true,
      ...(externalDataThreshold === undefined ? {} : { externalDataThreshold }),
    });
    return outcomeOf(output, report, judge(requirements, quantities(report)));
  });
}

function outcomeOf(output: string, report: CompressReport, verdicts: ReturnType<typeof judge>): Outcome {
  const missed = verdicts.filter(({ met }) => !met);
  return {
    json: { output, ...report, ...(verdicts.length > 0 ? { requirements: verdicts } : {}) },
    text: [
      formatReport(output, report),
      ...missed.map(({ requirement, value }) => `not met: ${requirement} (measured ${value})`),
    ].join("\n"),
    exitCode: missed.length > 0 ? 1 : 0,
  };
}

async function dryRun(
  input: string,
  steps: readonly Step[],
  options: Parameters<typeof runSteps>[2],
): Promise<Outcome> {
  const { steps: reports } = await runSteps(await loadFile(input), steps, options);
  return {
    json: { dryRun: true, steps: reports },
    text: reports.map((step) => formatStepReport(step, Infinity)).join("\n"),
  };
}

/** The steps that `--recipe` and `--step` name. Throws `bad-option` when there are none. */
export async function stepsOf(parsed: Readonly<Record<string, unknown>>): Promise<Step[]> {
  const steps: Step[] = [];
  const file = parsed["recipe"];
  if (typeof file === "string") steps.push(...(await readRecipe(file)));
  for (const text of parsed["step"] as string[]) steps.push(parseStep(text, TECHNIQUES));
  if (steps.length === 0)
    throw new PareError("bad-option", "No step was named", {
      help: "Add --step NAME[:option=value,…] or --recipe FILE; 'pare --help' lists the techniques",
    });
  return steps;
}

/** Steps of a recipe file in YAML or JSON. */
async function readRecipe(file: string): Promise<readonly Step[]> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw new PareError("missing-file", "Cannot read the recipe", { where: file, found: messageOf(error) });
  });
  return recipeFromData(parseYaml(text, file), TECHNIQUES, file).steps;
}

/** Parses YAML (of which JSON is a part); a mistake becomes one line with its place. */
export function parseYaml(text: string, where: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    throw new PareError("bad-option", "Not valid YAML", { where, found: messageOf(error).split("\n")[0] ?? "" });
  }
}

/** What `--require` can ask of a compression. */
function quantities(report: CompressReport): Record<string, number | undefined> {
  const { result, verified, ratio } = report;
  const { bytes, gzipBytes, brotliBytes, parameters, nonzero, macs } = result;
  const { maxAbsError, sqnrDb, cosine } = verified;
  return { ratio, bytes, gzipBytes, brotliBytes, parameters, nonzero, macs, maxAbsError, sqnrDb, cosine };
}

function formatReport(output: string, report: CompressReport): string {
  const { input, result, verified } = report;
  const times = (before: number | undefined, after: number | undefined): string =>
    before === undefined || after === undefined || after === 0 ? "" : `${(before / after).toFixed(2)}×`;
  const row = (name: string, before: number | undefined, after: number | undefined, format: (n: number) => string) => [
    name,
    before === undefined ? "" : format(before),
    after === undefined ? "" : format(after),
    times(before, after),
  ];
  const table = formatTable(
    [
      row("file", input.bytes, result.bytes, formatBytes),
      row("gzip", input.gzipBytes, result.gzipBytes, formatBytes),
      row("brotli", input.brotliBytes, result.brotliBytes, formatBytes),
      row("parameters", input.parameters, result.parameters, formatCount),
      row("non-zero", input.nonzero, result.nonzero, formatCount),
      row("MACs", input.macs, result.macs, formatCount),
    ],
    ["", "before", "after", "ratio"],
  );
  const error = [
    verified.sqnrDb === undefined
      ? ""
      : `SQNR ${Number.isFinite(verified.sqnrDb) ? verified.sqnrDb.toFixed(1) : "∞"} dB`,
    verified.cosine === undefined ? "" : `cosine ${verified.cosine.toFixed(5)}`,
    verified.maxAbsError === undefined ? "" : `worst difference ${verified.maxAbsError.toPrecision(3)}`,
  ].filter(Boolean);
  return [
    `Wrote ${output}`,
    table,
    ...report.steps.map((step) => formatStepReport(step, 5)),
    `Verified on ${verified.provider}: session opened, ${verified.samples} samples compared (${verified.on})${error.length ? `: ${error.join(", ")}` : ""}`,
    ...report.notes.map((note) => `Note: ${note}`),
  ].join("\n");
}

/** A step in lines: counts, then the first `most` changes and the skips grouped by reason. */
function formatStepReport(step: StepReport, most: number): string {
  const reasons = new Map<string, string[]>();
  for (const { what, why } of step.skipped) reasons.set(why, [...(reasons.get(why) ?? []), what]);
  const worst = [...step.changed].sort((a, b) => (b.error ?? 0) - (a.error ?? 0)).slice(0, most);
  return [
    `${step.technique}: ${step.changed.length} changed, ${step.skipped.length} left alone (${step.seconds.toFixed(1)} s)`,
    ...worst.map(
      ({ what, how, error }) =>
        `  ${what}: ${how}${error === undefined ? "" : `, relative error ${error.toPrecision(3)}`}`,
    ),
    ...(step.changed.length > worst.length
      ? [`  … and ${step.changed.length - worst.length} more (--json lists all)`]
      : []),
    ...[...reasons].map(
      ([why, what]) =>
        `  left alone: ${what.slice(0, 3).join(", ")}${what.length > 3 ? ` and ${what.length - 3} more` : ""} (${why})`,
    ),
    ...step.notes.map((note) => `  ${note}`),
  ].join("\n");
}

/** Collects a repeated option. */
export function collect(value: string, before: string[]): string[] {
  return [...before, value];
}
