/** Top-5 accuracy. */
import { proportion } from "./intervals.ts";
import { classMetric, type Metric } from "./metric.ts";

const K = 5;

export const top5: Metric = classMetric({
  name: "top5",
  summary: "Share of samples whose label is among the five highest scores; for more than five classes",
  better: "higher",
  tasks: ["classes"],
  score: (rows) => (rows.classes <= K ? undefined : proportion(rows, (row) => (rows.ranks[row] as number) < K)),
});
