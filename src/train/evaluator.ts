/** Loss and accuracy of a model under training on held-out samples. */
import { PareError } from "../base/error.ts";
import type { Batch, Dataset } from "../data/dataset.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Model } from "../ir/model.ts";
import { asNumbers } from "../run/arrays.ts";
import { dropPadding, feedChunks } from "../run/feeds.ts";
import type { Feeds, NdArray, Port, Resident, Session, SessionOptions } from "../run/session.ts";
import type { LossName } from "./losses.ts";
import { logitsOf } from "./step-graph.ts";

/** Opens a model on an engine. */
export type OpenSession = (model: Model, options?: SessionOptions) => Promise<Session>;

export interface Scores {
  /** Mean loss per sample. */
  readonly loss: number;
  /** Share of samples whose highest score is their class; undefined without classes. */
  readonly accuracy?: number | undefined;
}

/** The inference form of a model whose trained weights are inputs, open on an engine. */
export class Evaluator {
  readonly #session: Session;
  readonly #resident: Resident;
  readonly #ports: readonly Port[];
  readonly #output: string;
  readonly #loss: LossName;
  readonly #kind: "logits" | "probabilities" | "log-probabilities";

  private constructor(
    session: Session,
    resident: Resident,
    parts: { ports: readonly Port[]; output: string; loss: LossName; kind: Evaluator["kind"] },
  ) {
    this.#session = session;
    this.#resident = resident;
    this.#ports = parts.ports;
    this.#output = parts.output;
    this.#loss = parts.loss;
    this.#kind = parts.kind;
  }

  get kind(): "logits" | "probabilities" | "log-probabilities" {
    return this.#kind;
  }

  /** `weights`: names of the initializers whose values come with every evaluation. */
  static async open(
    model: Model,
    weights: readonly string[],
    loss: LossName,
    open: OpenSession,
    options: SessionOptions,
  ): Promise<Evaluator> {
    const copy = cloneModel(model);
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
    const logits = logitsOf(output);
    const kind =
      logits === output ? "logits" : output.producer?.opType === "Softmax" ? "probabilities" : "log-probabilities";
    const session = await open(copy, options);
    const ports = session.inputs.filter((port) => names.has(port.name));
    const resident = await session.resident(state, {});
    return new Evaluator(session, resident, { ports, output: output.name, loss, kind });
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
    options: { readonly batch: number; readonly signal?: AbortSignal | undefined; onBatch?(done: number): void },
  ): Promise<Scores> {
    await this.#resident.write(weights);
    let [samples, elements, lossSum, correct] = [0, 0, 0, 0];
    for await (const batch of dataset.batches({ size: options.batch, signal: options.signal })) {
      if (!batch.labels) throw new PareError("bad-data", "The data has no labels", { where: dataset.name });
      const labels = asNumbers(batch.labels);
      let at = 0;
      for (const { scores, shape } of await this.predict(batch)) {
        const part = this.#score(scores, shape, labels, at);
        lossSum += part.loss;
        correct += part.correct;
        elements += part.elements;
        at += part.labels;
      }
      samples += batch.size;
      options.onBatch?.(samples);
    }
    if (elements === 0) throw new PareError("bad-data", "The data set is empty", { where: dataset.name });
    return { loss: lossSum / elements, accuracy: this.#loss === "mse" ? undefined : correct / elements };
  }

  /** Sums over one chunk: squared errors, or −ln p of the right class and hits. */
  #score(
    scores: Float32Array,
    shape: readonly number[],
    labels: ArrayLike<number>,
    at: number,
  ): { loss: number; correct: number; elements: number; labels: number } {
    let [loss, correct] = [0, 0];
    if (this.#loss === "mse") {
      for (let i = 0; i < scores.length; i++) loss += ((scores[i] ?? 0) - (labels[at + i] ?? 0)) ** 2;
      return { loss, correct, elements: scores.length, labels: scores.length };
    }
    const classes = shape.at(-1) ?? 1;
    const rows = scores.length / classes;
    for (let row = 0; row < rows; row++) {
      const line = scores.subarray(row * classes, (row + 1) * classes);
      const label = labels[at + row] ?? 0;
      let best = 0;
      for (let k = 1; k < classes; k++) if ((line[k] ?? 0) > (line[best] ?? 0)) best = k;
      if (best === label) correct++;
      const own = line[label] ?? Number.NaN;
      if (this.#kind === "probabilities") loss -= Math.log(Math.max(own, 1e-12));
      else if (this.#kind === "log-probabilities") loss -= own;
      else {
        let sum = 0;
        for (let k = 0; k < classes; k++) sum += Math.exp((line[k] ?? 0) - (line[best] ?? 0));
        loss += Math.log(sum) + (line[best] ?? 0) - own;
      }
    }
    return { loss, correct, elements: rows, labels: rows };
  }

  close(): Promise<void> {
    return this.#session.close();
  }
}
