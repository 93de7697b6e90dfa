/** `pare diff`: what differs between two models. */
import type { Command } from "commander";
import { type Differences, diffModels, type ModelDiff } from "../../analyse/diff.ts";
import { loadFile } from "../../ir/load.node.ts";
import { formatTable } from "../format.ts";
import { addCommonOptions, commonOptions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";

export function addDiff(program: Command): void {
  const verb = program
    .command("diff <before> <after>")
    .summary("what differs between two models")
    .description(
      "Lists operators, nodes, weights, inputs, outputs and metadata that differ. Exit code 1 when anything does.",
    );
  addCommonOptions(verb).action((before: string, after: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async () => {
      const diff = await diffModels(await loadFile(before), await loadFile(after));
      return { json: diff, text: formatDiff(diff), exitCode: diff.identical ? 0 : 1 };
    }),
  );
}

function formatDiff(diff: ModelDiff): string {
  if (diff.identical) return "The models are the same.";
  const operators = diff.operators.map(({ op, before, after }) => [op, String(before), String(after)]);
  const sections: [string, Differences][] = [
    ["inputs and outputs", diff.ports],
    ["header", diff.header],
    ["nodes", diff.nodes],
    ["weights", diff.weights],
  ];
  return [
    ...(operators.length > 0 ? [formatTable(operators, ["operator", "before", "after"])] : []),
    ...sections.flatMap(([title, { removed, added, changed }]) => {
      const lines = [
        ...removed.map((name) => `  - ${name}`),
        ...added.map((name) => `  + ${name}`),
        ...changed.map(({ name, before, after }) => `  ~ ${name}: ${before} -> ${after}`),
      ];
      return lines.length > 0 ? [`${title}:`, ...lines] : [];
    }),
  ].join("\n");
}
