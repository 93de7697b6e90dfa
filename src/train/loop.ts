/** The training loop: seeded batches through the step graph, evaluation, best weights, checkpoints. */
import { PareError, throwIfAborted } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { formatShape } from "../base/shape.ts";
import type { Batch, Dataset } from "../data/dataset.ts";
import { fingerprint } from "../ir/fingerprint.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { asNumbers, convertArray } from "../run/arrays.ts";
import { feedChunks } from "../run/feeds.ts";
import type { NdArray, Port, Provider, Resident, Session, SessionOptions } from "../run/session.ts";
import type { Arrays, Checkpoint, CheckpointStore, EpochRecord } from "./checkpoint.ts";
import { Evaluator, type OpenSession, type Scores } from "./evaluator.ts";
import { trainableParameters, zeroMasks } from "./parameters.ts";
import { learningRateAt, type ScheduleOptions } from "./schedule.ts";
import { buildStepGraph, type StepGraph, type StepOptions } from "./step-graph.ts";
import { TeacherLogits } from "./teacher.ts";

/** A word on how far training is. */
export interface TrainProgress {
  readonly stage: string;
  /** Steps done, and all. */
  readonly done: number;
  readonly total: number;
  /** Extrapolated from the steps of this process. */
  readonly secondsLeft: number;
  /** Loss of the last step. */
  readonly loss: number;
}

export interface TrainOptions extends Omit<StepOptions, "batch" | "teacher" | "masks" | "parameters">, ScheduleOptions {
  /** Passes over the data; default 10. */
  readonly epochs?: number | undefined;
  /** Samples per step; default 128 (all of them where there are fewer). What does not fill a batch is left out of an epoch. */
  readonly batch?: number | undefined;
  /** Highest learning rate; default 0.05 for SGD, 0.001 for Adam and AdamW. */
  readonly learningRate?: number | undefined;
  /** Default 1. */
  readonly seed?: number | undefined;
  /** Evaluated after every epoch. */
  readonly validation?: Dataset | undefined;
  /** End with the weights of the epoch that scored best on the validation data; default true when there is any. */
  readonly keepBest?: boolean | undefined;
  /** True for weights that must not change, by name. */
  readonly frozen?: ((name: string) => boolean) | undefined;
  /** Keep zeros of weights that pruning has thinned at zero; default true. */
  readonly maskZeros?: boolean | undefined;
  /** A model on the same inputs whose logits are learned too: (1 − share)·loss + share·T²·KL. */
  readonly teacher?: { readonly model: Model; readonly share: number; readonly temperature: number } | undefined;
  readonly threads?: number | undefined;
  readonly provider?: Provider | undefined;
  /** Run the engine in the calling thread; default false: a worker, so that timers and Ctrl-C stay alive. */
  readonly inProcess?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: TrainProgress) => void) | undefined;
  readonly onEpoch?: ((record: EpochRecord) => void) | undefined;
  /** Where to keep checkpoints; none are kept without it. */
  readonly checkpoints?: CheckpointStore | undefined;
  /** Go on from the checkpoint in the store if there is one; default false. */
  readonly resume?: boolean | undefined;
  /** Seconds between checkpoints within an epoch; default 30. Every epoch ends with one. */
  readonly checkpointSeconds?: number | undefined;
}

export interface TrainResult {
  readonly epochs: readonly EpochRecord[];
  /** The epoch whose weights the model has now. */
  readonly best: EpochRecord;
  readonly secondsPerStep: number;
  readonly steps: number;
  /** Names of the weights that were trained, and of those held at zero by a mask. */
  readonly trained: readonly string[];
  readonly masked: readonly string[];
}

/** Passes over the data where nobody says how many. */
export const DEFAULT_EPOCHS = 10;
const YIELD_SECONDS = 0.05; // an engine in the calling thread lets timers and signals in this often

