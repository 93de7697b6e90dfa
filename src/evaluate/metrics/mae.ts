/** Mean absolute error. */
import { sampleMean } from "./intervals.ts";
import { type Metric, valueMetric } from "./metric.ts";

export const mae: Metric = valueMetric({
  name: "mae",
  summary: "Mean absolute error",
  better: "lower",
  score: (rows) => sampleMean(rows.absoluteErrors),
});
