/** From a model's outputs and a data set's labels to what metrics judge: one row per sample, token or value. */
import { isFloat } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { elementCount, formatShape } from "../base/shape.ts";
import { asFloat32, asNumbers } from "../run/arrays.ts";
import type { NdArray, Session } from "../run/session.ts";
import type { ClassRows, ValueRows } from "./metrics/metric.ts";
import { areProbabilities, argmax, negativeLogLikelihood, rankOf } from "./rows.ts";

/** Label of a token that does not count. */
const IGNORED = new Set([-1, -100]);

/** Takes batches one by one; the rows grow by a few numbers per sample. */
export interface Collector {
  add(output: NdArray, labels: NdArray, samples: number): void;
  rows(): ClassRows | ValueRows;
  /** Whether the outputs are probabilities already; undefined before the first batch and for values. */
  readonly probabilities: boolean | undefined;
  /** Rows with NaN or infinite scores. */
  readonly notFinite: number;
}

/** The collector for labels of a kind; `output` is the output's name, for errors. */
export function collectorFor(labels: "classes" | "tokens" | "values", output: string): Collector {
  return labels === "values" ? new ValueCollector(output) : new ClassCollector(labels, output);
}

/** Names of a session's outputs that are arrays, not sequences or maps. */
export function tensorOutputs(session: Pick<Session, "outputs">): string[] {
  return session.outputs.filter((port) => port.dtype !== "undefined").map((port) => port.name);
}

/** Outputs of a model without a batch axis, run sample by sample, get one. */
export function withBatchAxis(array: NdArray, size: number): NdArray {
  return array.shape[0] === size || size !== 1 ? array : { ...array, shape: [1, ...array.shape] };
}

/** Collects class or token rows from scores. */
export class ClassCollector implements Collector {
  probabilities: boolean | undefined;
  notFinite = 0;
  readonly #task: "classes" | "tokens";
  readonly #name: string;
  readonly #labels: number[] = [];
  readonly #predicted: number[] = [];
  readonly #ranks: number[] = [];
  readonly #losses: number[] = [];
  readonly #samples: number[] = [];
  #seen = 0;
  #width = 0;

  /** `name` is the output's, for errors. */
  constructor(task: "classes" | "tokens", name: string) {
    this.#task = task;
    this.#name = name;
  }

  add(output: NdArray, labels: NdArray, samples: number): void {
    const targets = asNumbers(labels);
    const { scores, width } = scoreRows(output, this.#task === "tokens" ? targets.length : samples, this.#name);
    this.#width = width;
    this.probabilities ??= areProbabilities(scores, width);
    const perSample = targets.length / samples;
    for (let row = 0; row < targets.length; row++) {
      const label = targets[row] as number;
      if (this.#task === "tokens" && IGNORED.has(label)) continue;
      const sample = this.#seen + Math.floor(row / perSample);
      this.#check(label, sample);
      const offset = row * width;
      const guess = argmax(scores, offset, width);
      const loss = negativeLogLikelihood(scores, offset, width, label, this.probabilities);
      if (guess < 0 || !Number.isFinite(loss)) this.notFinite++;
      this.#labels.push(label);
      this.#predicted.push(guess);
      this.#ranks.push(rankOf(scores, offset, width, label));
      this.#losses.push(loss);
      this.#samples.push(sample);
    }
    this.#seen += samples;
  }

  #check(label: number, sample: number): void {
    if (Number.isInteger(label) && label >= 0 && label < this.#width) return;
    throw new PareError("bad-data", `Label out of range at sample ${sample}`, {
      where: `output '${this.#name}'`,
      found: `label ${label}`,
      expected: `a whole number from 0 to ${this.#width - 1}, the model having ${this.#width} classes`,
      help: "The data set does not belong to this model, or another output is meant (--output)",
    });
  }

  rows(): ClassRows {
    return {
      task: this.#task,
      classes: this.#width,
      labels: Int32Array.from(this.#labels),
      predicted: Int32Array.from(this.#predicted),
      ranks: Int32Array.from(this.#ranks),
      losses: Float64Array.from(this.#losses),
      samples: Int32Array.from(this.#samples),
    };
  }
}

/** Scores as `count` rows of equal width. A single column is the score of class 1 of two. */
function scoreRows(
  output: NdArray,
  count: number,
  name: string,
): { readonly scores: Float32Array; readonly width: number } {
  const scores = asFloat32(output);
  const width = scores.length / count;
  if (!Number.isInteger(width) || width === 0)
    throw new PareError("shape-mismatch", "The output does not have one row of scores per label", {
      where: `output '${name}'`,
      found: `shape ${formatShape(output.shape)} for ${count} labels`,
      help: "Choose another output (--output), or a data set with such labels",
    });
  if (width > 1) return { scores, width };
  const inside = scores.every((score) => score >= 0 && score <= 1);
  const pairs = new Float32Array(2 * count); // logits (0, x), or probabilities (1 − p, p)
  for (let row = 0; row < count; row++) {
    const score = scores[row] as number;
    pairs[2 * row] = inside ? 1 - score : 0;
    pairs[2 * row + 1] = score;
  }
  return { scores: pairs, width: 2 };
}

/** Collects errors of real-valued outputs. */
export class ValueCollector implements Collector {
  readonly probabilities: undefined;
  notFinite = 0;
  readonly #name: string;
  readonly #squared: number[] = [];
  readonly #absolute: number[] = [];

  constructor(name: string) {
    this.#name = name;
  }

  add(output: NdArray, labels: NdArray, samples: number): void {
    const values = asFloat32(output);
    const targets = asNumbers(labels);
    if (values.length !== targets.length)
      throw new PareError("shape-mismatch", "The output and the labels do not have the same number of elements", {
        where: `output '${this.#name}'`,
        found: `output ${formatShape(output.shape)}, labels ${formatShape(labels.shape)}`,
        help: "Choose another output (--output)",
      });
    const width = targets.length / samples;
    for (let sample = 0; sample < samples; sample++) {
      let squared = 0;
      let absolute = 0;
      for (let i = sample * width; i < (sample + 1) * width; i++) {
        const error = (values[i] as number) - (targets[i] as number);
        squared += error * error;
        absolute += Math.abs(error);
      }
      if (!Number.isFinite(squared)) this.notFinite++;
      this.#squared.push(squared / width);
      this.#absolute.push(absolute / width);
    }
  }

  rows(): ValueRows {
    return {
      task: "values",
      squaredErrors: Float64Array.from(this.#squared),
      absoluteErrors: Float64Array.from(this.#absolute),
    };
  }
}

/**
 * The output that labels speak of: the one named; else the first float output whose last axis (or all of a sample) has as
 * many elements as there are classes; else the first float output. Throws `bad-option` when there is none.
 */
export function chooseOutput(
  outputs: Readonly<Record<string, NdArray>>,
  samples: number,
  classes: number | undefined,
): string {
  const floats = Object.entries(outputs).filter(([, array]) => isFloat(array.dtype));
  const fitting = floats.find(
    ([, array]) =>
      classes !== undefined && (array.shape.at(-1) === classes || elementCount(array.shape) === samples * classes),
  );
  const chosen = fitting ?? floats[0];
  if (!chosen)
    throw new PareError("bad-option", "The model has no float output to judge", {
      found: Object.entries(outputs)
        .map(([name, array]) => `${name} ${array.dtype}`)
        .join(", "),
    });
  return chosen[0];
}