/**
 * Trains a model on a data set: its initializers are replaced by the trained ones; names, structure and sharing stay.
 * The same model, data, options and seed give the same weights, also when interrupted and resumed. Throws `bad-data` for
 * data without labels or with labels out of range, `shape-mismatch`, `not-differentiable`, `unsupported`, `aborted`.
 */
export async function trainModel(
  model: Model,
  dataset: Dataset,
  options: TrainOptions,
  open: OpenSession,
): Promise<TrainResult> {
  if (dataset.size === 0) throw new PareError("bad-data", "The data set is empty", { where: dataset.name });
  if (!dataset.labels && options.loss !== "mse" && !(options.teacher && options.teacher.share === 1))
    throw new PareError("bad-data", "Training needs labels", { where: dataset.name });
  const run = await Run.start(model, dataset, options, open);
  try {
    await run.train();
    return await run.finish(model);
  } finally {
    await run.close();
  }
}

class Run {
  readonly #dataset: Dataset;
  readonly #options: TrainOptions;
  readonly #graph: StepGraph;
  readonly #session: Session;
  readonly #resident: Resident;
  readonly #ports: readonly Port[];
  readonly #evaluator: Evaluator | undefined;
  readonly #teacher: TeacherLogits | undefined;
  readonly #masked: readonly string[];
  readonly #key: string;
  readonly #batch: number;
  readonly #stepsPerEpoch: number;
  readonly #steps: number;
  readonly #classes: number | undefined;
  #step = 0;
  #lossSum = 0;
  #lastLoss = Number.NaN;
  #epochSeconds = 0;
  #stepSeconds = 0;
  #epochs: EpochRecord[] = [];
  #best: { epoch: number; score: number } | undefined;
  #bestWeights: Arrays | undefined;
  #startedAt = performance.now();
  #startedStep = 0;

  private constructor(parts: {
    dataset: Dataset;
    options: TrainOptions;
    graph: StepGraph;
    session: Session;
    resident: Resident;
    evaluator: Evaluator | undefined;
    teacher: TeacherLogits | undefined;
    masked: readonly string[];
    key: string;
    batch: number;
  }) {
    this.#dataset = parts.dataset;
    this.#options = parts.options;
    this.#graph = parts.graph;
    this.#session = parts.session;
    this.#resident = parts.resident;
    this.#evaluator = parts.evaluator;
    this.#teacher = parts.teacher;
    this.#masked = parts.masked;
    this.#key = parts.key;
    this.#batch = parts.batch;
    const fed = new Set([...Object.keys(parts.graph.links), parts.graph.labels, parts.graph.teacherLogits]);
    const scalars = new Set(Object.keys(parts.graph.scalars(0, 0)));
    this.#ports = parts.session.inputs.filter(({ name }) => !fed.has(name) && !scalars.has(name));
    this.#stepsPerEpoch = Math.floor(parts.dataset.size / parts.batch);
    this.#steps = this.#stepsPerEpoch * (parts.options.epochs ?? DEFAULT_EPOCHS);
    this.#classes = parts.graph.classes;
  }

