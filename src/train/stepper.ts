/** The step graph of a run, open on an engine and fed from a data set: one call per step. */
import type { Dataset } from "../data/dataset.ts";
import { mixes } from "../data/mix.ts";
import { fingerprint } from "../ir/fingerprint.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import type { NdArray, Resident, Session } from "../run/session.ts";
import { imageBlock } from "./blocked/image-block.ts";
import { BatchFeeds } from "./batch-feeds.ts";
import { Rng } from "../base/rng.ts";
import type { OpenSession } from "./evaluator.ts";
import { termsOf, wantsScoresAlone } from "./objective.ts";
import { trainableParameters, zeroMasks } from "./parameters.ts";
import { rewire } from "./rewiring.ts";
import { buildStepGraph, type StepGraph } from "./step-graph.ts";
import { retarget, targetSize, type TargetedDropout } from "./targeted-dropout.ts";
import { TeacherLogits } from "./teacher.ts";
import { DEFAULT_EPOCHS, isAugmented, RUN_KEYS, type TrainOptions } from "./train-options.ts";

/** The feeds of a step's runs. */
export type StepFeeds = readonly Readonly<Record<string, NdArray>>[];

export class Stepper {
  readonly graph: StepGraph;
  readonly resident: Resident;
  /** Samples per step. */
  readonly batch: number;
  readonly stepsPerEpoch: number;
  /** Names of the weights whose zeros are held. */
  readonly masked: readonly string[];
  /** What the weights depend on: equal keys, equal runs. */
  readonly key: string;
  readonly #dataset: Dataset;
  readonly #seed: number;
  readonly #session: Session;
  readonly #feeds: BatchFeeds;
  readonly #teacher: TeacherLogits | undefined;
  readonly #options: Pick<TrainOptions, "rewiring" | "targetedDropout">;

  private constructor(parts: {
    graph: StepGraph;
    session: Session;
    resident: Resident;
    dataset: Dataset;
    options: TrainOptions;
    teacher: TeacherLogits | undefined;
    batch: number;
    masked: readonly string[];
    key: string;
  }) {
    const { graph, session, dataset, teacher, options } = parts;
    this.graph = graph;
    this.resident = parts.resident;
    this.batch = parts.batch;
    this.stepsPerEpoch = Math.floor(dataset.size / parts.batch);
    this.masked = parts.masked;
    this.key = parts.key;
    this.#dataset = dataset;
    this.#seed = options.seed ?? 1;
    this.#session = session;
    this.#teacher = teacher;
    this.#options = options;
    this.#feeds = new BatchFeeds({ graph, inputs: session.inputs, dataset, teacher, options });
  }

  static async open(model: Model, dataset: Dataset, options: TrainOptions, open: OpenSession): Promise<Stepper> {
    const { threads, provider, inProcess, teacher, accumulate = 1 } = options;
    const sessionOptions = { threads, provider, inProcess };
    const batch = Math.min(options.batch ?? 128, dataset.size);
    const steps = Math.floor(dataset.size / batch) * (options.epochs ?? DEFAULT_EPOCHS);
    const names = trainableParameters(model)
      .map((value) => value.name)
      .filter((name) => !options.frozen?.(name));
    const masks = options.maskZeros === false ? undefined : await zeroMasks(model, names, options.maskThreshold);
    const inside = teacher !== undefined && teacherInside(model, teacher.model, options);
    const indices = termsOf(options).some(({ loss }) => loss.target === "indices");
    const mixed = options.augment !== undefined && mixes(options.augment);
    const graph = buildStepGraph(model, {
      ...options,
      block: await imageBlock(open, provider),
      batch: batch / accumulate,
      parameters: names,
      masks: options.rewiring ? undefined : masks,
      targetSizes: options.targetedDropout && (await targetSizes(model, options.targetedDropout)),
      rewired: options.rewiring && masks && floatMasks(masks),
      teacher: teacher && { ...teacher, model: inside ? teacher.model : undefined },
      softLabels: indices && (mixed || dataset.labels === "values"),
      labelLength: dataset.labelShape?.[0],
      observeSteps: Math.round((options.observe ?? 0) * steps),
      rampSteps: Math.round((options.shrinkage?.ramp ?? 0) * steps),
    });
    const opened: { close(): Promise<void> }[] = [];
    try {
      const session = await open(graph.model, sessionOptions);
      opened.push(session);
      const resident = await session.resident(await graph.initialState(), graph.links);
      let logits: TeacherLogits | undefined;
      if (teacher && graph.teacherLogits !== undefined) {
        logits = await TeacherLogits.open(teacher.model, dataset, open, sessionOptions, !isAugmented(options));
        opened.push(logits);
      }
      const key = await keyOf(model, dataset, options, batch, graph.weights);
      const masked = [...(masks?.keys() ?? [])];
      return new Stepper({ graph, session, resident, dataset, options, teacher: logits, batch, masked, key });
    } catch (error) {
      for (const each of opened) await each.close();
      throw error;
    }
  }

