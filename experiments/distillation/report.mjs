/**
 * Tables and chart of the studies from their recorded runs: rewrites what lies between the markers of README.md and draws
 * mnist.svg. `node experiments/distillation/report.mjs` after `npm run build`; no figure in either is typed.
 */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { deviation, mean, percent, readStudy, table, writeSection } from "../report.mjs";
import { mnistChart } from "./chart.mjs";

const here = dirname(fileURLToPath(import.meta.url));

/** Mean errors of one student: from labels alone (temperature null) and by temperature. */
export function mnistStudents(rows) {
  const students = [...new Set(rows.filter(({ network }) => !network.startsWith("teacher")).map(({ network }) => network))];
  return students.map((network) => {
    const own = rows.filter((row) => row.network === network);
    const temperatures = [...new Set(own.map(({ temperature }) => temperature))];
    return {
      network,
      points: temperatures.map((temperature) => {
        const errors = own.filter((row) => row.temperature === temperature).map(({ error }) => error);
        return { temperature, error: mean(errors), deviation: deviation(errors), runs: errors.length };
      }),
    };
  });
}

function mnistSection({ rows }) {
  const teacher = rows.find(({ network }) => network.startsWith("teacher")).error;
  const students = mnistStudents(rows);
  if (students.length === 0) return `Recorded so far: the teacher, ${percent(teacher)} test error. No student yet.`;
  const temperatures = students[0].points.filter(({ temperature }) => temperature !== null).map((p) => p.temperature);
  const body = students.map(({ network, points }) => {
    const plain = points.find(({ temperature }) => temperature === null);
    const soft = temperatures.map((t) => points.find(({ temperature }) => temperature === t)).filter(Boolean);
    const best = soft.reduce((a, b) => (b.error < a.error ? b : a));
    const cells = temperatures.map((t) => {
      const point = soft.find(({ temperature }) => temperature === t);
      return point === undefined ? "" : point === best ? `**${percent(point.error)}**` : percent(point.error);
    });
    const recovered = (plain.error - best.error) / (plain.error - teacher);
    return [network, `${percent(plain.error)} ± ${(100 * plain.deviation).toFixed(2)}`, ...cells, percent(recovered, 0)];
  });
  return [
    `Test error, mean of ${students[0].points[0].runs} seeds; teacher: ${percent(teacher)}.`,
    "",
    table(["student", "labels alone", ...temperatures.map((t) => `T = ${t}`), "of the gap, at the best T"], body),
    "",
    "![Test error of the students by temperature](mnist.svg)",
  ].join("\n");
}

function cifarSection({ rows }) {
  const groups = [...new Set(rows.map(({ network, teacher }) => `${network}|${teacher}`))];
  const body = groups.map((group) => {
    const own = rows.filter(({ network, teacher }) => `${network}|${teacher}` === group);
    const accuracies = own.map(({ error }) => 1 - error);
    const [{ network, teacher, macs }] = own;
    const spread = own.length > 1 ? ` ± ${(100 * deviation(accuracies)).toFixed(2)}` : "";
    const each = own.length > 1 ? accuracies.map((a) => percent(a)).join(", ") : "";
    return [network + (teacher ? ", with the teacher" : ""), `${(macs / 1e6).toFixed(1)} M`, percent(mean(accuracies)) + spread, each];
  });
  const left = rows.some(({ teacher }) => teacher) ? "" : "\n\nThe students are not recorded yet.";
  return table(["network", "MACs", "accuracy on the JPEG test set", "each seed"], body) + left;
}

for (const [name, section] of [
  ["mnist", mnistSection],
  ["cifar10", cifarSection],
]) {
  const record = readStudy(here, name);
  if (!record) continue;
  writeSection(here, name, section(record));
  if (name === "mnist" && mnistStudents(record.rows).length > 0) {
    const teacher = record.rows.find(({ network }) => network.startsWith("teacher")).error;
    writeFileSync(join(here, "mnist.svg"), mnistChart(mnistStudents(record.rows), teacher));
  }
}