  static async start(model: Model, dataset: Dataset, options: TrainOptions, open: OpenSession): Promise<Run> {
    const { threads, provider, inProcess, teacher } = options;
    const sessionOptions: SessionOptions = { threads, provider, inProcess };
    const batch = Math.min(options.batch ?? 128, dataset.size);
    const names = trainableParameters(model)
      .map((value) => value.name)
      .filter((name) => !options.frozen?.(name));
    const masks = options.maskZeros === false ? undefined : await zeroMasks(model, names);
    const graph = buildStepGraph(model, { ...options, batch, parameters: names, masks, teacher });
    const key = JSON.stringify([
      await fingerprint(model),
      dataset.name,
      dataset.size,
      batch,
      ...RUN_KEYS.map((name) => options[name] ?? null),
      teacher ? [await fingerprint(teacher.model), teacher.share, teacher.temperature] : null,
      names,
    ]);
    const opened: { close(): Promise<void> }[] = [];
    try {
      const session = await open(graph.model, sessionOptions);
      opened.push(session);
      const resident = await session.resident(await graph.initialState(), graph.links);
      let evaluator: Evaluator | undefined;
      if (options.validation) {
        evaluator = await Evaluator.open(model, graph.weights, options.loss ?? "cross-entropy", open, sessionOptions);
        opened.push(evaluator);
      }
      let logits: TeacherLogits | undefined;
      if (teacher) {
        logits = await TeacherLogits.open(teacher.model, dataset, open, sessionOptions);
        opened.push(logits);
      }
      const masked = [...(masks?.keys() ?? [])];
      return new Run({ dataset, options, graph, session, resident, evaluator, teacher: logits, masked, key, batch });
    } catch (error) {
      for (const each of opened) await each.close();
      throw error;
    }
  }

