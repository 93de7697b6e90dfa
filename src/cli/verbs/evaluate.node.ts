/** `pare evaluate`: task metrics on labelled data, each with its sample count and 95 % interval. */
import type { Command } from "commander";
import { openDataset } from "../../data/open.node.ts";
import { evaluate, evaluationJson } from "../../evaluate/evaluate.node.ts";
import { judge, parseRequirement } from "../../evaluate/require.ts";
import { formatTable } from "../format.ts";
import { addCommonOptions, commonOptions, countingNumber } from "../options.node.ts";
import { runVerb } from "../run.node.ts";
import { collect } from "./compress.node.ts";

export function addEvaluate(program: Command): void {
  const verb = program
    .command("evaluate <model>")
    .summary("accuracy and other metrics with 95 % intervals")
    .description("Runs a labelled data set through the model and scores the outputs.")
    .requiredOption("--data <name>", "labelled samples, as reader:path?option=value")
    .option("--metric <name>", "only this metric; repeat for several", collect, [])
    .option("--output-name <name>", "the output that the labels speak of; default: the first that fits")
    .option("--batch <n>", "samples per run", countingNumber, 32)
    .option("--limit <n>", "judge only so many samples", countingNumber)
    .option("--require <condition>", "exit 1 unless it holds, e.g. 'accuracy>=0.9'; repeat for several", collect, []);
  addCommonOptions(verb).action((model: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const { provider, threads } = commonOptions(parsed);
      const requirements = (parsed["require"] as string[]).map(parseRequirement);
      const metrics = parsed["metric"] as string[];
      const evaluation = await evaluate(model, await openDataset(parsed["data"] as string), {
        metrics: metrics.length > 0 ? metrics : undefined,
        output: parsed["outputName"] as string | undefined,
        batch: parsed["batch"] as number,
        limit: parsed["limit"] as number | undefined,
        provider,
        threads,
        signal: terminal.signal,
        onProgress: ({ done, total }) => terminal.onProgress({ stage: "evaluating", done, total }),
      });
      const scores = Object.entries(evaluation.metrics);
      const verdicts = judge(requirements, Object.fromEntries(scores.map(([name, { value }]) => [name, value])));
      const missed = verdicts.filter(({ met }) => !met);
      const rows = scores.map(([name, { value, low, high }]) => [
        name,
        value.toFixed(4),
        `${low.toFixed(4)} – ${high.toFixed(4)}`,
      ]);
      return {
        json: { ...evaluationJson(evaluation), ...(verdicts.length > 0 ? { requirements: verdicts } : {}) },
        text: [
          formatTable(rows, ["metric", "value", "95 % interval"]),
          `${evaluation.samples} samples, output '${evaluation.output}'${evaluation.scores ? `, read as ${evaluation.scores}` : ""}`,
          ...(evaluation.notFinite > 0 ? [`${evaluation.notFinite} outputs were not finite and count as wrong`] : []),
          ...missed.map(({ requirement, value }) => `not met: ${requirement} (measured ${value})`),
        ].join("\n"),
        exitCode: missed.length > 0 ? 1 : 0,
      };
    }),
  );
}
