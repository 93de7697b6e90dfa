/**
 * Tables and chart of the study from its recorded runs: rewrites what lies between the markers of README.md and draws scores.svg.
 * `node experiments/channel-pruning/report.mjs`; no figure in either is typed.
 */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { lineChart } from "../line-chart.mjs";
import { deviation, mean, percent, percentWithin, points, pointsWithin, readStudy, table, writeSection } from "../report.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { rows } = readStudy(here, "cifar10");
const start = rows.find(({ cut, epochs }) => cut === 0 && epochs === 0);
const unpruned = rows.filter(({ cut, score }) => cut === 0 && score === undefined);
const times = (factor) => `${factor.toFixed(2)}×`;

const cuts = rows.filter(({ cut, score }) => cut > 0 && score === undefined);
if (cuts.length > 0) {
  const body = [...unpruned, ...cuts].map((row) => {
    const fewer = start.macs / row.macs;
    const { lost, speed } = rows.find(({ compared }) => compared === row.cut) ?? {};
    return [
      row.cut === 0 ? (row.epochs === 0 ? "pretrained" : "unpruned") : `${percent(row.cut, 0)} of the MACs to go`,
      row.epochs,
      percentWithin(row.accuracy),
      lost ? pointsWithin(lost) : "",
      `${(row.macs / 1e6).toFixed(1)} M`,
      row.cut === 0 ? "" : times(fewer),
      speed ? `${times(speed[0])} (${speed[1].toFixed(2)} to ${speed[2].toFixed(2)})` : "",
      speed ? percent(speed[0] / fewer, 0) : "",
      row.parameters.toLocaleString("en"),
    ];
  });
  const head = ["network", "epochs", "accuracy (95 %)", "points lost (95 %, paired)", "MACs", "fewer", "faster, batch 8", "of the MACs' ratio", "parameters"];
  const recipes = cuts.map(({ cut, recipe }) => `${percent(cut, 0)}: \`${recipe}\``);
  writeSection(here, "cuts", `${table(head, body)}\n\nAfter the first epochs, ${recipes.join("; ")}.`);
}

const local = rows.filter(({ score }) => score !== undefined);
const scores = [...new Set(local.map(({ score }) => score))].map((score) => {
  const accuracies = local.filter((row) => row.score === score).map(({ accuracy }) => accuracy[0]);
  return { score, accuracies, mean: mean(accuracies), deviation: deviation(accuracies) };
});
if (scores.length > 0) {
  scores.sort((a, b) => b.mean - a.mean);
  const body = scores.map((each) => [
    each.score,
    `${percent(each.mean)} ± ${points(each.deviation)}`,
    each.accuracies.map((accuracy) => percent(accuracy)).join(", "),
  ]);
  const reference = unpruned.find(({ epochs }) => epochs === Math.floor(local[0].epochs)).accuracy[0];
  const lowest = Math.min(...scores.map((each) => each.mean - each.deviation));
  const [low, high] = [Math.floor(100 * lowest) - 0.5, Math.ceil(100 * reference) + 0.5];
  const ticks = Array.from({ length: Math.floor(high) - Math.ceil(low) + 1 }, (_, i) => Math.ceil(low) + i);
  const chart = lineChart({
    about: "Accuracy after pruning half of the multiplications by five scores",
    x: { label: "score", low: -0.5, high: scores.length - 0.5, ticks: scores.map(({ score }, i) => [i, score]) },
    y: { label: "accuracy, mean ± deviation", low, high, ticks: ticks.map((tick) => [tick, `${tick} %`]) },
    series: [{ name: "pruned", points: scores.map((each, i) => [i, 100 * each.mean, 100 * each.deviation]) }],
    lines: [{ name: "unpruned", y: 100 * reference }],
  });
  writeFileSync(join(here, "scores.svg"), chart);
  const macs = `${(local[0].macs / 1e6).toFixed(1)} M MACs each; the unpruned network had ${percent(reference)} before the cut.`;
  writeSection(here, "scores", `${table(["score", "accuracy", "each seed"], body)}\n\n${macs}\n\n![Accuracy by score](scores.svg)`);
}
