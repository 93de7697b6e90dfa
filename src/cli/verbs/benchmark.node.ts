/** `pare benchmark`: latency, throughput, memory and energy on this machine. */
import type { Command } from "commander";
import { type Benchmark, benchmark, benchmarkRatio } from "../../evaluate/benchmark.node.ts";
import type { LatencyRatio } from "../../evaluate/latency.ts";
import { loadFile } from "../../ir/load.node.ts";
import { formatBytes, formatSeconds, formatValue } from "../../report/format.ts";
import { formatTable } from "../format.ts";
import { addCommonOptions, commonOptions, dimensions, positiveNumber, countingNumber } from "../options.node.ts";
import { runVerb } from "../run.node.ts";
import { collect } from "./compress.node.ts";

export function addBenchmark(program: Command): void {
  const verb = program
    .command("benchmark <model>")
    .summary("latency, throughput, memory and energy on this machine")
    .description(
      "Times the model on synthetic inputs after a warm-up; with --against, both models in turns in one run.",
    )
    .option("--against <model>", "measure the ratio to this model, run by run in turns")
    .option("--batch <n>", "samples per run", countingNumber, 1)
    .option("--seconds <x>", "time to spend on timed runs", positiveNumber, 2)
    .option("--dim <name=size>", "size of a symbolic dimension; repeat for several", collect, [])
    .option("--no-memory", "skip peak memory, which needs a fresh process");
  addCommonOptions(verb).action((path: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async (terminal) => {
      const { provider, threads, seed } = commonOptions(parsed);
      const options = {
        provider,
        threads,
        seed,
        batch: parsed["batch"] as number,
        seconds: parsed["seconds"] as number,
        dims: dimensions(parsed["dim"] as string[]),
        memory: parsed["memory"] !== false,
        signal: terminal.signal,
        onProgress: ({ done, total }: { readonly done: number; readonly total: number }) =>
          terminal.onProgress({ stage: "timing", done, total }),
      };
      const model = await loadFile(path);
      const measured = await benchmark(model, options);
      const against = parsed["against"];
      const ratio =
        typeof against === "string" ? await benchmarkRatio(await loadFile(against), model, options) : undefined;
      return {
        json: { ...measured, ...(ratio ? { against: { model: against, ...ratio } } : {}) },
        text: formatBenchmark(measured, ratio, String(against)),
      };
    }),
  );
}

function formatBenchmark(measured: Benchmark, ratio: LatencyRatio | undefined, against: string): string {
  const { latency, throughput, peakMemoryBytes, energy, machine, threads, batch, provider } = measured;
  const rows = [
    ["latency p50", formatSeconds(latency.p50)],
    ["latency p90", formatSeconds(latency.p90)],
    ["latency p99", formatSeconds(latency.p99)],
    ["throughput", `${throughput.toPrecision(3)} samples/s`],
    ...(peakMemoryBytes === undefined ? [] : [["peak memory", formatBytes(peakMemoryBytes)]]),
    ["energy per sample", `${formatValue(energy.joules, "joules")}${energy.estimated ? " (estimate)" : ""}`],
  ];
  return [
    formatTable(rows),
    ...(ratio
      ? [
          `time over ${against}: ${ratio.ratio.value.toFixed(3)} (${ratio.ratio.low.toFixed(3)} – ${ratio.ratio.high.toFixed(3)}), ${ratio.rounds} rounds in turns`,
        ]
      : []),
    `${latency.runs} runs of ${batch}, ${provider}, ${threads || "all"} threads; ${machine.cpu}, ${machine.cores} cores${machine.features.length > 0 ? `, ${machine.features.join(", ")}` : ""}`,
    `energy: ${energy.source}`,
  ].join("\n");
}
