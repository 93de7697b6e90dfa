/** Cross-entropy. */
import { groupedMean } from "./intervals.ts";
import { classMetric, type Metric } from "./metric.ts";

export const loss: Metric = classMetric({
  name: "loss",
  summary: "Cross-entropy, mean of -ln p(label), in nats",
  better: "lower",
  tasks: ["classes", "tokens"],
  score: (rows) => groupedMean(rows, (row) => rows.losses[row] as number),
});
