/**
 * Tables and charts of the studies from their recorded runs: rewrites what lies between the markers of README.md and draws
 * heads-and-neurons.svg and blocks.svg. `node experiments/transformer-pruning/report.mjs`; no figure is typed.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { lineChart } from "../line-chart.mjs";
import { percent, percentWithin, pointsWithin, readStudy, table, writeSection } from "../report.mjs";

const here = import.meta.dirname;
const unique = (list) => [...new Set(list)];

/** One table per part that is removed: criteria down, amounts across; `cell` says what stands there, with the parameters left where criteria differ in them. */
function tables(rows, cell, head) {
  return unique(rows.map(({ part }) => part))
    .map((part) => {
      const own = rows.filter((row) => row.part === part);
      const amounts = unique(own.map(({ amount }) => amount)).sort((a, b) => a - b);
      const at = (score, amount) => own.find((row) => row.score === score && row.amount === amount);
      const left = (row) => percent(row.parameters / head.parameters, 0);
      const differ = amounts.some((amount) => unique(own.filter((row) => row.amount === amount).map(left)).length > 1);
      const text = (row) => (row && differ ? `${cell(row)} (${left(row)})` : cell(row));
      const titles = amounts.map((amount) => (amount < 1 ? `${percent(amount, 0)} gone` : `${amount} gone`));
      const body = unique(own.map(({ score }) => score)).map((score) => [score, ...amounts.map((amount) => text(at(score, amount)))]);
      const share = ["parameters left", ...amounts.map((amount) => left(own.find((row) => row.amount === amount)))];
      const title = `**${part[0].toUpperCase()}${part.slice(1)}**${differ ? " (in brackets the parameters left)" : ""}`;
      return `${title}\n\n${table(["criterion", ...titles], differ ? body : [...body, share])}`;
    })
    .join("\n\n");
}

/** Lines of the criteria of each part, over the share of parameters that is gone. */
function chart(rows, whole, parts, about) {
  const most = Math.max(...rows.map(({ perplexity }) => perplexity[0]), 100);
  const gone = (row) => 100 * (1 - row.parameters / whole.parameters);
  const series = parts.flatMap((part) =>
    unique(rows.filter((row) => row.part === part).map(({ score }) => score))
      .filter((score) => ["random", "l2", "activation-mean", "fisher", "output", "influence"].includes(score))
      .map((score) => ({
        name: `${part} ${score}`,
        points: [[0, whole.perplexity[0]], ...rows.filter((row) => row.part === part && row.score === score).map((row) => [gone(row), row.perplexity[0]]).sort((a, b) => a[0] - b[0])],
      })),
  );
  const high = Math.min(most, 1000);
  return lineChart({
    about,
    x: { label: "parameters gone, %", low: 0, high: 50, ticks: [0, 10, 20, 30, 40, 50].map((x) => [x, x]) },
    y: { label: "perplexity", low: 3, high, log: true, ticks: [3, 5, 10, 30, 100, 300, 1000].filter((y) => y <= high).map((y) => [y, y]) },
    series: series.map((each) => ({ ...each, points: each.points.filter(([x, y]) => x <= 50 && y <= high) })),
  });
}

const language = readStudy(here, "language");
if (language) {
  const whole = language.rows.find(({ part }) => part === "none");
  const rows = language.rows.filter(({ part }) => part !== "none");
  const text = (row) => (row ? row.perplexity[0].toFixed(2) : "");
  const [value, low, high] = whole.perplexity;
  writeSection(
    here,
    "language",
    `Whole: perplexity ${value.toFixed(2)} (95 % over the stories ${low.toFixed(2)} to ${high.toFixed(2)}), ${whole.parameters.toLocaleString("en")} parameters.\n\n${tables(rows, text, whole)}\n\n${best(rows)}`,
  );
  writeFileSync(join(here, "heads-and-neurons.svg"), chart(rows, whole, ["heads", "neurons"], "Perplexity against parameters for heads and neurons"));
  writeFileSync(join(here, "blocks.svg"), chart(rows, whole, ["blocks", "layers"], "Perplexity against parameters for blocks and layers"));
}

/** What each table shows, said by its numbers. */
function best(rows) {
  const lines = unique(rows.map(({ part }) => part)).flatMap((part) =>
    unique(rows.filter((row) => row.part === part).map(({ amount }) => amount)).map((amount) => {
      const own = rows.filter((row) => row.part === part && row.amount === amount);
      const order = own.sort((a, b) => a.perplexity[0] - b.perplexity[0]).map(({ score }) => score);
      return `- ${part}, ${amount < 1 ? percent(amount, 0) : amount}: best first ${order.join("; ")}.`;
    }),
  );
  return lines.join("\n");
}

const classifier = readStudy(here, "classifier");
for (const network of ["vision", "sentiment"]) {
  const own = classifier?.rows.filter((row) => row.network === network) ?? [];
  const whole = own.find(({ part, epochs }) => part === "none" && !epochs);
  if (!whole) continue;
  const cutOnly = own.filter(({ part, epochs }) => part !== "none" && epochs === 0);
  const text = (row) => (row ? percent(row.accuracy[0], 1) : "");
  const tuned = own.filter(({ part, epochs }) => part !== "none" && epochs === 1);
  const same = own.find(({ part, epochs }) => part === "none" && epochs === 1);
  const after = tuned.map((row) => {
    const before = cutOnly.find((each) => each.part === row.part && each.score === row.score && each.amount === row.amount);
    return [row.part, row.score, row.amount, percent(row.parameters / whole.parameters, 0), text(before), text(row)];
  });
  const head = ["part", "criterion", "amount", "parameters left", "cut", "after one epoch"];
  const end = same ? `\n\nThe whole network after the same epoch: ${percentWithin(same.accuracy)}.` : "";
  writeSection(
    here,
    network,
    `Whole: accuracy ${percent(whole.accuracy[0])} (95 % ${pointsWithin(whole.accuracy)}), ${whole.parameters.toLocaleString("en")} parameters.\n\n${tables(cutOnly, text, whole)}\n\n${after.length > 0 ? table(head, after) : ""}${end}`,
  );
}
