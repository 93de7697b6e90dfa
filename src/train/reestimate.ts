/** BatchNormalization's statistics measured anew: after weights have changed by other means than training steps. */
import { inferShapes } from "../analyse/shapes.ts";
import { throwIfAborted } from "../base/error.ts";
import { elementCount, isConcrete } from "../base/shape.ts";
import type { Dataset } from "../data/dataset.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { feedChunks } from "../run/feeds.ts";
import type { Provider } from "../run/session.ts";
import { type BatchStatistics, useBatchStatistics } from "./batch-statistics.ts";
import { bindBatch } from "./bind-batch.ts";
import type { OpenSession } from "./evaluator.ts";
import { lowerSimulated } from "./lower.ts";
import { removeUnused } from "./remove-unused.ts";
import { StepState } from "./step-state.ts";

export interface ReestimateOptions {
  /** Samples per run; default 128 (all of them where there are fewer). */
  readonly batch?: number | undefined;
  /** Runs; default 20 (as many as the data fills where there are fewer). */
  readonly batches?: number | undefined;
  /** Of the order in which samples are drawn; default 1. */
  readonly seed?: number | undefined;
  readonly threads?: number | undefined;
  readonly provider?: Provider | undefined;
  readonly inProcess?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Replaces mean and variance of every BatchNormalization by those of its input over some batches of samples, each layer fed
 * by layers that normalize with the batch's own statistics. The mean of n samples in k batches is that of the batches'
 * means; the variance is E[v + m²] − E[m]², made unbiased. Returns the names of the tensors that changed (none without a
 * BatchNormalization); weights stay. Throws `unsupported` below opset 14.
 */
export async function reestimateBatchNorm(
  model: Model,
  dataset: Dataset,
  options: ReestimateOptions,
  open: OpenSession,
): Promise<readonly string[]> {
  const copy = cloneModel(model);
  const { graph } = copy;
  const batch = Math.min(options.batch ?? 128, dataset.size);
  const batches = Math.min(options.batches ?? 20, Math.floor(dataset.size / batch));
  bindBatch(graph, batch);
  const own = new Set(graph.inputs.filter((input) => !input.tensor).map(({ name }) => name));
  const state = new StepState(graph);
  const statistics = useBatchStatistics(graph, copy.opset, state);
  if (statistics.length === 0 || batches === 0) return [];
  inferShapes(copy);
  lowerSimulated(copy);
  graph.outputs.splice(0, graph.outputs.length, ...statistics.flatMap((each) => each.batch));
  removeUnused(graph, graph.nodes);
  state.dropUnused();
  const session = await open(copy, options);
  try {
    const resident = await session.resident(await state.initial(), {});
    const ports = session.inputs.filter(({ name }) => own.has(name));
    const sums = statistics.map((each) => new Moments(each));
    let run = 0;
    for await (const samples of dataset.batches({ size: batch, dropLast: true, seed: options.seed ?? 1 })) {
      if (run++ === batches) break;
      throwIfAborted(options.signal);
      const feeds = feedChunks(ports, samples)[0]?.feeds ?? {};
      const outputs = await resident.step(feeds);
      for (const each of sums) each.add((name) => outputs[name]?.data as Float32Array);
    }
    return sums.flatMap((each) => each.write(model));
  } finally {
    await session.close();
  }
}

/** Sums of one layer's statistics over batches, per channel. */
class Moments {
  readonly #of: BatchStatistics;
  readonly #means: Float64Array;
  readonly #squares: Float64Array;
  #count = 0;

  constructor(of: BatchStatistics) {
    const shape = of.running[0].shape;
    const channels = isConcrete(shape) ? elementCount(shape) : 0;
    this.#of = of;
    this.#means = new Float64Array(channels);
    this.#squares = new Float64Array(channels);
  }

  add(data: (name: string) => Float32Array): void {
    const [mean, variance] = this.#of.batch.map(({ name }) => data(name)) as [Float32Array, Float32Array];
    for (const [c, m] of mean.entries()) {
      this.#means[c] = (this.#means[c] ?? 0) + m;
      this.#squares[c] = (this.#squares[c] ?? 0) + (variance[c] ?? 0) + m * m;
    }
    this.#count++;
  }

  write(model: Model): string[] {
    const k = this.#count;
    const shape = this.#of.node.inputs[0]?.shape ?? [];
    const perBatch = shape.reduce<number>((n, dim, axis) => (axis === 1 ? n : n * Number(dim)), 1);
    const n = perBatch * k;
    const unbiased = n > 1 && Number.isFinite(n) ? n / (n - 1) : 1;
    const mean = Float32Array.from(this.#means, (sum) => sum / k);
    const variance = Float32Array.from(this.#squares, (sum, c) => {
      const m = (this.#means[c] ?? 0) / k;
      return Math.max(0, sum / k - m * m) * unbiased;
    });
    return this.#of.running.map(({ name }, i) => {
      const value = model.graph.initializers.get(name);
      if (value) value.tensor = Tensor.float32([mean.length], i === 0 ? mean : variance);
      return name;
    });
  }
}
