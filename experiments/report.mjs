/** What reports of studies share: recorded runs, tables, and the part of a README that they write. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** The recorded study runs/<name>.json of an experiment's folder; undefined where there is none yet. */
export function readStudy(folder, name) {
  const file = join(folder, "runs", `${name}.json`);
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined;
}

/** Puts the text between `<!-- name -->` and the next `<!-- end -->` of the folder's README. */
export function writeSection(folder, name, text) {
  const path = join(folder, "README.md");
  const marked = new RegExp(`(<!-- ${name} -->\\n)[\\s\\S]*?(<!-- end -->)`);
  const old = readFileSync(path, "utf8");
  if (!marked.test(old)) throw new Error(`${path} has no section ${name}`);
  writeFileSync(path, old.replace(marked, (_, start, end) => `${start}${text}\n${end}`));
}

/** Rows of texts as a Markdown table. */
export function table(head, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

/** Shares as percent or points, with their interval. */
export const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;
export const points = (share) => (100 * share).toFixed(2);
export const percentWithin = ([value, low, high]) => `${percent(value)} (${points(low)} to ${points(high)})`;
export const pointsWithin = ([value, low, high]) => `${points(value)} (${points(low)} to ${points(high)})`;
export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
export const deviation = (values) =>
  Math.sqrt(values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / Math.max(1, values.length - 1));
