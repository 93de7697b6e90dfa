/**
 * Tables and charts of the study from its recorded runs: rewrites what lies between the markers of README.md and draws a chart for
 * each network. `node experiments/weight-pruning-mnist/report.mjs`; no figure of the runs is typed, those of papers are below.
 */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { lineChart } from "../line-chart.mjs";
import { deviation, mean, percent, points, readStudy, table, writeSection } from "../report.mjs";

/** Share kept and test error in percent, as the papers print them. */
const PUBLISHED = {
  "lenet-300-100": [
    { name: "SNIP, paper", style: "dashed", points: [[5, 1.6], [2, 2.4]] },
    { name: "Sparse Momentum", style: "dashed", points: [[8.3, 1.43], [5, 1.53], [2, 1.99], [1.5, 2.05], [1, 2.36]] },
    { name: "Han, DNS, sparse VD", style: "dots", points: [[8.3, 1.6], [1.8, 2], [1.5, 1.9]] },
  ],
  "lenet-5": [
    { name: "SNIP, paper", style: "dashed", points: [[2, 0.8], [1, 1.1]] },
    { name: "Sparse Momentum", style: "dashed", points: [[9.3, 0.64], [5, 0.69], [2, 0.76], [1, 0.83], [0.5, 1.14]] },
    { name: "Han, DNS, sparse VD", style: "dots", points: [[8.3, 0.8], [0.9, 0.9], [0.4, 0.8]] },
  ],
};
/** Errors above this are cut off by the chart. */
const HIGHEST = 20;

const here = dirname(fileURLToPath(import.meta.url));
const rows = readStudy(here, "mnist")?.rows ?? [];

for (const [network, published] of Object.entries(PUBLISHED)) {
  const own = rows.filter((row) => row.network === network);
  if (own.length === 0) continue;
  const figures = (method, kept) => {
    const errors = own.filter((row) => row.method === method && row.kept === kept).map(({ error }) => error);
    return errors.length > 0 ? { errors, mean: mean(errors), deviation: deviation(errors) } : undefined;
  };
  const shares = [...new Set(own.map(({ kept }) => kept))].sort((a, b) => b - a);
  const methods = [...new Set(own.map(({ method }) => method))].filter((method) => !method.startsWith("dense"));
  const dense = figures("dense", 1);
  const cell = (found) => (found ? `${points(found.mean)} ± ${points(found.deviation)}` : "");
  const body = shares.filter((share) => share < 1).map((share) => [
    percent(share, 1),
    ...methods.map((method) => cell(figures(method, share))),
  ]);
  const longer = figures("dense, trained on", 1);
  const eight = figures("magnitude", 0.08);
  const reading = [`Dense: ${cell(dense)} % (${dense.errors.length} seeds)`];
  if (longer) reading.push(`trained on for as long as the network at 8 %: ${cell(longer)} %`);
  if (eight) reading.push(`8 % kept by magnitude: ${cell(eight)} %, ${points(eight.mean - dense.mean)} points of error more than dense`);
  const lowest = Math.min(...own.map(({ error }) => 100 * error), ...published.flatMap((each) => each.points.map(([, y]) => y)));
  const series = methods.map((name) => ({
    name,
    points: shares.flatMap((share) => {
      const found = figures(name, share);
      return found ? [[100 * share, Math.min(HIGHEST, 100 * found.mean), 100 * found.deviation]] : [];
    }),
  }));
  const ticks = [100, 50, 20, 8, 5, 2, 1, 0.5];
  const errors = [0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20].filter((tick) => tick >= 0.9 * lowest);
  const chart = lineChart({
    about: `Test error of ${network} over the share of weights kept, by method, beside published figures`,
    x: { label: "weights kept", low: 100, high: 0.4, log: true, ticks: ticks.map((tick) => [tick, `${tick} %`]) },
    y: { label: "test error", low: 0.9 * lowest, high: HIGHEST, log: true, ticks: errors.map((tick) => [tick, `${tick} %`]) },
    series: [...series, ...published],
    lines: [{ name: "dense", y: 100 * dense.mean }],
  });
  writeFileSync(join(here, `${network}.svg`), chart);
  const head = ["kept", ...methods];
  writeSection(here, network, `${reading.join("; ")}.\n\nTest error in %, mean ± deviation:\n\n${table(head, body)}\n\n![Test error over weights kept](${network}.svg)`);
}
