/** A batch of samples as what each run of a step graph is fed. */
import { PareError } from "../base/error.ts";
import { formatShape } from "../base/shape.ts";
import { augment, augments } from "../data/augment.ts";
import type { Batch, Dataset } from "../data/dataset.ts";
import { distributions, mixes, mixSamples } from "../data/mix.ts";
import { asNumbers, convertArray, rowsOf } from "../run/arrays.ts";
import { feedChunks } from "../run/feeds.ts";
import type { NdArray, Port } from "../run/session.ts";
import { noiseFor } from "./dropout.ts";
import { IGNORED } from "./losses/cross-entropy.ts";
import type { StepGraph } from "./step-graph.ts";
import type { TeacherLogits } from "./teacher.ts";
import type { TrainOptions } from "./train-options.ts";

/** Where a batch stands in the run. */
export interface BatchPlace {
  /** From 0. */
  readonly epoch: number;
  /** Steps before it, over all epochs. */
  readonly step: number;
  /** Its samples, as indices of the data set. */
  readonly indices: Uint32Array;
}

export class BatchFeeds {
  readonly #graph: StepGraph;
  readonly #ports: readonly Port[];
  readonly #labels: Port | undefined;
  readonly #dataset: Dataset;
  readonly #teacher: TeacherLogits | undefined;
  readonly #options: TrainOptions;

  constructor(parts: {
    graph: StepGraph;
    inputs: readonly Port[];
    dataset: Dataset;
    teacher: TeacherLogits | undefined;
    options: TrainOptions;
  }) {
    const own = new Set(parts.graph.inputs);
    this.#graph = parts.graph;
    this.#ports = parts.inputs.filter(({ name }) => own.has(name));
    this.#labels = parts.inputs.find(({ name }) => name === parts.graph.labels);
    this.#dataset = parts.dataset;
    this.#teacher = parts.teacher;
    this.#options = parts.options;
  }

  /** The feeds of a step's runs, in order, without the scalars. */
  async feeds(read: Batch, place: BatchPlace): Promise<Record<string, NdArray>[]> {
    const batch = this.#changed(read, place);
    const chunks = feedChunks(this.#ports, batch);
    const runs = this.#options.accumulate ?? 1;
    if (chunks.length !== runs) throw new PareError("internal", `A training batch made ${chunks.length} runs`);
    const parts = chunks.map(({ feeds }) => ({ ...feeds }) as Record<string, NdArray>);
    const share = (array: NdArray, run: number): NdArray => {
      const rows = (array.shape[0] ?? runs) / runs;
      return runs === 1 ? array : rowsOf(array, run * rows, (run + 1) * rows);
    };
    const labels = this.#labels && this.#labelsOf(batch, this.#labels, runs);
    const { teacherLogits: logitsName, noise } = this.#graph;
    const logits = logitsName === undefined ? undefined : await this.#teacher?.logits(batch, place.indices);
    for (const [run, feeds] of parts.entries()) {
      if (labels && this.#labels) feeds[this.#labels.name] = share(labels, run);
      if (logits && logitsName !== undefined) feeds[logitsName] = share(logits, run);
      if (noise) feeds[noise.name] = noiseFor(noise, this.#options.seed ?? 1, place.step * runs + run);
    }
    return parts;
  }

  /** The batch with its random changes. */
  #changed(batch: Batch, { epoch, step, indices }: BatchPlace): Batch {
    const { augment: how, seed = 1 } = this.#options;
    if (!how) return batch;
    const changed = augments(how) ? augment(batch, how, { seed, epoch, indices }) : batch;
    return mixes(how) ? mixSamples(changed, how, { seed, epoch, step }, this.#softClasses()) : changed;
  }

  /** Number of classes where indices are fed as distributions. */
  #softClasses(): number | undefined {
    return this.#dataset.labels === "classes" && this.#labels?.dtype === "float32" && this.#graph.labelKind === "soft"
      ? (this.#labels.shape.at(-1) as number)
      : undefined;
  }

  /** Labels as the loss wants them, for all runs together; indices each within the model's classes. */
  #labelsOf(batch: Batch, port: Port, runs: number): NdArray {
    if (!batch.labels) throw new PareError("bad-data", "Training needs labels", { where: this.#dataset.name });
    const soft = this.#softClasses();
    const labels = soft === undefined ? batch.labels : distributions(batch.labels, soft);
    const array = convertArray(labels, port.dtype);
    const [rows = 1, ...rest] = port.shape as readonly number[];
    const shape = [rows * runs, ...rest];
    if (array.data.length !== shape.reduce((n, size) => n * size, 1))
      throw new PareError("shape-mismatch", "The labels do not fit the model's output", {
        where: this.#dataset.name,
        found: `labels of shape ${formatShape(labels.shape)}`,
        expected: formatShape(shape),
      });
    if (port.dtype === "int64" && this.#graph.classes !== undefined) this.#checkRange(labels, rest.length > 0);
    return { ...array, shape };
  }

  #checkRange(labels: NdArray, several: boolean): void {
    const classes = this.#graph.classes ?? 0;
    const padding = this.#graph.labelKind === "sequences" ? -1 : several ? IGNORED : undefined;
    const values = asNumbers(labels);
    for (let i = 0; i < values.length; i++) {
      const value = values[i] ?? -1;
      if ((value >= 0 && value < classes) || value === padding) continue;
      throw new PareError("bad-data", "A label is out of range", {
        where: this.#dataset.name,
        found: `label ${value}`,
        expected: `0 to ${classes - 1}: the model has ${classes} outputs`,
        help: "Give the architecture as many classes as the data has",
      });
    }
  }
}
