/** Results as a Markdown table, for README files and pull requests. */
import type { Results } from "../search/results.ts";
import { bestOf, columnsOf, failureText, noteTexts, objectivesText, onFront } from "./columns.ts";
import { baselineOf, summaryOf } from "./summary.ts";

/** The table alone: front entries starred, the best of each column in bold, failures with their reasons. */
export function markdownTable(results: Results): string {
  const columns = columnsOf(results);
  const best = columns.map((column) => bestOf(column, results.entries));
  const rows = results.entries.map((entry) => {
    const cells = columns.map((column, index) => {
      const text = escapeMarkdown(column.cell(entry));
      const value = column.value?.(entry);
      return value !== undefined && value === best[index] ? `**${text}**` : text;
    });
    if (entry.error) cells[1] = `failed: ${escapeMarkdown(failureText(entry))}`;
    return `| ${onFront(results, entry) ? "★" : ""} | ${cells.join(" | ")} |`;
  });
  return [
    `| | ${columns.map((column) => column.title).join(" | ")} |`,
    `|-|${columns.map((column) => (column.align === "left" ? "-" : "-:")).join("|")}|`,
    ...rows,
  ].join("\n");
}

/** A whole Markdown page: title, summary, table and how to read it. */
export function markdownReport(results: Results): string {
  const lines = [
    `# ${escapeMarkdown(results.title)}`,
    "",
    escapeMarkdown(summaryOf(results)),
    "",
    `Original: ${escapeMarkdown(baselineOf(results))}.`,
    "",
    markdownTable(results),
    "",
    `★ on the Pareto front (${objectivesText(results)}). Bold: best of its column. Ranges are 95 % intervals.`,
  ];
  for (const note of noteTexts(results)) lines.push("", escapeMarkdown(note));
  if (results.hypervolume) lines.push("", `Hypervolume: ${(results.hypervolume.share * 100).toFixed(1)} % of its box.`);
  const { cpu, cores } = results.machine;
  lines.push("", `Measured on ${escapeMarkdown(cpu)} (${cores} cores), seed ${results.seed}.`);
  if (results.command) lines.push("", "```sh", results.command, "```");
  return `${lines.join("\n")}\n`;
}

/** Names are untrusted: no table breaks, no markup, no HTML. */
function escapeMarkdown(text: string): string {
  return text
    .replace(/[\r\n]+/g, " ")
    .replace(/[\\`*_[\]|]/g, "\\$&")
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;");
}
