/** Results as a table for the terminal: aligned, no wider than the terminal, coloured only when asked. */
import type { Results } from "../search/results.ts";
import { type Column, bestOf, columnsOf, failureText, noteTexts, objectivesText, onFront } from "./columns.ts";
import { baselineOf, summaryOf } from "./summary.ts";

export interface TerminalOptions {
  /** Columns of the terminal; default 80. Less important columns are left out, then labels are shortened. */
  readonly width?: number | undefined;
  /** ANSI colours; pass `process.stdout.isTTY`. Default false. */
  readonly color?: boolean | undefined;
}

const BOLD = "\u001b[1m";
const DIM = "\u001b[2m";
const GREEN = "\u001b[32m";
const RED = "\u001b[31m";
const RESET = "\u001b[0m";

/** The table: one line per entry, `*` on the front, failures with their reason. */
export function terminalTable(results: Results, options: TerminalOptions = {}): string {
  const width = Math.max(40, options.width ?? 80);
  const paint = (text: string, code: string): string => (options.color ? code + text + RESET : text);
  const entries = results.entries;
  const titled = (column: Column): number =>
    Math.max(...[column.title, ...entries.map((entry) => plain(column.cell(entry)))].map(cells));
  let columns = columnsOf(results).map((column) => ({ column, size: titled(column) }));
  const total = (): number => columns.reduce((sum, { size }) => sum + size + 2, 0); // two cells before each: the star column before the first
  while (total() > width && columns.length > 2) {
    const worst = columns.reduce((a, b) => (b.column.rank >= a.column.rank ? b : a));
    // Before a column of some importance goes, the label may shrink to 24 cells.
    const label = columns[0] as { column: Column; size: number };
    const excess = total() - width;
    if (worst.column.rank <= 4 && label.size - excess >= 24) break;
    columns = columns.filter((item) => item !== worst);
  }
  const label = columns[0] as { column: Column; size: number };
  columns = [{ ...label, size: Math.max(8, label.size - Math.max(0, total() - width)) }, ...columns.slice(1)];
  const best = columns.map(({ column }) => bestOf(column, entries));
  const line = (items: readonly string[]): string => items.join("  ").trimEnd();
  const header = columns.map(({ column, size }) => fit(column.title, size, column.align));
  const out = [`  ${paint(line(header), BOLD)}`];
  for (const entry of entries) {
    const star = onFront(results, entry) ? paint("*", GREEN) : " ";
    const name = fit(plain(label.column.cell(entry)), columns[0]?.size ?? 8, "left");
    if (entry.error) {
      const room = Math.max(10, width - cells(name) - 12);
      out.push(
        `${star} ${paint(name, DIM)}  ${paint(`failed: ${fit(plain(failureText(entry)), room, "left").trimEnd()}`, RED)}`,
      );
      continue;
    }
    const rest = columns.slice(1).map(({ column, size }, index) => {
      const text = fit(plain(column.cell(entry)), size, column.align);
      const value = column.value?.(entry);
      return value !== undefined && value === best[index + 1] ? paint(text, BOLD) : text;
    });
    out.push(`${star} ${line([onFront(results, entry) ? name : paint(name, DIM), ...rest])}`);
  }
  return out.join("\n");
}

/** Table with summary and legend. */
export function terminalReport(results: Results, options: TerminalOptions = {}): string {
  const bold = (text: string): string => (options.color ? BOLD + text + RESET : text);
  return [
    bold(plain(results.title)),
    plain(summaryOf(results)),
    `Original: ${plain(baselineOf(results))}`,
    "",
    terminalTable(results, options),
    "",
    `* on the Pareto front (${objectivesText(results)}). Ranges are 95 % intervals.`,
    ...noteTexts(results).map(plain),
  ].join("\n");
}

/** Names are untrusted: control characters, which a terminal obeys, are shown as spaces. */
function plain(text: string): string {
  // oxlint-disable-next-line no-control-regex -- removing control characters is the point
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069]+/g, " ");
}

/** Cells that a text takes: wide (East Asian, emoji) characters two, combining marks none. */
export function cells(text: string): number {
  let count = 0;
  for (const character of text) {
    if (/\p{M}/u.test(character)) continue;
    count +=
      /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Extended_Pictographic}/u.test(
        character,
      )
        ? 2
        : 1;
  }
  return count;
}

/** Pads or shortens (with an ellipsis) to exactly `size` cells. */
function fit(text: string, size: number, align: "left" | "right"): string {
  let short = text;
  if (cells(text) > size) {
    short = "";
    for (const character of text) {
      if (cells(short + character) > size - 1) break;
      short += character;
    }
    short += "…";
  }
  const padding = " ".repeat(Math.max(0, size - cells(short)));
  return align === "left" ? short + padding : padding + short;
}
