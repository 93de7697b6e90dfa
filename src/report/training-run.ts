/** A training run as a page: loss and metrics per epoch, from what `pare train --json` prints. */
import { digits, formatSeconds } from "./format.ts";
import { FOOTER, pageFrame } from "./page-frame.ts";
import { escapeXml, round, svgLine, svgText } from "./svg-text.ts";

/** What the page shows of an epoch. */
export interface TrainedEpoch {
  /** From 1. */
  readonly epoch: number;
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly seconds: number;
}

export interface TrainingResults {
  /** The model that was written. */
  readonly output: string;
  readonly epochs: readonly TrainedEpoch[];
  readonly best: TrainedEpoch;
  readonly secondsPerStep: number;
}

/** True for a document that says what `pare train --json` says. */
export function isTrainingResults(document: unknown): document is TrainingResults {
  if (typeof document !== "object" || document === null) return false;
  const { epochs, best, output, secondsPerStep } = document as Record<string, unknown>;
  const numbers = (value: unknown): boolean =>
    typeof value === "object" && value !== null && Object.values(value).every((each) => typeof each === "number");
  const isEpoch = (value: unknown): boolean => {
    if (typeof value !== "object" || value === null) return false;
    const { metrics, ...rest } = value as Record<string, unknown>;
    return ["epoch", "loss", "seconds"].every((name) => typeof rest[name] === "number") && numbers(metrics);
  };
  const named = typeof output === "string" && typeof secondsPerStep === "number";
  return named && Array.isArray(epochs) && epochs.length > 0 && epochs.every(isEpoch) && isEpoch(best);
}

/** A metric's name beside the training loss: the loss on held-out samples says so. */
export function metricLabel(name: string): string {
  return name === "loss" ? "validation loss" : name;
}

interface Curve {
  readonly label: string;
  readonly className: string;
  readonly values: readonly number[];
}

/** The curves that belong on one chart: the losses, and each other metric alone. */
function chartsOf({ epochs }: TrainingResults): { title: string; curves: Curve[] }[] {
  const names = Object.keys(epochs[0]?.metrics ?? {});
  const of = (name: string): number[] => epochs.map(({ metrics }) => metrics[name] ?? Number.NaN);
  const losses: Curve[] = [{ label: "training", className: "first", values: epochs.map(({ loss }) => loss) }];
  if (names.includes("loss")) losses.push({ label: "validation", className: "second", values: of("loss") });
  const rest = names.filter((name) => name !== "loss");
  return [
    { title: "Loss", curves: losses },
    ...rest.map((name) => ({
      title: `${name.charAt(0).toUpperCase()}${name.slice(1)} on the validation data`,
      curves: [{ label: name, className: "second", values: of(name) }],
    })),
  ];
}

const SIZE = { width: 720, height: 240, left: 56, right: 96, top: 16, bottom: 32 };

/** One chart as SVG: epochs to the right, the best epoch marked, each curve labelled at its end. */
function chartSvg(title: string, curves: readonly Curve[], epochs: readonly TrainedEpoch[], best: number): string {
  const { width, height, left, right, top, bottom } = SIZE;
  const finite = curves.flatMap(({ values }) => values.filter(Number.isFinite));
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const span = high - low || Math.abs(high) || 1;
  const first = epochs[0]?.epoch ?? 1;
  const last = epochs.at(-1)?.epoch ?? 1;
  const x = (epoch: number): number =>
    left + (last > first ? (epoch - first) / (last - first) : 0.5) * (width - left - right);
  const y = (value: number): number => top + ((high - value) / span) * (height - top - bottom);
  const parts: string[] = [];
  for (let i = 0; i <= 4; i++) {
    const value = low + (span * i) / 4;
    parts.push(svgLine(left, y(value), width - right, y(value), "grid"));
    parts.push(svgText(left - 8, y(value) + 4, digits(value), "tick", "end"));
  }
  const ticks = Math.min(last - first, 8);
  const marks = new Set(
    Array.from({ length: ticks + 1 }, (_, i) => Math.round(first + ((last - first) * i) / Math.max(1, ticks))),
  );
  for (const epoch of marks) parts.push(svgText(x(epoch), height - 10, String(epoch), "tick", "middle"));
  parts.push(svgLine(x(best), top, x(best), height - bottom, "best"));
  const ends: { label: string; at: number }[] = [];
  for (const { className, values, label } of curves) {
    const points = values.flatMap((value, i) =>
      Number.isFinite(value) ? [`${round(x(epochs[i]?.epoch ?? i + 1))},${round(y(value))}`] : [],
    );
    parts.push(`<polyline class="curve ${className}" points="${points.join(" ")}"/>`);
    ends.push({ label, at: y(values.findLast(Number.isFinite) ?? high) + 4 });
  }
  let above = Number.NEGATIVE_INFINITY;
  for (const { label, at } of ends.sort((a, b) => a.at - b.at)) {
    above = Math.max(at, above + 15); // labels of curves that end close together do not touch
    parts.push(svgText(x(last) + 8, above, label, "tick"));
  }
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeXml(title)} by epoch">${parts.join("")}</svg>`;
}

const STYLE = `
svg { width: 100%; height: auto; font-size: 12px; }
svg text { fill: var(--muted); }
.grid { stroke: var(--line); }
.best { stroke: var(--axis); stroke-dasharray: 3 3; }
.curve { fill: none; stroke-width: 2; }
.first { stroke: var(--bar-added); }
.second { stroke: var(--accent); }
`;

/** The page: one file, no script, nothing fetched. Names are untrusted and escaped. */
export function trainingPage(results: TrainingResults): string {
  const { epochs, best, output, secondsPerStep } = results;
  const file = output.slice(Math.max(output.lastIndexOf("/"), output.lastIndexOf("\\")) + 1);
  const name = escapeXml(file);
  const seconds = epochs.reduce((sum, epoch) => sum + epoch.seconds, 0);
  const summary = `${epochs.length} epochs in ${formatSeconds(seconds)}, ${formatSeconds(secondsPerStep)} per step. The weights are those of epoch ${best.epoch}.`;
  const charts = chartsOf(results).map(
    ({ title, curves }) =>
      `<section class="card"><h2>${escapeXml(title)}</h2>${chartSvg(title, curves, epochs, best.epoch)}</section>`,
  );
  const names = Object.keys(best.metrics);
  const row = (cells: readonly string[], tag: string): string =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeXml(cell)}</${tag}>`).join("")}</tr>`;
  const rows = epochs.map(({ epoch, loss, metrics, seconds: spent }) =>
    row(
      [
        String(epoch),
        digits(loss, 4),
        ...names.map((key) => digits(metrics[key] ?? Number.NaN, 4)),
        formatSeconds(spent),
      ],
      "td",
    ),
  );
  const main = `<header class="page"><p class="eyebrow">Training report</p><h1>${name}</h1><p class="summary">${summary}</p></header>
${charts.join("\n")}
<section class="card"><h2>Epochs</h2><table class="models"><thead>${row(["epoch", "training loss", ...names.map(metricLabel), "time"], "th")}</thead><tbody>${rows.join("")}</tbody></table></section>
${FOOTER}`;
  return pageFrame({ title: `${file}: training report`, style: STYLE, main });
}
