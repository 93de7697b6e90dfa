/** One training step as one ONNX model: forward, loss, backward and optimizer; weights and optimizer state in and out. */
import { inferShapes } from "../analyse/shapes.ts";
import { PareError } from "../base/error.ts";
import { Builder } from "../ir/builder.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";

import type { Feeds, NdArray } from "../run/session.ts";
import { type BatchStatistics, moveStatistics, useBatchStatistics } from "./batch-statistics.ts";
import { bindBatch } from "./bind-batch.ts";
import { useBlocks } from "./blocked/layout.ts";
import { blockedGrad, lowerBlocks } from "./blocked/rules.ts";
import { feedDropout, type NoisePort } from "./dropout.ts";
import { addGradients } from "./grad.ts";
import { lowerSimulated } from "./lower.ts";
import type { LossSite } from "./losses/loss.ts";
import { useObservers } from "./observers.ts";
import { addObjective, type LabelKind, type Objective, type ObjectiveOptions } from "./objective.ts";
import type { Optimizer, OptimizerOptions } from "./optimizers/optimizer.ts";
import { makeOptimizer } from "./optimizers/table.ts";
import { trainableParameters } from "./parameters.ts";
import { halveProducts } from "./precision.ts";
import { removeUnused } from "./remove-unused.ts";
import type { RewiredState } from "./rewiring.ts";
import { StepState } from "./step-state.ts";
import { targetDropout, type TargetedDropout } from "./targeted-dropout.ts";
import { addUpdates, type LossScale, lossScaleState, type UpdateOptions, type Updates } from "./step-update.ts";

export interface StepOptions extends ObjectiveOptions, OptimizerOptions, UpdateOptions {
  /** Samples per run: every shape in the graph is fixed to it. */
  readonly batch: number;
  /** Names of the trained initializers; default: every learned weight that the loss depends on. */
  readonly parameters?: readonly string[] | undefined;
  /** True for weights and running statistics that must not change, by name. */
  readonly frozen?: ((name: string) => boolean) | undefined;
  /**
   * "batch": BatchNormalization uses the batch's statistics and its running ones move towards them;
   * "frozen": it uses the running statistics, which stay. Default "batch".
   */
  readonly batchNorm?: "batch" | "frozen" | undefined;
  /** Share of the old running statistics that is kept at each step; default 0.9. */
  readonly statisticsMomentum?: number | undefined;
  /**
   * "mixed": products in float16, the loss scaled so that small gradients survive, steps with an overflow skipped, weights in
   * float32. The CPU provider has hardly any float16 kernels: the engine computes in float32 there and drops the casts, so
   * that nothing is gained. Default "float32".
   */
  readonly precision?: "float32" | "mixed" | undefined;
  /** Steps during which observed ranges of simulated activations follow the data; then they stay. Default 0. */
  readonly observeSteps?: number | undefined;
  /** Steps over which the strength of the penalty rises from 0; default 0. */
  readonly rampSteps?: number | undefined;
  /** Drops the least of some weights at random; needs `targetSizes` and dropout. */
  readonly targetedDropout?: TargetedDropout | undefined;
  /** The size below which weights are targeted at first, by name. */
  readonly targetSizes?: ReadonlyMap<string, number> | undefined;
  /** True: Dropout drops, by the numbers fed as `noise`; false: it passes everything. Default true. */
  readonly dropout?: boolean | undefined;
  /**
   * Channels per block of the engine's blocked image layout (`imageBlock` finds it out); without it every image is plain,
   * which is slower, but runs on any engine.
   */
  readonly block?: number | undefined;
}

/** Which run is fed. */
export interface RunIndex {
  /** Steps made before, from 0. */
  readonly step: number;
  readonly learningRate: number;
  /** Run within the step, from 0, where gradients are accumulated. */
  readonly run?: number | undefined;
}

