/** Scores from per-row numbers: proportions, means, and means of rows that come in dependent groups. */
import { intervalOfMoments, meanInterval, StreamingMoments, wilsonInterval } from "../../base/statistics.ts";
import type { ClassRows, Score } from "./metric.ts";

/** Share of rows with `hit`: Wilson's interval where rows are samples, else the interval of per-sample shares. */
export function proportion(rows: ClassRows, hit: (row: number) => boolean): Score {
  const count = rows.labels.length;
  if (rows.task === "tokens") return groupedMean(rows, (row) => (hit(row) ? 1 : 0));
  let hits = 0;
  for (let row = 0; row < count; row++) if (hit(row)) hits++;
  return { ...wilsonInterval(hits, count), samples: count };
}

/** Mean over rows. Rows of one sample depend on each other, so the interval is that of the samples' means. */
export function groupedMean(rows: ClassRows, value: (row: number) => number): Score {
  const sums = new Map<number, { sum: number; count: number }>();
  let total = 0;
  const count = rows.samples.length;
  for (let row = 0; row < count; row++) {
    const x = value(row);
    total += x;
    const sample = rows.samples[row] as number;
    const entry = sums.get(sample);
    if (entry) {
      entry.sum += x;
      entry.count++;
    } else sums.set(sample, { sum: x, count: 1 });
  }
  const moments = new StreamingMoments();
  for (const { sum, count: rowsOfSample } of sums.values()) moments.add(sum / rowsOfSample);
  const { value: centre, low, high } = intervalOfMoments(moments);
  const mean = total / count;
  return { value: mean, low: mean - (centre - low), high: mean + (high - centre), samples: sums.size };
}

/** Mean of one number per sample, Student's interval. */
export function sampleMean(values: Float64Array): Score {
  return { ...meanInterval(values), samples: values.length };
}
