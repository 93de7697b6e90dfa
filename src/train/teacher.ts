/** Logits of a teacher on the training samples: computed once per sample and remembered where they fit. */
import { PareError } from "../base/error.ts";
import { formatShape } from "../base/shape.ts";
import type { Batch, Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import type { NdArray, SessionOptions } from "../run/session.ts";
import { Evaluator, type OpenSession } from "./evaluator.ts";

const MAX_REMEMBERED_BYTES = 256 * 2 ** 20;

/** A teacher that answers for samples of one data set. Its output may be logits, or a Softmax or LogSoftmax of them. */
export class TeacherLogits {
  readonly #evaluator: Evaluator;
  readonly #samples: number;
  #remembered: Float32Array | undefined;
  readonly #known: Uint8Array;
  #width = 0;

  private constructor(evaluator: Evaluator, samples: number) {
    this.#evaluator = evaluator;
    this.#samples = samples;
    this.#known = new Uint8Array(samples);
  }

  /** `remember`: the samples do not change from epoch to epoch, so that each is asked about once. */
  static async open(
    model: Model,
    dataset: Dataset,
    open: OpenSession,
    options: SessionOptions,
    remember: boolean,
  ): Promise<TeacherLogits> {
    return new TeacherLogits(await Evaluator.open(model, [], open, options), remember ? dataset.size : 0);
  }

  /** Logits of a batch that consists of these samples; ln p where the teacher gives probabilities, which softmax undoes. */
  async logits(batch: Batch, indices: Uint32Array): Promise<NdArray> {
    const memory = this.#remembered;
    if (memory && indices.every((index) => this.#known[index] === 1)) {
      const data = new Float32Array(indices.length * this.#width);
      for (const [row, index] of indices.entries())
        data.set(memory.subarray(index * this.#width, (index + 1) * this.#width), row * this.#width);
      return { dtype: "float32", shape: [indices.length, this.#width], data };
    }
    const parts = await this.#evaluator.predict(batch);
    const shape = parts[0]?.shape ?? [];
    const width = shape.slice(1).reduce((n, size) => n * size, 1);
    const data = new Float32Array(batch.size * width);
    let at = 0;
    for (const { scores } of parts) {
      data.set(scores, at);
      at += scores.length;
    }
    if (at !== data.length)
      throw new PareError("shape-mismatch", "The teacher's output has no row per sample", {
        found: formatShape(shape),
      });
    if (this.#evaluator.kind === "probabilities")
      for (let i = 0; i < data.length; i++) data[i] = Math.log(Math.max(data[i] ?? 0, 1e-12));
    if (shape.length === 2) this.#remember(data, indices, width);
    return { dtype: "float32", shape: [batch.size, ...shape.slice(1)], data };
  }

  #remember(data: Float32Array, indices: Uint32Array, width: number): void {
    if (this.#samples === 0 || this.#samples * width * 4 > MAX_REMEMBERED_BYTES) return;
    this.#width = width;
    const memory = (this.#remembered ??= new Float32Array(this.#samples * width));
    for (const [row, index] of indices.entries()) {
      memory.set(data.subarray(row * width, (row + 1) * width), index * width);
      this.#known[index] = 1;
    }
  }

  close(): Promise<void> {
    return this.#evaluator.close();
  }
}
