/** The columns of the short tables (terminal, Markdown): what to show of each entry, and which value in a column is the best. */
import { type Quantity, quantitiesOf, quantityOf, rankValue } from "../search/quantities.ts";
import type { Entry, Results } from "../search/results.ts";
import { formatInterval, formatPoints, formatTimes } from "./format.ts";

export interface Column {
  readonly title: string;
  readonly align: "left" | "right";
  readonly cell: (entry: Entry) => string;
  /** The number to compare by; undefined for texts. */
  readonly value?: (entry: Entry) => number | undefined;
  readonly direction?: Quantity["direction"];
  /** Columns with a higher number are dropped first when the space is narrow. */
  readonly rank: number;
}

/** Columns that this document has numbers for: model, quality, loss, size and gain, speed, and the other objectives. */
export function columnsOf(results: Results): Column[] {
  const baseline = results.entries[0];
  const columns: Column[] = [{ title: "Model", align: "left", rank: 0, cell: (entry) => entry.label }];
  const shown = new Set<string>();
  const add = (quantity: Quantity, rank: number): void => {
    if (shown.has(quantity.name)) return;
    shown.add(quantity.name);
    columns.push({
      title: quantity.short,
      align: "right",
      rank,
      direction: quantity.direction,
      value: (entry) => (entry.error ? undefined : quantity.of(entry)?.value),
      cell: (entry) => {
        const measured = entry.error ? undefined : quantity.of(entry);
        return measured ? formatInterval(measured, quantity.unit) : "–";
      },
    });
  };
  const available = quantitiesOf(results.entries);
  const quality = results.objectives
    .map(({ name }) => quantityOf(name))
    .find(({ task, name }) => task || name === "agreement");
  const first = quality ?? available.find(({ task }) => task);
  if (first) {
    add(first, 1);
    const before = baseline && first.of(baseline)?.value;
    if (first.unit === "share" && before !== undefined)
      columns.push({
        title: "Points",
        align: "right",
        rank: 4,
        cell: (entry) => {
          const after = entry.error ? undefined : first.of(entry)?.value;
          return after === undefined || entry === baseline ? "" : formatPoints(after - before);
        },
      });
  }
  const sizeName = ["brotli", "gzip", "file"].find((name) => available.some((quantity) => quantity.name === name));
  if (sizeName) {
    const size = quantityOf(sizeName);
    add(size, 2);
    const before = baseline && size.of(baseline)?.value;
    if (before !== undefined)
      columns.push({
        title: "Smaller",
        align: "right",
        rank: 3,
        cell: (entry) => {
          const after = entry.error ? undefined : size.of(entry)?.value;
          return after === undefined || entry === baseline ? "" : formatTimes(before / after);
        },
      });
  }
  if (results.entries.some((entry) => entry.latency?.ratio))
    columns.push({
      title: "Faster",
      align: "right",
      rank: 3,
      direction: "maximize",
      value: (entry) => (entry.latency?.ratio ? 1 / entry.latency.ratio.value : undefined),
      cell: (entry) => {
        const ratio = entry.latency?.ratio;
        if (!ratio || entry === baseline) return entry.error ? "–" : "";
        const text = formatTimes(1 / ratio.value);
        return rankValue(quantityOf("latency-ratio"), entry) === 1 ? `~${text}` : text;
      },
    });
  shown.add("latency-ratio");
  for (const objective of results.objectives) add(quantityOf(objective.name), 5);
  const rest = ["file", "energy", "nonzero", "macs"].map(quantityOf);
  for (const quantity of rest) if (available.some(({ name }) => name === quantity.name)) add(quantity, 6);
  return columns;
}

/** The best value of a column over all entries; undefined where the column has no order, or where most entries share the best. */
export function bestOf(column: Column, entries: readonly Entry[]): number | undefined {
  const { value, direction } = column;
  if (!value || !direction) return undefined;
  const values = entries.flatMap((entry) => value(entry) ?? []).filter((number) => !Number.isNaN(number));
  if (values.length === 0) return undefined;
  const best = direction === "minimize" ? Math.min(...values) : Math.max(...values);
  const ties = values.filter((number) => number === best).length;
  return ties * 2 > values.length ? undefined : best;
}

/** True for a non-dominated entry. */
export function onFront(results: Results, entry: Entry): boolean {
  return results.front.includes(entry.id);
}

/** The objectives in words: "accuracy: higher is better; download size: lower is better". */
export function objectivesText(results: Results): string {
  return results.objectives
    .map(
      ({ name, direction }) => `${quantityOf(name).label}: ${direction === "minimize" ? "lower" : "higher"} is better`,
    )
    .join("; ");
}

/** What is to be known of entries' numbers, each with the entry's label. */
export function noteTexts(results: Results): string[] {
  return results.entries.flatMap(({ label, notes = [] }) => (notes.length > 0 ? [`${label}: ${notes.join(" ")}`] : []));
}

/** Why an entry has no numbers, in one line. */
export function failureText(entry: Entry): string {
  return entry.error ? (entry.error.message.split("\n")[0] ?? entry.error.code) : "";
}
