/** `pare compare`: where the error enters, layer by layer. */
import { type Command, Option } from "commander";
import { openDataset } from "../../data/open.node.ts";
import { compareModels } from "../../evaluate/compare.node.ts";
import { comparisonJson, comparisonTable } from "../../evaluate/compare.ts";
import { addCommonOptions, commonOptions, countingNumber } from "../options.node.ts";
import { runVerb } from "../run.node.ts";

export function addCompare(program: Command): void {
  const verb = program
    .command("compare <reference> <candidate>")
    .summary("where the error enters, layer by layer")
    .description("Runs both models on the same inputs and shows, per layer, the error it adds and the error so far.")
    .option("--data <name>", "real inputs, as reader:path?option=value; default: synthetic ones")
    .option("--samples <n>", "samples to compare on", countingNumber, 32)
    .option("--top <n>", "show only so many layers", countingNumber)
    .addOption(new Option("--order <order>", "order of the table").choices(["worst", "graph"]).default("worst"))
    .option("--no-local", "skip measuring what each layer adds by itself");
  addCommonOptions(verb).action((reference: string, candidate: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const { provider, threads, seed } = commonOptions(parsed);
      const comparison = await compareModels(reference, candidate, {
        data: typeof parsed["data"] === "string" ? await openDataset(parsed["data"]) : undefined,
        samples: parsed["samples"] as number,
        local: parsed["local"] !== false,
        provider,
        threads,
        seed,
        signal: terminal.signal,
        onProgress: terminal.onProgress,
      });
      const top = parsed["top"] as number | undefined;
      const order = parsed["order"] as "worst" | "graph";
      return {
        json: JSON.parse(comparisonJson(comparison)) as unknown,
        text: comparisonTable(comparison, top === undefined ? { order } : { order, top }),
      };
    }),
  );
}
