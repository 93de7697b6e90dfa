/** Perplexity of token predictions. */
import { groupedMean } from "./intervals.ts";
import { classMetric, type Metric } from "./metric.ts";

export const perplexity: Metric = classMetric({
  name: "perplexity",
  summary: "exp of the cross-entropy per token",
  better: "lower",
  tasks: ["tokens"],
  score(rows) {
    const { value, low, high, samples } = groupedMean(rows, (row) => rows.losses[row] as number);
    return { value: Math.exp(value), low: Math.exp(low), high: Math.exp(high), samples };
  },
});
