/** Loss and accuracy of a model under training on held-out samples. */
import { inferShapes } from "../analyse/shapes.ts";
import { PareError } from "../base/error.ts";
import type { Batch, Dataset } from "../data/dataset.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Model } from "../ir/model.ts";
import { asNumbers } from "../run/arrays.ts";
import { dropPadding, feedChunks } from "../run/feeds.ts";
import type { Feeds, NdArray, Port, Resident, Session, SessionOptions } from "../run/session.ts";
import { lowerSimulated } from "./lower.ts";
import type { LossName } from "./losses/table.ts";
import { type OutputKind, scoresOf } from "./scores.ts";
import { type LossOptions, score, type Tally } from "./scoring.ts";

/** Opens a model on an engine. */
export type OpenSession = (model: Model, options?: SessionOptions) => Promise<Session>;

export interface Scores {
  /** Mean loss per sample, position or element, as the loss counts. */
  readonly loss: number;
  /** Share of rows whose highest score is their class, or of yes-no answers that are right; undefined for real values. */
  readonly accuracy?: number | undefined;
}

/** The inference form of a model whose trained weights are inputs, open on an engine. */
export class Evaluator {
  readonly #session: Session;
  readonly #resident: Resident;
  readonly #ports: readonly Port[];
  readonly #output: string;
  readonly #kind: OutputKind;

  private constructor(
    session: Session,
    resident: Resident,
    parts: { ports: readonly Port[]; output: string; kind: OutputKind },
  ) {
    this.#session = session;
    this.#resident = resident;
    this.#ports = parts.ports;
    this.#output = parts.output;
    this.#kind = parts.kind;
  }

  get kind(): OutputKind {
    return this.#kind;
  }

  /** `weights`: names of the initializers whose values come with every evaluation. */
  static async open(
    model: Model,
    weights: readonly string[],
    open: OpenSession,
    options: SessionOptions,
  ): Promise<Evaluator> {
    const copy = cloneModel(model);
    inferShapes(copy);
    lowerSimulated(copy);
    const { graph } = copy;
    const output = graph.outputs[0];
    if (!output) throw new PareError("bad-model", "The model has no output to evaluate");
    const names = new Set(graph.inputs.filter((input) => !input.tensor).map((input) => input.name));
    const state: Record<string, NdArray> = {};
    for (const name of weights) {
      const value = graph.initializers.get(name);
      if (!value?.tensor) continue;
      state[name] = { dtype: "float32", shape: value.tensor.shape, data: (await value.tensor.data()).slice() };
      graph.removeInitializer(value);
      value.tensor = undefined;
      if (!graph.inputs.includes(value)) graph.inputs.push(value);
    }
    graph.outputs.splice(1);
    const { kind } = scoresOf(output);
    const session = await open(copy, options);
    const ports = session.inputs.filter((port) => names.has(port.name));
    const resident = await session.resident(state, {});
    return new Evaluator(session, resident, { ports, output: output.name, kind });
  }

  /** Outputs for one batch, with the weights as last written. */
  async predict(batch: Pick<Batch, "size" | "fields">): Promise<{ scores: Float32Array; shape: readonly number[] }[]> {
    const parts: { scores: Float32Array; shape: readonly number[] }[] = [];
    for (const chunk of feedChunks(this.#ports, batch)) {
      const outputs = await this.#resident.step(chunk.feeds, [this.#output]);
      const array = dropPadding(outputs[this.#output] as NdArray, chunk);
      parts.push({ scores: array.data as Float32Array, shape: array.shape });
    }
    return parts;
  }

  /** Scores over a whole data set with these weights. */
  async evaluate(
    weights: Feeds,
    dataset: Dataset,
    options: {
      readonly batch: number;
      readonly loss: { readonly name: LossName; readonly options: LossOptions };
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<Scores> {
    await this.#resident.write(weights);
    const all: Tally = { loss: 0, count: 0, correct: undefined };
    for await (const batch of dataset.batches({ size: options.batch, signal: options.signal })) {
      if (!batch.labels) throw new PareError("bad-data", "The data has no labels", { where: dataset.name });
      const labels = asNumbers(batch.labels);
      const width = labels.length / batch.size;
      let at = 0;
      for (const { scores, shape } of await this.predict(batch)) {
        const part = score(options.loss.name, options.loss.options, this.#kind, { scores, shape, labels, at, width });
        all.loss += part.loss;
        all.count += part.count;
        if (part.correct !== undefined) all.correct = (all.correct ?? 0) + part.correct;
        at += (shape[0] ?? 1) * width;
      }
    }
    if (all.count === 0) throw new PareError("bad-data", "The data set is empty", { where: dataset.name });
    const { loss, count, correct } = all;
    return { loss: loss / count, accuracy: correct === undefined ? undefined : correct / count };
  }

  close(): Promise<void> {
    return this.#session.close();
  }
}
