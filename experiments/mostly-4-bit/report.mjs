/**
 * Table, charts and reading of the study from its recorded runs: rewrites what lies between the markers of README.md and draws
 * bops.svg and results.json, which `pare report` reads. `node experiments/mostly-4-bit/report.mjs` after `npm run build`.
 */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { frontSvg } from "../../dist/report/front-svg.js";
import { dominates, paretoFront } from "../../dist/search/pareto.js";
import { resultsJson } from "../../dist/search/results-json.js";
import { percentWithin, readStudy, table, writeSection } from "../report.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { rows, machine, versions, command } = readStudy(here, "cifar10");
const OBJECTIVES = [
  { name: "bops", direction: "minimize" },
  { name: "accuracy", direction: "maximize" },
];
const pointOf = (row) => [row.bops, row.accuracy[0]];
const nameOf = ({ width, precision }) => `width ${width}, ${precision}`;

const quantized = rows.filter(({ precision }) => precision !== "float");
const entries = rows.map((row) => {
  const [value, low, high] = row.accuracy;
  const [technique] = row.recipe.split(":");
  return {
    id: `${row.width}-${row.precision.replace(/[^\w]+/g, "-")}`,
    label: nameOf(row),
    family: row.precision,
    recipe: [{ technique, options: {}, text: row.recipe }],
    metrics: { accuracy: { value, low, high, samples: row.samples } },
    bytes: { file: row.bytes, brotli: row.brotliBytes },
    parameters: row.parameters,
    macs: row.macs,
    bops: row.bops,
    steps: [],
    layers: [],
    seconds: row.seconds,
  };
});
const { front } = paretoFront(rows.map(pointOf), OBJECTIVES);
const results = {
  format: "pare-results",
  version: 1,
  title: "ResNet-8 at three widths and four precisions, CIFAR-10 (JPEG copies)",
  created: new Date(0).toISOString(),
  machine: { ...machine, versions },
  model: { name: "resnet-20, one block per stage", bytes: rows[0].bytes },
  data: { evaluation: "CIFAR-10, JPEG copies, test" },
  seed: 1,
  command,
  objectives: OBJECTIVES,
  entries,
  front: front.map((index) => entries[index].id),
};
writeFileSync(join(here, "results.json"), resultsJson(results));
writeFileSync(join(here, "bops.svg"), frontSvg(results, { x: "bops", y: "accuracy" }));

const mega = (count) => `${(count / 1e6).toFixed(0)} M`;
const head = ["width", "precision", "accuracy (95 % interval)", "BOPs", "linear cost", "file", "on the front"];
const networks = table(
  head,
  rows.map((row, i) => [
    row.width,
    row.precision,
    percentWithin(row.accuracy),
    mega(row.bops),
    mega(row.linear),
    `${(row.bytes / 1024).toFixed(0)} KiB`,
    front.includes(i) ? "yes" : "",
  ]),
);

/** Which points of one precision are beaten by a point of another in both cost and accuracy. */
function beaten(loser, winner, cost) {
  const objectives = [{ name: cost, direction: "minimize" }, OBJECTIVES[1]];
  const place = (row) => [row[cost], row.accuracy[0]];
  const own = rows.filter(({ precision }) => precision === loser);
  const others = rows.filter(({ precision }) => precision === winner);
  const lost = own.filter((row) => others.some((other) => dominates(place(other), place(row), objectives)));
  return `${lost.length} of ${own.length}`;
}
const precisions = [...new Set(quantized.map(({ precision }) => precision))];
const pairs = precisions.flatMap((loser) =>
  precisions.flatMap((winner) => (winner === loser ? [] : [[loser, winner]])),
);
const dominance = table(
  ["networks at", "beaten by one at", "by BOPs", "by linear cost"],
  pairs.map(([loser, winner]) => [loser, winner, beaten(loser, winner, "bops"), beaten(loser, winner, "linear")]),
);
const parts = [
  networks,
  "![Accuracy over bit operations](bops.svg)",
  "Beaten: another network costs no more and is no less accurate, and better in one of the two.",
  dominance,
];
writeSection(here, "cifar10", parts.join("\n\n"));