export interface StepGraph {
  /** Inputs: the model's own, the labels, `teacher_logits` with a fed teacher, `noise` with Dropout, scalars, the state. */
  readonly model: Model;
  readonly optimizer: Optimizer;
  /** Name of the output that holds the loss. */
  readonly loss: string;
  /** Names of the model's own inputs. */
  readonly inputs: readonly string[];
  /** Name of the input that takes the targets; undefined where a teacher alone is learned from. */
  readonly labels: string | undefined;
  readonly labelKind: LabelKind | undefined;
  readonly teacherLogits: string | undefined;
  readonly noise: NoisePort | undefined;
  /** Number of scores per row where labels are indices. */
  readonly classes: number | undefined;
  /** Names of the trained weights and of the running statistics: what training changes in the model. */
  readonly weights: readonly string[];
  /** Trained weight to the state that holds its moving average. */
  readonly averages: ReadonlyMap<string, string>;
  /** Trained weight to the state that holds its movement, where that is kept. */
  readonly movements: ReadonlyMap<string, string>;
  /** Weight under targeted dropout to the state that holds the size below which it is dropped. */
  readonly thresholds: ReadonlyMap<string, string>;
  /** Trained weight to the states by which its zeros move. */
  readonly rewired: ReadonlyMap<string, RewiredState>;
  /** Names of the states that hold the loss's scale in mixed precision and the number of steps skipped by an overflow. */
  readonly lossScale: { readonly value: string; readonly skipped: string } | undefined;
  /** First values of the state, by input name. */
  initialState(): Promise<Record<string, NdArray>>;
  /** State input to the output that replaces it. */
  readonly links: Readonly<Record<string, string>>;
  /** Everything fed to a run beside samples, targets and noise. */
  scalars(index: RunIndex): Feeds;
}

/** Builds the step of a model whose first output is its prediction. The model is not changed. */
export function buildStepGraph(model: Model, options: StepOptions): StepGraph {
  const step = cloneModel(model);
  const { graph } = step;
  bindBatch(graph, options.batch);
  const prediction = graph.outputs[0];
  if (!prediction) throw new PareError("bad-model", "The model has no output to train");
  const inputs = graph.inputs.filter((input) => !input.tensor);
  const parameters = parametersOf(step, options);
  graph.outputs.splice(0, graph.outputs.length, prediction);
  const state = new StepState(graph);
  for (const value of parameters) state.adopt(value);
  const thresholds =
    options.targetedDropout && options.targetSizes
      ? targetDropout(graph, step.opset, state, parameters, options.targetedDropout, options.targetSizes)
      : new Map<string, string>();
  const statistics = options.batchNorm === "frozen" ? [] : useBatchStatistics(graph, step.opset, state, options.frozen);
  const observers = useObservers(graph, state);
  const problems = inferShapes(step);
  if (!prediction.shape)
    throw new PareError("unsupported", "The shape of the model's output could not be found", {
      where: `output '${prediction.name}'`,
      ...(problems[0] ? { found: problems[0].message } : {}),
    });
  const noise = options.dropout === false ? undefined : feedDropout(graph, step.opset);
  const lossScale = options.precision === "mixed" ? lossScaleState(state) : undefined;
  if (lossScale) {
    inferShapes(step); // what Dropout became has no types yet
    halveProducts(step);
  }

  const b = new Builder(graph, { prefix: "train/" });
  const learned: Value[] = [];
  const site: LossSite = {
    b,
    opset: step.opset,
    parameter(name, initial) {
      const value = state.add(`train/${name}`, initial.shape, initial);
      learned.push(value);
      return value;
    },
  };
  const objective = addObjective(site, step, inputs, options);
  const { loss } = objective;
  [loss.dtype, loss.shape] = ["float32", []];
  graph.outputs.splice(0, graph.outputs.length);
  b.output(loss, "loss");
  inferShapes(step);

  const all = [...parameters, ...learned];
  const block = lossScale ? undefined : options.block; // the blocked layout holds float32 alone
  if (block) useBlocks(step, block);
  const gradients = addGradients(step, loss, all, lossScale?.value, blockedGrad);
  const optimizer = makeOptimizer(options);
  const scalars = Object.fromEntries(optimizer.scalars.map((name) => [name, b.input(name, "float32", [])]));
  const updates = addUpdates(site, { state, optimizer, scalars, parameters: all, gradients, lossScale, options });
  moveStatistics(site, statistics, options.statisticsMomentum ?? 0.9, (input, next) => state.link(input, next));
  const watching = observers && b.input("watching", "bool", []);
  if (observers && watching) observers.watch(site, watching);
  lowerSimulated(step);
  lowerBlocks(step);
  removeUnused(graph, graph.nodes);
  state.dropUnused();
  return describe(step, {
    lossScale,
    objective,
    inputs,
    noise,
    optimizer,
    scalars,
    state,
    statistics,
    updates,
    thresholds,
    learned,
    observed: observers?.state ?? [],
    watching,
    options,
  });
}

