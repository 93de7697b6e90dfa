/** Top-1 accuracy. */
import { proportion } from "./intervals.ts";
import { classMetric, type Metric } from "./metric.ts";

export const accuracy: Metric = classMetric({
  name: "accuracy",
  summary: "Share of samples (or tokens) whose highest score is the label",
  better: "higher",
  tasks: ["classes", "tokens"],
  score: (rows) => proportion(rows, (row) => rows.predicted[row] === rows.labels[row]),
});
