/** Mean squared error. */
import { sampleMean } from "./intervals.ts";
import { type Metric, valueMetric } from "./metric.ts";

export const mse: Metric = valueMetric({
  name: "mse",
  summary: "Mean squared error",
  better: "lower",
  score: (rows) => sampleMean(rows.squaredErrors),
});
