/** Gradients of a loss on samples, one by one: against their labels, or against the model's own answers, drawn or the likeliest. */
import { inferShapes } from "../../analyse/shapes.ts";
import { PareError, throwIfAborted } from "../../base/error.ts";
import { Rng } from "../../base/rng.ts";
import { elementCount, formatShape } from "../../base/shape.ts";
import type { Dataset } from "../../data/dataset.ts";
import { Builder } from "../../ir/builder.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { asFloat32, convertArray, padRows, rowsOf } from "../../run/arrays.ts";
import { feedChunks } from "../../run/feeds.ts";
import type { Feeds, NdArray, Session } from "../../run/session.ts";
import { decoderOf } from "../../run/write-text.ts";
import { type LossName, lossNamed } from "../../train/losses/table.ts";
import { addObjective } from "../../train/objective.ts";
import { scoresOf } from "../../train/scores.ts";
import { convertOpset } from "../../transform/opset.ts";
import { type CalibrationOptions, calibrationOf } from "../calibration.ts";
import { engine } from "../engine.ts";
import { portsOf } from "../samples.ts";
import type { Context } from "../technique.ts";
import { TRAINING_OPSET } from "../training.ts";

export interface LossOptions extends CalibrationOptions {
  /** Default: by the labels (classes and tokens: cross-entropy, values: mse), without any by what the model's output looks like. */
  readonly loss?: LossName | undefined;
  /** What stands for missing labels: answers drawn by their probability (default), or the likeliest class. */
  readonly answers?: "drawn" | "likeliest" | undefined;
}

/** A model that computes the loss of one sample, before what is wanted of it is made its outputs. */
export interface LossModel {
  readonly model: Model;
  /** Name of the value that holds the loss. */
  readonly loss: string;
}

interface Sample {
  readonly feeds: Feeds;
  readonly labels: NdArray | undefined;
}

/**
 * Runs what `make` derives from the loss (its gradients) for each sample and hands the outputs to `visit`. Without labels a
 * sample's label is drawn from the model's own prediction: a class by its probability, a number with noise of variance 1 around
 * it, so that squared gradients are those of the Fisher information; or it is the likeliest class, where asked for. The model is not changed. Returns the number of samples. Throws
 * `not-differentiable` and `unsupported` as training does.
 */
export async function eachLossGradient(
  model: Model,
  make: (lossModel: LossModel) => Model,
  options: LossOptions,
  context: Context,
  visit: (results: Readonly<Record<string, NdArray>>) => void | Promise<void>,
): Promise<number> {
  const { signal, threads, provider, journal } = context;
  const { openSession } = await engine();
  const loss = options.loss ?? defaultLoss(model, context.data);
  const open: Session[] = [];
  let [count, shapes] = [0, ""];
  let bound: BoundLoss | undefined;
  let [answers, gradients]: (Session | undefined)[] = [];
  const close = async (): Promise<void> => {
    for (const session of open.splice(0)) await session.close();
  };
  try {
    for await (const sample of samplesOf(model, options, context)) {
      throwIfAborted(signal);
      context.onProgress({ stage: "gradients", done: count, total: options.samples });
      const key = JSON.stringify(Object.values(sample.feeds).map(({ shape }) => shape));
      if (key !== shapes || !bound) {
        // Loss and gradients are written for known shapes.
        await close();
        [shapes, bound] = [key, bindLoss(model, sample.feeds, loss)];
        open.push((gradients = await openSession(make(bound), { threads, provider, signal })));
        if (!sample.labels) open.push((answers = await openSession(bound.forward, { threads, provider, signal })));
      }
      const labels = sample.labels
        ? fittingLabels(sample.labels, bound, context.data)
        : await answerOf(answers as Session, sample.feeds, bound, pickerOf(options, context, count));
      await visit(await (gradients as Session).run(fedBy(gradients as Session, sample.feeds, bound, labels)));
      count++;
    }
  } finally {
    await close();
  }
  if (count === 0) throw new PareError("bad-data", "There is not one sample to run through the model");
  const own =
    options.answers === "likeliest" ? "the model's own answers" : "answers drawn from the model's own predictions";
  const against = context.data?.labels ? "their labels" : own;
  journal.note(`Gradients of the loss ${loss} on ${count} samples, against ${against}.`);
  return count;
}

/** The loss for inputs of certain shapes. */
interface BoundLoss extends LossModel {
  readonly name: LossName;
  /** Name and shape of the input that brings the labels. */
  readonly labels: Value;
  /** The model with its scores, or what the loss reads, as only output. */
  readonly forward: Model;
}

function bindLoss(model: Model, feeds: Feeds, name: LossName): BoundLoss {
  const copy = cloneModel(model);
  if (copy.opset < TRAINING_OPSET) convertOpset(copy, TRAINING_OPSET);
  const { graph } = copy;
  const inputs = graph.inputs.filter((input) => !input.tensor);
  for (const input of inputs) input.shape = feeds[input.name]?.shape ?? input.shape;
  for (const node of graph.nodes) for (const output of node.outputs) output.shape = undefined;
  inferShapes(copy);
  const output = graph.outputs[0];
  if (!output) throw new PareError("bad-model", "The model has no output whose loss could be differentiated");
  const forward = cloneModel(copy);
  const read = lossNamed(name).reads === "scores" ? scoresOf(output).scores.name : output.name;
  const answer = [...forward.graph.values()].find((value) => value.name === read) as Value;
  forward.graph.outputs.splice(0, forward.graph.outputs.length, answer);
  const site = {
    b: new Builder(graph, { prefix: "loss/" }),
    opset: copy.opset,
    parameter(): never {
      throw new PareError("unsupported", `The loss ${name} learns weights of its own`);
    },
  };
  const { loss, labels } = addObjective(site, copy, inputs, { loss: name });
  [loss.dtype, loss.shape] = ["float32", []];
  return { model: copy, loss: loss.name, name, labels: labels as Value, forward };
}