  async train(): Promise<void> {
    const { checkpoints, resume, checkpointSeconds = 30 } = this.#options;
    if (checkpoints && resume) await this.#resume(checkpoints);
    this.#startedAt = performance.now();
    this.#startedStep = this.#step;
    let saved = performance.now();
    while (this.#step < this.#steps) {
      const epoch = Math.floor(this.#step / this.#stepsPerEpoch);
      const end = (epoch + 1) * this.#stepsPerEpoch;
      const order = this.#order(epoch);
      while (this.#step < end) {
        const pause = saved + checkpointSeconds * 1000;
        await this.#runSteps(order, end, checkpoints ? pause : Number.POSITIVE_INFINITY);
        if (checkpoints && this.#step < end) {
          await checkpoints.write(await this.#checkpoint());
          saved = performance.now();
        }
      }
      await this.#endEpoch(epoch + 1);
      if (checkpoints) {
        await checkpoints.write(await this.#checkpoint());
        saved = performance.now();
      }
    }
  }

  /** Samples of an epoch in its order: a permutation that depends on the seed and the epoch alone. */
  #order(epoch: number): Uint32Array {
    const order = Uint32Array.from({ length: this.#dataset.size }, (_, i) => i);
    return new Rng(this.#options.seed ?? 1).fork(`epoch ${epoch}`).shuffle(order);
  }

  /** Steps up to `end`, or until the clock passes `pause`; reading runs ahead of computing. */
  async #runSteps(order: Uint32Array, end: number, pause: number): Promise<void> {
    const first = this.#step;
    const offset = first - (first % this.#stepsPerEpoch);
    const started = performance.now();
    let pending: Promise<Record<string, NdArray>> | undefined;
    let issued = first;
    let yielded = started;
    const settle = async (): Promise<void> => {
      if (!pending) return;
      const outputs = await pending;
      pending = undefined;
      const fetched = outputs[this.#graph.loss]?.data as Float32Array | undefined;
      const loss = fetched?.[0] ?? Number.NaN;
      if (!Number.isFinite(loss))
        throw new PareError("unsupported", "Training diverged: the loss is not a number", {
          where: `step ${this.#step + 1}`,
          found: String(loss),
          help: "Lower the learning rate, add a warm-up, or scale the samples in the data's name (scale=255)",
        });
      this.#lossSum += loss;
      this.#lastLoss = loss;
      this.#step++;
    };
    const take = (step: number): Promise<Batch> =>
      this.#dataset.take([...order.subarray((step - offset) * this.#batch, (step - offset + 1) * this.#batch)]);
    let next: Promise<Batch> | undefined = take(issued);
    try {
      while (issued < end && (issued === first || performance.now() < pause)) {
        throwIfAborted(this.#options.signal);
        const batch = await (next as Promise<Batch>);
        const at = issued - offset;
        const feeds = await this.#feeds(batch, order.subarray(at * this.#batch, (at + 1) * this.#batch), issued);
        await settle(); // a step reads what the one before it has written
        pending = this.#resident.step(feeds, [this.#graph.loss]);
        issued++;
        next = issued < end ? take(issued) : undefined;
        if (performance.now() - yielded > YIELD_SECONDS * 1000) {
          await new Promise((resolve) => setTimeout(resolve, 0));
          yielded = performance.now();
          this.#report();
        }
      }
      await settle();
    } finally {
      await Promise.allSettled([pending, next]);
      const seconds = (performance.now() - started) / 1000;
      this.#epochSeconds += seconds;
      this.#stepSeconds += seconds;
    }
    this.#report();
  }

  async #feeds(batch: Batch, indices: Uint32Array, step: number): Promise<Record<string, NdArray>> {
    const [chunk, ...more] = feedChunks(this.#ports, batch);
    if (!chunk || more.length > 0) throw new PareError("internal", "A training batch did not fit one run");
    const rate = learningRateAt(step, this.#steps, this.#options.learningRate ?? this.#defaultRate(), this.#options);
    const feeds: Record<string, NdArray> = { ...chunk.feeds, ...this.#graph.scalars(step, rate) };
    const port = this.#session.inputs.find(({ name }) => name === this.#graph.labels);
    if (port) {
      if (!batch.labels) throw new PareError("bad-data", "Training needs labels", { where: this.#dataset.name });
      feeds[port.name] = this.#labels(batch.labels, port);
    }
    if (this.#teacher && this.#graph.teacherLogits)
      feeds[this.#graph.teacherLogits] = await this.#teacher.logits(batch, indices);
    return feeds;
  }

  /** Labels as the loss wants them, each within the model's classes. */
  #labels(labels: NdArray, port: Port): NdArray {
    const array = convertArray(labels, port.dtype);
    const shape = port.shape as readonly number[];
    if (array.data.length !== shape.reduce((n, size) => n * size, 1))
      throw new PareError("shape-mismatch", "The labels do not fit the model's output", {
        where: this.#dataset.name,
        found: `labels of shape ${formatShape(labels.shape)}`,
        expected: formatShape(shape),
      });
    if (port.dtype === "int64" && this.#classes !== undefined) {
      const values = asNumbers(labels);
      for (let i = 0; i < values.length; i++)
        if (!((values[i] ?? -1) >= 0 && (values[i] ?? -1) < this.#classes))
          throw new PareError("bad-data", "A label is out of range", {
            where: this.#dataset.name,
            found: `label ${values[i]}`,
            expected: `0 to ${this.#classes - 1}: the model has ${this.#classes} outputs`,
            help: "Give the architecture as many classes as the data has",
          });
    }
    return { ...array, shape };
  }

  #defaultRate(): number {
    return (this.#options.optimizer ?? "sgd") === "sgd" ? 0.05 : 0.001;
  }

  #report(stage?: string): void {
    const done = this.#step;
    const pace = (performance.now() - this.#startedAt) / 1000 / Math.max(1, done - this.#startedStep);
    const epoch = Math.min(Math.floor(done / this.#stepsPerEpoch) + 1, this.#options.epochs ?? DEFAULT_EPOCHS);
    this.#options.onProgress?.({
      stage: stage ?? `training, epoch ${epoch} of ${this.#options.epochs ?? DEFAULT_EPOCHS}`,
      done,
      total: this.#steps,
      secondsLeft: pace * (this.#steps - done),
      loss: this.#lastLoss,
    });
  }

  async #endEpoch(epoch: number): Promise<void> {
    const started = performance.now();
    let scores: Scores | undefined;
    const { validation, signal } = this.#options;
    if (validation && this.#evaluator) {
      const weights = await this.#resident.read(this.#graph.weights);
      scores = await this.#evaluator.evaluate(weights, validation, { batch: this.#batch, signal });
      const score = scores.accuracy ?? -scores.loss;
      // Of equal scores the later one counts: it has seen more data.
      if ((this.#options.keepBest ?? true) && (!this.#best || score >= this.#best.score)) {
        this.#best = { epoch, score };
        this.#bestWeights = asArrays(weights);
      }
    }
    this.#epochSeconds += (performance.now() - started) / 1000;
    const metrics: Record<string, number> = {};
    if (scores?.accuracy !== undefined) metrics["accuracy"] = scores.accuracy;
    if (scores) metrics["loss"] = scores.loss;
    const record = { epoch, loss: this.#lossSum / this.#stepsPerEpoch, metrics, seconds: this.#epochSeconds };
    this.#epochs.push(record);
    this.#lossSum = 0;
    this.#epochSeconds = 0;
    this.#options.onEpoch?.(record);
  }

  async #checkpoint(): Promise<Checkpoint> {
    return {
      run: this.#key,
      step: this.#step,
      lossSum: this.#lossSum,
      epochs: this.#epochs,
      epochSeconds: this.#epochSeconds,
      stepSeconds: this.#stepSeconds,
      best: this.#best,
      state: asArrays(await this.#resident.read()),
      bestWeights: this.#bestWeights,
    };
  }

  async #resume(store: CheckpointStore): Promise<void> {
    const checkpoint = await store.read();
    if (!checkpoint) return;
    if (checkpoint.run !== this.#key)
      throw new PareError("bad-option", "The checkpoint belongs to another run", {
        help: "Resume with the model, data and options that it was started with, or start again without resuming",
      });
    await this.#resident.write(asFeeds(checkpoint.state));
    this.#step = checkpoint.step;
    this.#lossSum = checkpoint.lossSum;
    this.#epochs = [...checkpoint.epochs];
    this.#epochSeconds = checkpoint.epochSeconds;
    this.#stepSeconds = checkpoint.stepSeconds;
    this.#best = checkpoint.best ? { ...checkpoint.best } : undefined;
    this.#bestWeights = checkpoint.bestWeights;
  }

  /** Writes the trained weights into the model. */
  async finish(model: Model): Promise<TrainResult> {
    const weights = this.#bestWeights ?? asArrays(await this.#resident.read(this.#graph.weights));
    for (const [name, { shape, data }] of Object.entries(weights)) {
      const value = model.graph.initializers.get(name);
      if (value) value.tensor = Tensor.of("float32", shape, data);
    }
    const record = this.#epochs[(this.#best?.epoch ?? this.#epochs.length) - 1];
    return {
      epochs: this.#epochs,
      best: record ?? { epoch: 0, loss: Number.NaN, metrics: {}, seconds: 0 },
      secondsPerStep: this.#stepSeconds / Math.max(1, this.#step),
      steps: this.#step,
      trained: this.#graph.weights,
      masked: this.#masked,
    };
  }

  async close(): Promise<void> {
    await this.#session.close();
    await this.#evaluator?.close();
    await this.#teacher?.close();
  }
}

/** Options that decide the weights. */
const RUN_KEYS = [
  "epochs",
  "learningRate",
  "seed",
  "optimizer",
  "momentum",
  "nesterov",
  "weightDecay",
  "beta1",
  "beta2",
  "epsilon",
  "schedule",
  "warmup",
  "milestones",
  "decay",
  "loss",
  "labelSmoothing",
  "batchNorm",
  "statisticsMomentum",
  "maskZeros",
] as const satisfies readonly (keyof TrainOptions)[];

function asArrays(values: Readonly<Record<string, NdArray>>): Arrays {
  return Object.fromEntries(
    Object.entries(values).map(([name, { shape, data }]) => [name, { shape, data: data as Float32Array }]),
  );
}

function asFeeds(arrays: Arrays): Record<string, NdArray> {
  return Object.fromEntries(
    Object.entries(arrays).map(([name, { shape, data }]) => [name, { dtype: "float32" as const, shape, data }]),
  );
}
