/** A training run: epochs of steps, evaluation, the best weights, early stopping, checkpoints. */
import { PareError, throwIfAborted } from "../base/error.ts";
import type { Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import type { NdArray } from "../run/session.ts";
import type { Arrays, Checkpoint, CheckpointStore, EpochRecord } from "./checkpoint.ts";
import { Evaluator, type OpenSession, type Scores } from "./evaluator.ts";
import type { LossName } from "./losses/table.ts";
import { termsOf } from "./objective.ts";
import { learningRateAt } from "./schedule.ts";
import type { LossOptions } from "./scoring.ts";
import { type StepFeeds, Stepper } from "./stepper.ts";
import { DEFAULT_EPOCHS, type TrainOptions, type TrainResult } from "./train-options.ts";

const MOST_OVERFLOWS = 40; // halvings after which no scale of the loss is left that could help
const SCALE_CHECK_STEPS = 100; // the scale of the loss is looked at this often, so that a lost run ends early
const YIELD_SECONDS = 0.05; // an engine in the calling thread lets timers and signals in this often

export class TrainingRun {
  readonly #options: TrainOptions;
  readonly #stepper: Stepper;
  readonly #evaluator: Evaluator | undefined;
  readonly #loss: { readonly name: LossName; readonly options: LossOptions };
  readonly #byAccuracy: boolean;
  readonly #epochCount: number;
  readonly #steps: number;
  #step = 0;
  #lossSum = 0;
  /** Loss of the last step that had a finite one. */
  #lastLoss: number | undefined;
  #overflows = 0;
  #epochSeconds = 0;
  #stepSeconds = 0;
  #epochs: EpochRecord[] = [];
  #best: { epoch: number; score: number } | undefined;
  /** The score that patience compares with, and the epochs since. */
  #patience: { score: number | undefined; epochs: number } = { score: undefined, epochs: 0 };
  #bestWeights: Arrays | undefined;
  #startedAt = performance.now();
  #startedStep = 0;

  private constructor(options: TrainOptions, dataset: Dataset, stepper: Stepper, evaluator: Evaluator | undefined) {
    this.#options = options;
    this.#stepper = stepper;
    this.#evaluator = evaluator;
    this.#loss = evaluationLoss(options);
    this.#byAccuracy = dataset.labels !== "tokens"; // the best language model is the one of the lowest loss
    this.#epochCount = options.epochs ?? DEFAULT_EPOCHS;
    this.#steps = stepper.stepsPerEpoch * this.#epochCount;
  }

  static async open(model: Model, dataset: Dataset, options: TrainOptions, open: OpenSession): Promise<TrainingRun> {
    const stepper = await Stepper.open(model, dataset, options, open);
    try {
      const { threads, provider, inProcess } = options;
      const evaluator = options.validation
        ? await Evaluator.open(model, stepper.graph.weights, open, { threads, provider, inProcess })
        : undefined;
      return new TrainingRun(options, dataset, stepper, evaluator);
    } catch (error) {
      await stepper.close();
      throw error;
    }
  }

  async train(): Promise<void> {
    const { checkpoints, resume, checkpointSeconds = 30 } = this.#options;
    if (checkpoints && resume) await this.#resume(checkpoints);
    this.#startedAt = performance.now();
    this.#startedStep = this.#step;
    let saved = performance.now();
    const save = async (): Promise<void> => {
      await checkpoints?.write(await this.#checkpoint());
      saved = performance.now();
    };
    while (this.#step < this.#steps && !this.#stopped()) {
      const { stepsPerEpoch } = this.#stepper;
      const epoch = Math.floor(this.#step / stepsPerEpoch);
      const end = (epoch + 1) * stepsPerEpoch;
      const order = this.#stepper.order(epoch);
      while (this.#step < end) {
        const pause = saved + checkpointSeconds * 1000;
        await this.#runSteps(order, end, checkpoints ? pause : Number.POSITIVE_INFINITY);
        if (this.#step < end) await save();
      }
      await this.#endEpoch(epoch + 1);
      await save();
    }
  }

  /** True if the score has not improved for as many epochs as the run has patience. */
  #stopped(): boolean {
    const { patience } = this.#options;
    return patience !== undefined && this.#patience.epochs >= patience;
  }

  /** Steps up to `end`, or until the clock passes `pause`; reading runs ahead of computing. */
  async #runSteps(order: Uint32Array, end: number, pause: number): Promise<void> {
    const first = this.#step;
    const started = performance.now();
    let pending: Promise<number> | undefined;
    let issued = first;
    let yielded = started;
    const settle = async (): Promise<void> => {
      if (!pending) return;
      const loss = await pending;
      pending = undefined;
      this.#count(loss);
      await this.#stepper.between(this.#step, this.#steps);
      if (this.#step % SCALE_CHECK_STEPS === 0) await this.#checkSkipped();
    };
    let next: Promise<StepFeeds> | undefined = this.#stepper.prepare(issued, order);
    try {
      while (issued < end && (issued === first || performance.now() < pause)) {
        throwIfAborted(this.#options.signal);
        const feeds = await (next as Promise<StepFeeds>);
        await settle(); // a step reads what the one before it has written
        pending = this.#stepper.step(feeds, issued, this.#rateAt(issued));
        issued++;
        next = issued < end ? this.#stepper.prepare(issued, order) : undefined;
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

  #rateAt(step: number): number {
    const { learningRate = this.#stepper.graph.optimizer.learningRate } = this.#options;
    return learningRateAt(step, this.#steps, learningRate, this.#options);
  }

  /** Takes the loss of a finished step in. */
  #count(loss: number): void {
    const finite = Number.isFinite(loss);
    this.#overflows = finite ? 0 : this.#overflows + 1;
    // Half precision may overflow now and then: such a step is skipped, and the loss counts as the one before.
    const bearable = this.#stepper.graph.lossScale !== undefined && this.#overflows < MOST_OVERFLOWS;
    if (!finite && !bearable) throw this.#diverged(this.#step + 1, "the loss is not finite", String(loss));
    if (finite) this.#lastLoss = loss;
    this.#lossSum += this.#lastLoss ?? 0;
    this.#step++;
  }

  /** Throws where the gradients overflow whatever the scale of the loss: steps are skipped, and nothing is learned any more. */
  async #checkSkipped(): Promise<void> {
    const { graph, resident } = this.#stepper;
    if (!graph.lossScale) return;
    const read = await resident.read(Object.values(graph.lossScale));
    const [scale = 1, skipped = 0] = [graph.lossScale.value, graph.lossScale.skipped].map(
      (name) => (read[name]?.data as Float32Array | undefined)?.[0],
    );
    if (scale < 1 || (skipped > 0 && skipped >= this.#steps))
      throw this.#diverged(this.#step, "the gradients are not finite", `${skipped} of ${this.#step} steps skipped`);
  }

  /** The error of a run whose loss, gradients or weights have left the numbers, after so many steps. */
  #diverged(step: number, what: string, found: string): PareError {
    const rate = this.#rateAt(step - 1).toPrecision(3);
    const before = this.#lastLoss === undefined ? "" : ` (the last finite loss was ${this.#lastLoss.toPrecision(3)})`;
    return new PareError("unsupported", `Training diverged: ${what}`, {
      where: `step ${step} of ${this.#steps}, learning rate ${rate}`,
      found: `${found}${before}`,
      help: "Lower the learning rate (find-learning-rate suggests one), limit the gradients (clip-norm 1), lengthen the warm-up, or scale the samples in the data's name (scale=255)",
    });
  }

  #report(): void {
    const done = this.#step;
    const pace = (performance.now() - this.#startedAt) / 1000 / Math.max(1, done - this.#startedStep);
    const epoch = Math.min(Math.floor(done / this.#stepper.stepsPerEpoch) + 1, this.#epochCount);
    this.#options.onProgress?.({
      stage: `training, epoch ${epoch} of ${this.#epochCount}`,
      done,
      total: this.#steps,
      secondsLeft: pace * (this.#steps - done),
      loss: this.#lastLoss ?? Number.NaN,
    });
  }

  async #endEpoch(epoch: number): Promise<void> {
    const started = performance.now();
    let scores: Scores | undefined;
    const { validation, signal, minimumGain = 0 } = this.#options;
    await this.#checkSkipped();
    // The last step's loss was taken before its weights were made.
    const weights = await this.#stepper.weights();
    const lost = Object.keys(weights).find((name) => !allFinite(weights[name]?.data as Float32Array));
    if (lost !== undefined) throw this.#diverged(this.#step, "the weights are not finite", `weight '${lost}'`);
    if (validation && this.#evaluator) {
      const { batch } = this.#stepper;
      scores = await this.#evaluator.evaluate(weights, validation, { batch, loss: this.#loss, signal });
      const own = this.#byAccuracy && scores.accuracy !== undefined ? scores.accuracy : -scores.loss;
      const score = Number.isNaN(own) ? Number.NEGATIVE_INFINITY : own;
      // Of equal scores the later one counts: it has seen more data.
      if ((this.#options.keepBest ?? true) && (!this.#best || score >= this.#best.score)) {
        this.#best = { epoch, score };
        this.#bestWeights = asArrays(weights);
      }
      this.#patience =
        this.#patience.score === undefined || score > this.#patience.score + minimumGain
          ? { score, epochs: 0 }
          : { ...this.#patience, epochs: this.#patience.epochs + 1 };
    }
    this.#epochSeconds += (performance.now() - started) / 1000;
    const metrics: Record<string, number> = {};
    if (scores?.accuracy !== undefined) metrics["accuracy"] = scores.accuracy;
    if (scores) metrics["loss"] = scores.loss;
    const loss = this.#lossSum / this.#stepper.stepsPerEpoch;
    const record = { epoch, loss, metrics, seconds: this.#epochSeconds };
    this.#epochs.push(record);
    this.#lossSum = 0;
    this.#epochSeconds = 0;
    this.#options.onEpoch?.(record);
  }

  async #checkpoint(): Promise<Checkpoint> {
    return {
      run: this.#stepper.key,
      step: this.#step,
      lossSum: this.#lossSum,
      lastLoss: this.#lastLoss,
      epochs: this.#epochs,
      epochSeconds: this.#epochSeconds,
      stepSeconds: this.#stepSeconds,
      best: this.#best,
      patience: this.#patience,
      state: asArrays(await this.#stepper.resident.read()),
      bestWeights: this.#bestWeights,
    };
  }

  async #resume(store: CheckpointStore): Promise<void> {
    const checkpoint = await store.read();
    if (!checkpoint) {
      this.#options.onNote?.("There is no checkpoint yet: training starts from the beginning");
      return;
    }
    if (checkpoint.run !== this.#stepper.key)
      throw new PareError("bad-option", "The checkpoint belongs to another run", {
        help: "Resume with the model, data and options that it was started with, or start again without resuming",
      });
    await this.#stepper.resident.write(asFeeds(checkpoint.state));
    this.#step = checkpoint.step;
    this.#lossSum = checkpoint.lossSum;
    this.#lastLoss = checkpoint.lastLoss;
    this.#epochs = [...checkpoint.epochs];
    this.#epochSeconds = checkpoint.epochSeconds;
    this.#stepSeconds = checkpoint.stepSeconds;
    this.#best = checkpoint.best ? { ...checkpoint.best } : undefined;
    this.#patience = { ...checkpoint.patience };
    this.#bestWeights = checkpoint.bestWeights;
  }

  /** Writes the trained weights into the model. */
  async finish(model: Model): Promise<TrainResult> {
    const weights = this.#bestWeights ?? asArrays(await this.#stepper.weights());
    for (const [name, { shape, data }] of Object.entries(weights)) {
      const value = model.graph.initializers.get(name);
      if (value) value.tensor = Tensor.of("float32", shape, data);
    }
    const record = this.#epochs[(this.#best?.epoch ?? this.#epochs.length) - 1];
    const { graph, masked, resident } = this.#stepper;
    const count = graph.lossScale?.skipped;
    const skipped = count === undefined ? undefined : (await resident.read([count]))[count];
    return {
      epochs: this.#epochs,
      best: record ?? { epoch: 0, loss: Number.NaN, metrics: {}, seconds: 0 },
      secondsPerStep: this.#stepSeconds / Math.max(1, this.#step),
      steps: this.#step,
      trained: graph.weights,
      masked,
      stoppedEarly: this.#step < this.#steps,
      skippedSteps: (skipped?.data as Float32Array | undefined)?.[0] ?? 0,
    };
  }

  async close(): Promise<void> {
    await this.#stepper.close();
    await this.#evaluator?.close();
  }
}

/** What held-out samples are scored by: the first loss against labels; cross-entropy where a teacher alone teaches. */
function evaluationLoss(options: TrainOptions): { name: LossName; options: LossOptions } {
  const term = termsOf(options).find(({ loss }) => loss.target !== "teacher");
  if (term) return { name: term.loss.name as LossName, options: term.options };
  return { name: options.loss ?? "cross-entropy", options: {} };
}

function allFinite(data: Float32Array): boolean {
  return data.every(Number.isFinite);
}

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