/** The initializers to train. */
function parametersOf(model: Model, { parameters: names, frozen }: StepOptions): Value[] {
  const byName = new Map(trainableParameters(model).map((value) => [value.name, value]));
  const parameters = (names ?? [...byName.keys()].filter((name) => !frozen?.(name))).map((name) => {
    const value = byName.get(name) ?? model.graph.initializers.get(name);
    if (!value) throw new PareError("bad-option", "The model has no such weight to train", { where: `'${name}'` });
    if (value.dtype !== "float32")
      throw new PareError("unsupported", `Weights of ${value.dtype} cannot be trained`, {
        where: `weight '${name}'`,
        help: "Convert the model to float32 first",
      });
    return value;
  });
  if (parameters.length > 0) return parameters;
  throw new PareError("unsupported", "The model has no weights that can be trained");
}

/** The finished graph by the names of its ports. */
function describe(
  model: Model,
  parts: {
    lossScale: LossScale | undefined;
    objective: Objective;
    inputs: readonly Value[];
    noise: NoisePort | undefined;
    optimizer: Optimizer;
    scalars: Readonly<Record<string, Value>>;
    state: StepState;
    statistics: readonly BatchStatistics[];
    updates: Updates;
    thresholds: ReadonlyMap<string, string>;
    learned: readonly Value[];
    observed: readonly Value[];
    watching: Value | undefined;
    options: StepOptions;
  },
): StepGraph {
  const { objective, optimizer, state, updates, options } = parts;
  const trained = updates.trained.filter((value) => !parts.learned.includes(value));
  const running = parts.statistics.flatMap((each) => each.running);
  const here = new Set(model.graph.inputs);
  const fed = Object.entries(parts.scalars).filter(([, value]) => here.has(value));
  const number = (value: number): NdArray => ({ dtype: "float32", shape: [], data: Float32Array.of(value) });
  const flag = (value: boolean): NdArray => ({ dtype: "bool", shape: [], data: Uint8Array.of(value ? 1 : 0) });
  return {
    model,
    optimizer,
    loss: objective.loss.name,
    inputs: parts.inputs.filter((value) => here.has(value)).map((value) => value.name),
    labels: objective.labels?.name,
    labelKind: objective.labelKind,
    teacherLogits: objective.teacherLogits?.name,
    noise: parts.noise,
    classes: objective.classes,
    weights: [...trained, ...running, ...parts.observed].map((value) => value.name),
    averages: updates.averages,
    movements: updates.movements,
    rewired: updates.rewired,
    thresholds: parts.thresholds,
    lossScale: parts.lossScale && { value: parts.lossScale.value.name, skipped: parts.lossScale.skipped.name },
    links: state.links,
    initialState: () => state.initial(),
    scalars({ step, learningRate, run = 0 }) {
      const values = optimizer.feed(step, learningRate);
      const feeds: Record<string, NdArray> = {};
      for (const [name, value] of fed) feeds[value.name] = number(values[name] ?? 0);
      const { begins, steps, averageKeep, shrink } = updates.ports;
      if (begins) feeds[begins.name] = flag(run === 0);
      if (parts.watching) feeds[parts.watching.name] = flag(step < (options.observeSteps ?? 0));
      if (steps) feeds[steps.name] = flag(run === (options.accumulate ?? 1) - 1);
      // A young average follows the weights more closely: min(d, (1 + t)/(10 + t))
      if (averageKeep) feeds[averageKeep.name] = number(Math.min(options.averaging ?? 0, (1 + step) / (10 + step)));
      if (shrink && here.has(shrink)) {
        const ramp = Math.min(1, (step + 1) / (options.rampSteps || 1));
        // Momentum makes the steps of the loss 1/(1 − μ) times as long; so that λ weighs the same against it, those of the penalty too.
        const reach = optimizer.name === "sgd" ? 1 / (1 - (options.momentum ?? 0.9)) : 1;
        feeds[shrink.name] = number(learningRate * reach * ramp * (options.shrinkage?.strength ?? 0));
      }
      return feeds;
    },
  };
}
