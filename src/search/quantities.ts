/** The measured quantities of an entry by name: what each is called, its unit, which way is better, and where it stands. */
import type { Entry, Interval, Objective } from "./results.ts";

export type Unit = "bytes" | "seconds" | "count" | "share" | "times" | "decibels" | "joules" | "per-second" | "number";

export interface Quantity {
  readonly name: string;
  /** What people read: "Download size (Brotli)". */
  readonly label: string;
  /** The same in a table heading. */
  readonly short: string;
  readonly unit: Unit;
  readonly direction: Objective["direction"];
  /** Task metrics (accuracy, loss) as opposed to costs. */
  readonly task: boolean;
  of(entry: Entry): { readonly value: number; readonly low?: number; readonly high?: number } | undefined;
}

const point = (value: number | undefined): { value: number } | undefined =>
  value === undefined ? undefined : { value };

type Row = readonly [
  name: string,
  label: string,
  short: string,
  unit: Unit,
  direction: Objective["direction"],
  of: (entry: Entry) => number | Interval | undefined,
];

const COSTS: readonly Row[] = [
  ["brotli", "Download size (Brotli)", "Brotli", "bytes", "minimize", (e) => e.bytes?.brotli],
  ["gzip", "Download size (gzip)", "gzip", "bytes", "minimize", (e) => e.bytes?.gzip],
  ["file", "File size", "File", "bytes", "minimize", (e) => e.bytes?.file],
  ["latency-ratio", "Time relative to the original", "Time ratio", "times", "minimize", (e) => e.latency?.ratio],
  ["latency", "Latency (median)", "Latency", "seconds", "minimize", (e) => e.latency?.p50],
  ["latency-p99", "Latency (99th percentile)", "Latency p99", "seconds", "minimize", (e) => e.latency?.p99],
  ["throughput", "Throughput", "Throughput", "per-second", "maximize", (e) => e.throughput],
  ["memory", "Peak memory", "Memory", "bytes", "minimize", (e) => e.peakMemoryBytes],
  ["energy", "Energy per inference", "Energy", "joules", "minimize", (e) => e.energy?.joules],
  ["parameters", "Parameters", "Params", "count", "minimize", (e) => e.parameters],
  ["nonzero", "Non-zero parameters", "Non-zero", "count", "minimize", (e) => e.nonzero],
  ["macs", "Multiply-accumulates", "MACs", "count", "minimize", (e) => e.macs],
  ["bops", "Bit operations", "BOPs", "count", "minimize", (e) => e.bops],
  ["agreement", "Agreement with the original", "Agreement", "share", "maximize", (e) => e.fidelity?.agreement],
  ["sqnr", "Output SQNR", "SQNR", "decibels", "maximize", (e) => e.fidelity?.sqnrDb],
  ["cosine", "Output cosine", "Cosine", "number", "maximize", (e) => e.fidelity?.cosine],
  ["kl", "Output KL divergence", "KL", "number", "minimize", (e) => e.fidelity?.kl],
];

const KNOWN = new Map<string, Quantity>(
  COSTS.map(([name, label, short, unit, direction, of]) => [
    name,
    {
      name,
      label,
      short,
      unit,
      direction,
      task: false,
      of: (entry: Entry) => {
        const found = of(entry);
        return typeof found === "object" ? found : point(found);
      },
    },
  ]),
);

/** Metrics for which less is better; all others are better when higher. */
const LESS_IS_BETTER = /loss|perplexity|error|cross-?entropy|mse|mae|rmse|bits/i;
/** Metrics that are shares of samples. */
const SHARES = /accuracy|top-?\d|f1|precision|recall|auc|iou/i;

const METRIC_LABELS: Readonly<Record<string, string>> = {
  accuracy: "Accuracy",
  top5: "Top-5 accuracy",
  f1: "F1 score",
  loss: "Loss",
  perplexity: "Perplexity",
};

/** The quantity of that name: a known cost, else the task metric of that name. */
export function quantityOf(name: string): Quantity {
  const known = KNOWN.get(name);
  if (known) return known;
  const label = METRIC_LABELS[name] ?? name.charAt(0).toUpperCase() + name.slice(1).replaceAll("-", " ");
  return {
    name,
    label,
    short: label,
    unit: SHARES.test(name) && !LESS_IS_BETTER.test(name) ? "share" : "number",
    direction: LESS_IS_BETTER.test(name) ? "minimize" : "maximize",
    task: true,
    of: (entry) => entry.metrics[name],
  };
}

/** Every quantity that at least one entry has, task metrics first. */
export function quantitiesOf(entries: readonly Entry[]): Quantity[] {
  const metrics = new Set(entries.flatMap((entry) => Object.keys(entry.metrics)));
  const tasks = [...metrics].map(quantityOf);
  const costs = [...KNOWN.values()].filter((quantity) => entries.some((entry) => quantity.of(entry) !== undefined));
  return [...tasks, ...costs];
}

/** A time ratio this near to 1 is not a difference that anyone would notice, whatever its interval says. */
const SAME_TIME = 0.02;

/**
 * The number that decides whether one entry beats another: the measured value, except that a time ratio whose interval contains 1 (or
 * which lies within 2 % of it) counts as 1. Noise of the clock puts nothing on the front.
 */
export function rankValue(quantity: Quantity, entry: Entry): number | undefined {
  const measured = entry.error ? undefined : quantity.of(entry);
  if (!measured) return undefined;
  const { value, low, high } = measured;
  const same = Math.abs(value - 1) <= SAME_TIME || (low !== undefined && high !== undefined && low <= 1 && high >= 1);
  return quantity.unit === "times" && same ? 1 : value;
}
