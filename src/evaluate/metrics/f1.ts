/** Macro-averaged F1. */
import { bootstrapInterval } from "../../base/statistics.ts";
import { classMetric, type ClassRows, type Metric } from "./metric.ts";

/** Draws of the bootstrap: a thousand for small sets, fewer where each costs more. */
const DRAWN_ROWS = 2e7;
const MOST_DRAWS = 1000;
const LEAST_DRAWS = 100;

/** F1 of class c is 2·TP / (2·TP + FP + FN); the macro average is over the classes that occur as label or prediction. */
function macroF1(rows: ClassRows, indices: Uint32Array): number {
  const hits = new Float64Array(rows.classes);
  const labelled = new Float64Array(rows.classes);
  const predicted = new Float64Array(rows.classes);
  for (const row of indices) {
    const label = rows.labels[row] as number;
    const guess = rows.predicted[row] as number;
    labelled[label] = (labelled[label] as number) + 1;
    if (guess >= 0) predicted[guess] = (predicted[guess] as number) + 1;
    if (label === guess) hits[label] = (hits[label] as number) + 1;
  }
  let sum = 0;
  let present = 0;
  for (let c = 0; c < rows.classes; c++) {
    const seen = (labelled[c] as number) + (predicted[c] as number); // 2·TP + FP + FN
    if (seen === 0) continue;
    present++;
    sum += (2 * (hits[c] as number)) / seen;
  }
  return present === 0 ? Number.NaN : sum / present;
}

export const f1: Metric = classMetric({
  name: "f1",
  summary: "F1 averaged over classes (macro), with a bootstrap interval",
  better: "higher",
  tasks: ["classes"],
  score(rows) {
    const samples = rows.labels.length;
    const resamples = Math.round(Math.min(MOST_DRAWS, Math.max(LEAST_DRAWS, DRAWN_ROWS / samples)));
    return { ...bootstrapInterval(samples, (indices) => macroF1(rows, indices), { resamples }), samples };
  },
});