  /** Samples of an epoch in its order: a permutation that depends on the seed and the epoch alone. */
  order(epoch: number): Uint32Array {
    const order = Uint32Array.from({ length: this.#dataset.size }, (_, i) => i);
    return new Rng(this.#seed).fork(`epoch ${epoch}`).shuffle(order);
  }

  /** Reads and changes the samples of a step (from 0, over all epochs); `order` is its epoch's. */
  async prepare(step: number, order: Uint32Array): Promise<StepFeeds> {
    const epoch = Math.floor(step / this.stepsPerEpoch);
    const at = (step % this.stepsPerEpoch) * this.batch;
    const indices = order.subarray(at, at + this.batch);
    const batch = await this.#dataset.take([...indices]);
    return this.#feeds.feeds(batch, { epoch, step, indices });
  }

  /** Makes a step and returns its loss, the mean over its runs. */
  async step(feeds: StepFeeds, step: number, learningRate: number): Promise<number> {
    let sum = 0;
    for (const [run, own] of feeds.entries()) {
      const scalars = this.graph.scalars({ step, learningRate, run });
      const outputs = await this.resident.step({ ...own, ...scalars }, [this.graph.loss]);
      sum += (outputs[this.graph.loss]?.data as Float32Array | undefined)?.[0] ?? Number.NaN;
    }
    return sum / feeds.length;
  }

  /** What happens between steps, when so many have been made, of all: zeros move, weights are targeted anew. */
  async between(step: number, steps: number): Promise<void> {
    const { rewiring, targetedDropout } = this.#options;
    const { rewired, thresholds } = this.graph;
    if (rewiring) await rewire(this.resident, rewired, rewiring, { step, steps, seed: this.#seed });
    if (targetedDropout) await retarget(this.resident, thresholds, targetedDropout, step);
  }

  /** The weights as training has made them, by name: the moving averages where they are kept. */
  async weights(): Promise<Record<string, NdArray>> {
    const { weights, averages } = this.graph;
    const read = await this.resident.read(weights.map((name) => averages.get(name) ?? name));
    return Object.fromEntries(weights.map((name) => [name, read[averages.get(name) ?? name] as NdArray]));
  }

  async close(): Promise<void> {
    await this.#session.close();
    await this.#teacher?.close();
  }
}

/** True if the teacher must run on what the student sees: inner values are wanted, or the samples change. */
function teacherInside(model: Model, teacher: Model, options: TrainOptions): boolean {
  if (!wantsScoresAlone(termsOf(options))) return true;
  return isAugmented(options) && model.opset === teacher.opset;
}

async function keyOf(
  model: Model,
  dataset: Dataset,
  options: TrainOptions,
  batch: number,
  names: readonly string[],
): Promise<string> {
  const { teacher } = options;
  return JSON.stringify([
    await fingerprint(model),
    dataset.name,
    dataset.size,
    batch,
    ...RUN_KEYS.map((name) => options[name] ?? null),
    teacher ? [await fingerprint(teacher.model), teacher.share ?? null, teacher.temperature ?? null] : null,
    (options.projections ?? []).map(({ name }) => name),
    [options.shrinkage, options.targetedDropout].map((each) => (each ? JSON.stringify(each, plainNumbers) : null)),
    names.map((name) => [name, options.groupOf?.(name) ?? null]),
  ]);
}

/** The sizes that targeted dropout begins with. */
async function targetSizes(model: Model, { weights, share }: TargetedDropout): Promise<Map<string, number>> {
  const sizes = new Map<string, number>();
  for (const name of weights) {
    const data = await model.graph.initializers.get(name)?.tensor?.data();
    if (data instanceof Float32Array) sizes.set(name, targetSize(data, share));
  }
  return sizes;
}

/** Masks whose places may move, as the state that the engine holds. */
function floatMasks(masks: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  return new Map(
    [...masks].map(([name, mask]) => [name, Tensor.float32(mask.shape, Float32Array.from(mask.peek() as Uint8Array))]),
  );
}

/** Typed arrays and sets as lists. */
function plainNumbers(_: string, value: unknown): unknown {
  return ArrayBuffer.isView(value) || value instanceof Set ? [...(value as unknown as Iterable<unknown>)] : value;
}