/** The loss that the labels ask for; without labels the one of the distribution that the output most likely stands for. */
function defaultLoss(model: Model, data: Dataset | undefined): LossName {
  if (data?.labels) return data.labels === "values" ? "mse" : "cross-entropy";
  const output = model.graph.outputs[0];
  const kind = output && scoresOf(output).kind;
  if (kind === "sigmoid") return "bce";
  const rows = output?.shape?.length === 2 && output.shape[1] !== 1;
  return kind !== "logits" || rows || decoderOf(model) ? "cross-entropy" : "mse";
}

function fedBy(session: Session, feeds: Feeds, { labels }: BoundLoss, values: NdArray): Feeds {
  const fed: Record<string, NdArray> = {};
  for (const { name } of session.inputs) {
    const array = name === labels.name ? values : feeds[name];
    if (array) fed[name] = array;
  }
  return fed;
}

/** Samples one by one, with labels where the data has them. */
async function* samplesOf(model: Model, options: LossOptions, context: Context): AsyncGenerator<Sample> {
  const { data, seed, signal, journal } = context;
  const ports = portsOf(model);
  if (data?.labels) {
    for await (const batch of data.batches({ limit: options.samples, size: 1, seed, signal })) {
      if (!batch.labels) throw new PareError("bad-data", "The data has no labels", { where: data.name });
      // A model of a fixed batch is fed copies of the sample; the mean over them is its loss.
      for (const { feeds } of feedChunks(ports, batch))
        yield { feeds, labels: padRows(batch.labels, fixedBatch(model) ?? 1) };
    }
    return;
  }
  const { stream, note } = await calibrationOf(model, options, context);
  journal.note(note);
  for await (const feeds of stream()) {
    const sizes = new Set(Object.values(feeds).map(({ shape }) => shape[0]));
    const rows = fixedBatch(model) === undefined && sizes.size === 1 ? [...sizes][0] : undefined;
    if (rows === undefined) yield { feeds, labels: undefined };
    else
      for (let row = 0; row < rows; row++)
        yield {
          feeds: Object.fromEntries(Object.entries(feeds).map(([name, array]) => [name, rowsOf(array, row, row + 1)])),
          labels: undefined,
        };
  }
}

/** The number of samples that the model takes, if it takes no other. */
function fixedBatch(model: Model): number | undefined {
  const first = portsOf(model)[0]?.shape[0];
  return typeof first === "number" ? first : undefined;
}

/** The labels of a sample in the form of the loss's input. */
function fittingLabels(given: NdArray, { labels }: BoundLoss, data: Dataset | undefined): NdArray {
  const shape = (labels.shape ?? []) as readonly number[];
  if (elementCount(given.shape) !== elementCount(shape))
    throw new PareError("shape-mismatch", "The labels do not fit the model's output", {
      ...(data ? { where: data.name } : {}),
      found: `labels of shape ${formatShape(given.shape)}`,
      expected: formatShape(shape),
    });
  return { ...convertArray(given, labels.dtype ?? given.dtype), shape };
}

/** How an answer is picked from what the model predicts for the sample of this number. */
interface Picker {
  /** An index, by softmax(x). */
  classOf(x: Float32Array): number;
  /** Yes or no, by σ(x). */
  yes(x: number): number;
  /** A number from N(x, 1): at x itself a squared error has no gradient. */
  number(x: number): number;
}

function pickerOf({ answers }: LossOptions, { seed }: Context, sample: number): Picker {
  const rng = new Rng(seed).fork(`answer ${sample}`);
  const number = (x: number): number => x + rng.normal();
  if (answers === "likeliest") return { classOf: largest, yes: (x) => Number(x > 0), number };
  return {
    classOf: (x) => drawClass(x, rng),
    yes: (x) => Number(rng.uniform() < 1 / (1 + Math.exp(-x))),
    number,
  };
}

/** Labels picked from what the model predicts. */
async function answerOf(session: Session, feeds: Feeds, bound: BoundLoss, pick: Picker): Promise<NdArray> {
  const fed = Object.fromEntries(session.inputs.flatMap(({ name }) => (feeds[name] ? [[name, feeds[name]]] : [])));
  const [scores] = Object.values(await session.run(fed as Feeds));
  if (!scores) throw new PareError("internal", "The model gave no answer");
  const x = asFloat32(scores);
  const { name, labels } = bound;
  const shape = (labels.shape ?? []) as readonly number[];
  if (name === "ctc")
    throw new PareError("unsupported", "Sequences cannot be drawn from the model's own predictions", {
      help: "Give data with labels, or another loss",
    });
  const dtype = labels.dtype ?? "float32";
  if (dtype !== "float32") {
    const rows = elementCount(shape);
    const width = x.length / rows;
    const drawn = Float64Array.from({ length: rows }, (_, row) =>
      pick.classOf(x.subarray(row * width, (row + 1) * width)),
    );
    return { ...convertArray({ dtype: "float64", shape, data: drawn }, dtype), shape };
  }
  return { dtype: "float32", shape, data: x.map((v) => (name === "bce" ? pick.yes(v) : pick.number(v))) };
}

function largest(x: Float32Array): number {
  return x.reduce((best, value, i) => (value > (x[best] as number) ? i : best), 0);
}

/** An index drawn by its probability under softmax(x). */
function drawClass(x: Float32Array, rng: Rng): number {
  const top = x.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const weights = Float64Array.from(x, (v) => Math.exp(v - top));
  let left = rng.uniform() * weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < weights.length; i++) if ((left -= weights[i] as number) < 0) return i;
  return weights.length - 1;
}
