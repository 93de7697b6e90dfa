/**
 * Table and chart of the study from its recorded runs: rewrites what lies between the markers of README.md and draws error.svg.
 * `node experiments/network-trimming/report.mjs`; no figure in either is typed.
 */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { lineChart } from "../line-chart.mjs";
import { deviation, mean, percent, points, readStudy, table, writeSection } from "../report.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { rows } = readStudy(here, "mnist");
const bySeed = new Map();
for (const row of rows) {
  const key = `${row.method} ${row.round}`;
  bySeed.set(key, [...(bySeed.get(key) ?? []), row]);
}
const groups = [...bySeed.values()].map((group) => ({
  ...group[0],
  errors: group.map(({ error }) => error),
  parameters: mean(group.map(({ parameters }) => parameters)),
}));
const dense = groups.find(({ method }) => method === "dense");
const body = groups.map(({ method, round, errors, parameters, widths }) => [
  method,
  round || "",
  widths.join("-"),
  Math.round(parameters).toLocaleString("en"),
  `${(dense.parameters / parameters).toFixed(2)}×`,
  errors.length > 1 ? `${percent(mean(errors))} ± ${points(deviation(errors))}` : percent(errors[0]),
]);
const names = [...new Set(groups.map(({ method }) => method))].filter((name) => !name.startsWith("dense"));
const series = names.map((name) => ({
  name,
  points: groups
    .filter(({ method }) => method === name || (method === "dense" && !name.includes(",")))
    .map(({ parameters, errors }) => [Math.log2(dense.parameters / parameters), 100 * mean(errors), 100 * deviation(errors)])
    .sort((a, b) => a[0] - b[0]),
}));
const highest = Math.max(...series.flatMap((each) => each.points.map(([, y, d]) => y + d)));
const ticks = Array.from({ length: Math.floor(highest / 0.5) + 1 }, (_, i) => i * 0.5);
const powers = Array.from({ length: Math.ceil(Math.max(...series.flatMap((each) => each.points.map(([x]) => x)))) + 1 }, (_, i) => i);
const chart = lineChart({
  about: "Test error of trimmed LeNets over how many times fewer parameters they have",
  x: { label: "times fewer parameters", low: 0, high: powers.at(-1), ticks: powers.map((power) => [power, `${2 ** power}×`]) },
  y: { label: "test error", low: 0, high: highest * 1.05, ticks: ticks.map((tick) => [tick, `${tick.toFixed(1)} %`]) },
  series,
});
writeFileSync(join(here, "error.svg"), chart);
const head = ["network", "round", "filters and units", "parameters", "fewer", "error, mean ± deviation"];
writeSection(here, "rounds", `${table(head, body)}\n\n![Error over parameters](error.svg)`);
