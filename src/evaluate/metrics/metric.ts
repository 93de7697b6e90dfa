/** What a metric is: a score with a 95 % interval from what is kept of every sample. */

export interface Score {
  readonly value: number;
  /** 95 % interval. */
  readonly low: number;
  readonly high: number;
  /** Independent samples behind the interval. */
  readonly samples: number;
}

/** What is kept of each judged row: a sample, or of token labels each token. */
export interface ClassRows {
  readonly task: "classes" | "tokens";
  /** Number of classes, or size of the vocabulary. */
  readonly classes: number;
  readonly labels: Int32Array;
  /** Highest score; −1 where the outputs are not finite. */
  readonly predicted: Int32Array;
  /** Classes with a higher score than the labelled one: 0 is a hit; the number of classes where outputs are not finite. */
  readonly ranks: Int32Array;
  /** −ln p(label). */
  readonly losses: Float64Array;
  /** Sample of each row: rows of one sample are not independent. */
  readonly samples: Int32Array;
}

/** Errors of real-valued outputs, averaged over the elements of each sample. */
export interface ValueRows {
  readonly task: "values";
  readonly squaredErrors: Float64Array;
  readonly absoluteErrors: Float64Array;
}

/** One file and one line of the table each. */
export interface Metric {
  readonly name: string;
  readonly summary: string;
  readonly better: "higher" | "lower";
  readonly tasks: readonly (ClassRows | ValueRows)["task"][];
  /** Undefined where it says nothing (top-5 of four classes). */
  score(rows: ClassRows | ValueRows): Score | undefined;
}

/** A metric of classes or tokens. */
export function classMetric(parts: Omit<Metric, "score"> & { score(rows: ClassRows): Score | undefined }): Metric {
  return { ...parts, score: (rows) => (rows.task === "values" ? undefined : parts.score(rows)) };
}

/** A metric of real-valued outputs. */
export function valueMetric(
  parts: Omit<Metric, "score" | "tasks"> & { score(rows: ValueRows): Score | undefined },
): Metric {
  return { ...parts, tasks: ["values"], score: (rows) => (rows.task === "values" ? parts.score(rows) : undefined) };
}
