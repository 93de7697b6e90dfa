/**
 * Tables and chart of the study from its recorded runs: rewrites what lies between the markers of README.md and draws cuts.svg.
 * `node experiments/sparsity-training/report.mjs`; no figure in either is typed.
 */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { lineChart } from "../line-chart.mjs";
import { percent, percentWithin, pointsWithin, readStudy, table, writeSection } from "../report.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const rows = readStudy(here, "cifar10")?.rows ?? [];
const whole = rows.filter(({ cut }) => cut === 0);
const cuts = rows.filter(({ cut }) => cut > 0).sort((a, b) => a.cut - b.cut);
const macs = (count) => `${(count / 1e6).toFixed(1)} M`;

if (whole.length > 0) {
  const body = whole.map((row) => [row.training, percentWithin(row.accuracy), `${row.zero} of ${row.channels}`, `\`${row.recipe}\``]);
  writeSection(here, "trained", table(["training", "accuracy (95 %)", "channels that are zero", "recipe"], body));
}
if (cuts.length > 0) {
  const body = cuts.map((row) => [
    percent(row.cut, 0),
    row.training,
    row.score,
    percentWithin(row.before),
    percentWithin(row.accuracy),
    pointsWithin(row.lost),
    macs(row.macs),
    row.parameters.toLocaleString("en"),
  ]);
  const head = ["MACs gone", "training", "cut by", "accuracy after the cut", "and half an epoch", "points lost (95 %, paired)", "MACs", "parameters"];
  const names = [...new Set(cuts.map(({ training, score }) => `${training}, ${score}`))];
  const series = (field) =>
    names.map((name) => ({
      name,
      points: cuts.filter(({ training, score }) => `${training}, ${score}` === name).map((row) => [100 * row.cut, 100 * row[field][0]]),
    }));
  const values = cuts.map(({ before }) => 100 * before[0]);
  const low = Math.max(0, Math.floor(Math.min(...values) / 10) * 10);
  const best = 100 * (whole.find(({ training }) => training === "plain")?.accuracy[0] ?? Math.max(...values) / 100);
  const high = Math.ceil(best / 10) * 10;
  const ticks = Array.from({ length: (high - low) / 10 + 1 }, (_, i) => low + 10 * i);
  const shares = [...new Set(cuts.map(({ cut }) => cut))].map((cut) => [100 * cut, percent(cut, 0)]);
  const chart = lineChart({
    about: "Accuracy right after the cut, before any fine-tuning, by training and score",
    x: { label: "multiplications that are gone", low: 100 * cuts[0].cut - 5, high: 100 * cuts.at(-1).cut + 5, ticks: shares },
    y: { label: "accuracy right after the cut", low, high, ticks: ticks.map((tick) => [tick, `${tick} %`]) },
    series: series("before"),
    lines: [{ name: "plain, uncut", y: best }],
  });
  writeFileSync(join(here, "cuts.svg"), chart);
  writeSection(here, "cuts", `${table(head, body)}\n\n![Accuracy right after the cut](cuts.svg)`);
}
