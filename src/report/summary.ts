/** The verdict in plain words: which model to take, how much smaller and faster it is, and what it costs. */
import { type Quantity, quantityOf, rankValue } from "../search/quantities.ts";
import type { Entry, Results } from "../search/results.ts";
import { formatBytes, formatInterval, formatPoints, formatTimes, formatValue } from "./format.ts";

/** Loss of a share that still counts as "about as good": one point. */
export const TOLERATED_LOSS = 0.01;

/** The quantities that the objectives name, quality (task metric or fidelity) and cost (bytes, time) apart. */
export function axesOf(results: Results): { quality: Quantity | undefined; cost: Quantity | undefined } {
  const quantities = results.objectives.map((objective) => quantityOf(objective.name));
  return {
    quality: quantities.find((quantity) => quantity.direction === "maximize" || quantity.task),
    cost: quantities.find((quantity) => quantity.direction === "minimize" && !quantity.task),
  };
}

/**
 * The entry to take: of the front's entries whose quality is within {@link TOLERATED_LOSS} of the baseline's (for metrics that are not
 * shares: within 1 % of its magnitude) the one with the largest product of gains, Π baseline cost / cost over all cost objectives.
 * undefined when none of them gains anything.
 */
export function recommended(results: Results): Entry | undefined {
  const { quality } = axesOf(results);
  const baseline = results.entries[0];
  if (!baseline) return undefined;
  const costs = results.objectives
    .map((objective) => quantityOf(objective.name))
    .filter((quantity) => quantity.direction === "minimize" && !quantity.task);
  const gain = (entry: Entry): number =>
    costs.reduce((product, cost) => {
      const before = rankValue(cost, baseline);
      const after = rankValue(cost, entry);
      return before !== undefined && after !== undefined && after > 0 ? product * (before / after) : product;
    }, 1);
  const good = results.entries.filter((entry) => {
    if (entry === baseline || entry.error || !results.front.includes(entry.id) || gain(entry) <= 1) return false;
    const before = quality?.of(baseline)?.value;
    const after = quality?.of(entry)?.value;
    if (!quality || before === undefined || after === undefined) return quality === undefined;
    const loss = quality.direction === "maximize" ? before - after : after - before;
    return loss <= (quality.unit === "share" ? TOLERATED_LOSS : TOLERATED_LOSS * Math.abs(before)) + 1e-12;
  });
  return good.sort((a, b) => gain(b) - gain(a))[0];
}

/** What `entry` gains and costs against the baseline: "3.9× smaller and 2.1× faster at −0.2 points accuracy". */
export function gainOf(results: Results, entry: Entry): string {
  const baseline = results.entries[0];
  if (!baseline) return "";
  const parts: string[] = [];
  const size = ["brotli", "gzip", "file"]
    .map(quantityOf)
    .find((quantity) => quantity.of(entry) && quantity.of(baseline));
  const before = size?.of(baseline)?.value;
  const after = size?.of(entry)?.value;
  if (before !== undefined && after)
    parts.push(before >= after ? times(before / after, "smaller") : times(after / before, "larger"));
  const ratio = entry.latency?.ratio;
  if (ratio) {
    const rank = rankValue(quantityOf("latency-ratio"), entry) ?? 1;
    if (rank < 1) parts.push(times(1 / rank, "faster"));
    else if (rank > 1) parts.push(times(rank, "slower"));
    else parts.push("as fast");
  }
  const { quality } = axesOf(results);
  const old = quality?.of(baseline)?.value;
  const now = quality?.of(entry)?.value;
  let price = "";
  if (quality && old !== undefined && now !== undefined)
    price =
      quality.unit === "share"
        ? ` at ${formatPoints(now - old)} points ${quality.label.toLowerCase()}`
        : ` at ${quality.label.toLowerCase()} ${formatValue(now, quality.unit)} instead of ${formatValue(old, quality.unit)}`;
  return (parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}` : (parts[0] ?? "")) + price;
}

function times(factor: number, word: string): string {
  return factor < 1.005 ? `not ${word}` : `${formatTimes(factor)} ${word}`;
}

/** The summary of a whole document, one or two sentences. */
export function summaryOf(results: Results): string {
  const done = results.entries.slice(1).filter((entry) => !entry.error);
  const failed = results.entries.length - 1 - done.length;
  const tail =
    failed > 0
      ? ` ${failed} of ${results.entries.length - 1} recipes failed; ${failed === 1 ? "its reason is" : "their reasons are"} in the table.`
      : "";
  const best = recommended(results);
  if (best) return `${best.label} makes it ${gainOf(results, best)}.${tail}`;
  if (done.length === 0) return `No compressed model was measured yet.${tail}`;
  const { quality } = axesOf(results);
  return `None of ${done.length} compressed models stays within one point of the original${quality ? ` in ${quality.label.toLowerCase()}` : ""}.${tail}`;
}

/** The baseline in a few words: size and quality with its interval. */
export function baselineOf(results: Results): string {
  const baseline = results.entries[0];
  if (!baseline) return "";
  const { quality } = axesOf(results);
  const measured = quality?.of(baseline);
  const parts = [formatBytes(baseline.bytes?.file ?? results.model.bytes)];
  if (quality && measured) parts.push(`${quality.label.toLowerCase()} ${formatInterval(measured, quality.unit)}`);
  return parts.join(", ");
}
