/** One training step as one ONNX model: forward, loss, backward and optimizer; weights and optimizer state in and out. */
import { inferShapes } from "../analyse/shapes.ts";
import { PareError } from "../base/error.ts";
import { type Dim, formatShape } from "../base/shape.ts";
import { float } from "../ir/attribute.ts";
import { Builder } from "../ir/builder.ts";
import { cloneModel } from "../ir/clone.ts";
import { type Graph, type Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { add, mul, scale, type Site } from "../ops/gradients/words.ts";
import type { Feeds, NdArray } from "../run/session.ts";
import { dependents } from "./dependents.ts";
import { addGradients } from "./grad.ts";
import { crossEntropy, distillation, type LossName, meanSquaredError, mixed } from "./losses.ts";
import { makeOptimizer, type Optimizer, type OptimizerOptions } from "./optimizers.ts";
import { trainableParameters } from "./parameters.ts";
import { removeUnused } from "./remove-unused.ts";

export interface StepOptions extends OptimizerOptions {
  /** Samples per step: every shape in the graph is fixed to it. */
  readonly batch: number;
  /** Default "cross-entropy". */
  readonly loss?: LossName | undefined;
  readonly labelSmoothing?: number | undefined;
  /** Mixes in the distance to a teacher's logits, which are fed as `teacher_logits`: (1 − share)·loss + share·distillation. */
  readonly teacher?: { readonly share: number; readonly temperature: number } | undefined;
  /** Names of the trained initializers; default: every learned weight that the loss depends on. */
  readonly parameters?: readonly string[] | undefined;
  /** Weights that stay zero where their mask is zero, by name: the mask multiplies the weight after every step. */
  readonly masks?: ReadonlyMap<string, Tensor> | undefined;
  /**
   * "batch": BatchNormalization uses the batch's statistics and its running ones move towards them;
   * "frozen": it uses the running statistics, which stay. Default "batch".
   */
  readonly batchNorm?: "batch" | "frozen" | undefined;
  /** Share of the old running statistics that is kept at each step; default 0.9. */
  readonly statisticsMomentum?: number | undefined;
}

export interface StepGraph {
  /** Inputs: the model's own, `labels`, `teacher_logits` with a teacher, the optimizer's scalars, the state. */
  readonly model: Model;
  readonly optimizer: Optimizer;
  /** Name of the output that holds the loss. */
  readonly loss: string;
  /** Name of the input that takes the targets. */
  readonly labels: string;
  readonly teacherLogits: string | undefined;
  /** Number of scores per sample; undefined for other losses than cross-entropy or where it is not known. */
  readonly classes: number | undefined;
  /** Names of the trained weights and of the running statistics: what training changes in the model. */
  readonly weights: readonly string[];
  /** First values of the state, by input name. */
  initialState(): Promise<Record<string, NdArray>>;
  /** State input to the output that replaces it. */
  readonly links: Readonly<Record<string, string>>;
  /** The optimizer's scalars for a step. */
  scalars(step: number, learningRate: number): Feeds;
}

/** Builds the step of a model whose first output is its prediction. The model is not changed. */
export function buildStepGraph(model: Model, options: StepOptions): StepGraph {
  const step = cloneModel(model);
  const { graph } = step;
  const batch = options.batch;
  bindBatch(graph, batch);
  const prediction = graph.outputs[0];
  if (!prediction) throw new PareError("bad-model", "The model has no output to train");
  const found = trainableParameters(step);
  const byName = new Map(found.map((value) => [value.name, value]));
  const parameters = (options.parameters ?? [...byName.keys()]).map((name) => {
    const value = byName.get(name) ?? graph.initializers.get(name);
    if (!value) throw new PareError("bad-option", "The model has no such weight to train", { where: `'${name}'` });
    if (value.dtype !== "float32")
      throw new PareError("unsupported", `Weights of ${value.dtype} cannot be trained`, {
        where: `weight '${name}'`,
        help: "Convert the model to float32 first",
      });
    return value;
  });
  if (parameters.length === 0) throw new PareError("unsupported", "The model has no weights that can be trained");
  graph.outputs.splice(0, graph.outputs.length, prediction);
  const initial = new Map<string, Tensor>();
  const toState = (value: Value): void => {
    if (!value.tensor) return;
    initial.set(value.name, value.tensor);
    graph.removeInitializer(value);
    value.tensor = undefined;
    if (!graph.inputs.includes(value)) graph.inputs.push(value);
  };
  for (const value of parameters) toState(value);
  const statistics = options.batchNorm === "frozen" ? [] : useBatchStatistics(graph, step.opset, toState);

  const b = new Builder(graph, { prefix: "train/" });
  const site: Site = { b, opset: step.opset };
  const problems = inferShapes(step);
  if (!prediction.shape)
    throw new PareError("unsupported", "The shape of the model's output could not be found", {
      where: `output '${prediction.name}'`,
      ...(problems[0] ? { found: problems[0].message } : {}),
    });
  const lastDim = prediction.shape?.at(-1);
  const labels = labelInput(b, prediction, batch, options.loss ?? "cross-entropy");
  let teacher: Value | undefined;
  let distance: Value | undefined;
  if (options.teacher) {
    teacher = b.input("teacher_logits", "float32", prediction.shape);
    distance = distillation(site, logitsOf(prediction), teacher, options.teacher.temperature);
  }
  // A teacher with the whole share needs no labels.
  const alone = options.teacher?.share === 1 ? distance : undefined;
  const own = alone ?? lossOf(site, prediction, labels, options);
  const loss = distance && !alone ? mixed(site, own, distance, options.teacher?.share ?? 0) : own;
  [loss.dtype, loss.shape] = ["float32", []];
  graph.outputs.splice(0, graph.outputs.length);
  b.output(loss, "loss");
  inferShapes(step);

  const gradients = addGradients(step, loss, parameters);
  const optimizer = makeOptimizer(options);
  const scalars = Object.fromEntries(optimizer.scalars.map((name) => [name, b.input(name, "float32", [])]));
  const links: Record<string, string> = {};
  const link = (input: Value, next: Value): void => {
    // An output has one name and one linked input: anything shared or passed through is given its own value.
    const own = next.producer && !graph.isOutput(next) ? next : b.op("Identity", [next]);
    own.name = graph.uniqueName(`${input.name}_next`);
    [own.dtype, own.shape] = ["float32", input.shape];
    graph.outputs.push(own);
    links[input.name] = own.name;
  };
  const trained: string[] = [];
  for (const weight of parameters) {
    const gradient = gradients.get(weight);
    if (!gradient) continue;
    const shape = weight.shape as readonly number[];
    const slots = optimizer.slots.map((slot) => {
      const value = b.input(`${weight.name}/${slot}`, "float32", shape);
      initial.set(value.name, Tensor.of("float32", shape, new Float32Array(shape.reduce((n, size) => n * size, 1))));
      return value;
    });
    const next = optimizer.update(site, { weight, gradient, slots, decays: shape.length >= 2 }, scalars);
    const mask = options.masks?.get(weight.name);
    // w ← w·mask keeps pruned weights at zero exactly
    link(weight, mask ? mul(site, next.weight, b.constant("mask", mask)) : next.weight);
    for (const [i, slot] of slots.entries()) link(slot, next.slots[i] as Value);
    trained.push(weight.name);
  }
  moveStatistics(site, statistics, options.statisticsMomentum ?? 0.9, link);
  removeUnused(graph, graph.nodes);
  dropUnusedInputs(graph, links);
  return {
    model: step,
    optimizer,
    loss: loss.name,
    labels: labels.name,
    teacherLogits: teacher?.name,
    classes: options.loss === "mse" || typeof lastDim !== "number" ? undefined : lastDim,
    weights: [...trained, ...statistics.flatMap(({ running }) => running.map((value) => value.name))],
    links,
    async initialState() {
      const state: Record<string, NdArray> = {};
      for (const [name, tensor] of initial)
        if (graph.inputs.some((input) => input.name === name))
          state[name] = { dtype: "float32", shape: tensor.shape, data: (await tensor.data()).slice() };
      return state;
    },
    scalars(index, learningRate) {
      const values = Object.entries(optimizer.feed(index, learningRate));
      const fed = values.filter(([name]) => graph.inputs.some((input) => input.name === scalars[name]?.name));
      return Object.fromEntries(
        fed.map(([name, value]) => [
          scalars[name]?.name ?? name,
          { dtype: "float32" as const, shape: [], data: Float32Array.of(value) },
        ]),
      );
    },
  };
}

/**
 * Fixes the batch axis of every input and forgets the shapes that follow from it. Where the model was made for another
 * fixed batch size, constant Reshape targets of what depends on the inputs change with it.
 */
export function bindBatch(graph: Graph, batch: number): void {
  const inputs = graph.inputs.filter((input) => !input.tensor);
  const moving = dependents(graph, inputs);
  for (const input of inputs) {
    const [old, ...rest] = input.shape ?? [];
    if (old === undefined)
      throw new PareError("unsupported", "An input without a batch axis cannot be trained on", {
        where: `input '${input.name}'`,
        found: formatShape(input.shape),
      });
    input.shape = [batch, ...rest];
    if (typeof old === "number" && old !== batch) rebatchReshapes(graph, moving, old, batch);
  }
  for (const node of graph.nodes) for (const output of node.outputs) output.shape = undefined;
}

/** Changes the leading `old` of constant Reshape targets to `batch`. */
function rebatchReshapes(graph: Graph, moving: ReadonlySet<Value>, old: number, batch: number): void {
  for (const node of graph.nodes) {
    const [x, target] = node.inputs;
    if (node.opType !== "Reshape" || !x || !moving.has(x)) continue;
    const attribute = target?.producer?.opType === "Constant" ? target.producer.attributes.get("value") : undefined;
    const sizes = (target?.tensor ?? (attribute?.type === "tensor" ? attribute.value : undefined))?.peekNumbers();
    if (sizes?.[0] !== old) continue;
    node.setInput(1, graph.addInitializer("batched_shape", Tensor.int64([batch, ...sizes.slice(1)])));
  }
}

function labelInput(b: Builder, prediction: Value, batch: number, loss: LossName): Value {
  const shape: readonly Dim[] = prediction.shape ?? [batch, null];
  if (loss === "mse") return b.input("labels", "float32", shape);
  if (shape.length < 2)
    throw new PareError("unsupported", "Cross-entropy needs scores per class as the first output", {
      where: `output '${prediction.name}'`,
      found: formatShape(shape),
      expected: formatShape([batch, "classes"]),
    });
  return b.input("labels", "int64", shape.slice(0, -1));
}

function lossOf(site: Site, prediction: Value, labels: Value, options: StepOptions): Value {
  if (options.loss === "mse") return meanSquaredError(site, prediction, labels);
  // A model that ends in Softmax is trained on what goes into it: the loss takes logits.
  return crossEntropy(site, logitsOf(prediction), labels, options.labelSmoothing ?? 0);
}

/** What a final Softmax or LogSoftmax over the last axis reads; any other prediction as it is. */
export function logitsOf(prediction: Value): Value {
  const producer = prediction.producer;
  const last = (prediction.shape?.length ?? 0) - 1;
  const over = producer?.int("axis", -1);
  const ends = producer?.opType === "Softmax" || producer?.opType === "LogSoftmax";
  return ends && (over === -1 || over === last) ? (producer.inputs[0] as Value) : prediction;
}

interface Statistics {
  readonly node: Node;
  /** Mean and variance of the model. */
  readonly running: readonly [Value, Value];
}

/** Turns every BatchNormalization to its training form, whose momentum 0 makes it give out the batch's own statistics. */
function useBatchStatistics(graph: Graph, opset: number, toState: (value: Value) => void): Statistics[] {
  const found: Statistics[] = [];
  const nodes = graph.nodes.filter((node) => node.opType === "BatchNormalization" && node.domain === "");
  for (const node of nodes) {
    const [, , , mean, variance] = node.inputs;
    if (!mean?.tensor || !variance?.tensor || mean.uses.length > 1 || variance.uses.length > 1) continue;
    if (opset < 14)
      throw new PareError("unsupported", "Training BatchNormalization needs opset 14", {
        where: `node '${node.name}'`,
        found: `opset ${opset}`,
        help: "Convert the model to a newer opset, or train with its statistics frozen",
      });
    node.attributes.set("training_mode", { type: "int", value: 1 });
    node.attributes.set("momentum", float(0));
    node.outputs.splice(1);
    for (const part of ["batch_mean", "batch_var"]) {
      const output = new Value(graph.uniqueName(`${node.name}/${part}`), "float32", mean.shape);
      output.producer = node;
      node.outputs.push(output);
    }
    toState(mean);
    toState(variance);
    // The engine writes the outputs over these two inputs: it is given copies, whose contents do not matter at momentum 0.
    const b = new Builder(graph, { prefix: "train/", before: node });
    for (const [i, value] of [mean, variance].entries()) node.setInput(3 + i, b.op("Neg", [value]));
    found.push({ node, running: [mean, variance] });
  }
  return found;
}

/** running ← m·running + (1 − m)·batch; the variance of n elements per channel is made unbiased by n/(n − 1). */
function moveStatistics(
  site: Site,
  statistics: readonly Statistics[],
  momentum: number,
  link: (input: Value, next: Value) => void,
): void {
  for (const { node, running } of statistics) {
    const shape = node.inputs[0]?.shape ?? [];
    const n = shape.reduce<number>((count, dim, axis) => (axis === 1 ? count : count * Number(dim)), 1);
    const unbiased = n > 1 ? n / (n - 1) : 1;
    for (const [i, value] of running.entries()) {
      const share = (1 - momentum) * (i === 1 && Number.isFinite(unbiased) ? unbiased : 1);
      const batch = node.outputs[i + 1] as Value;
      link(value, add(site, scale(site, value, momentum, "float32"), scale(site, batch, share, "float32")));
    }
  }
}

/** Drops state inputs that nothing reads any more. */
function dropUnusedInputs(graph: Graph, links: Readonly<Record<string, string>>): void {
  const kept = graph.inputs.filter((input) => input.uses.length > 0 || input.name in links);
  graph.inputs.splice(0, graph.inputs.length, ...kept);
}
