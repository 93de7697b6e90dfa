/** One optimizer step of any scalar objective of a graph as one ONNX model: for what is learned from stored arrays, not from a data set. */
import { inferShapes } from "../analyse/shapes.ts";
import { PareError } from "../base/error.ts";
import { Builder } from "../ir/builder.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Feeds, NdArray } from "../run/session.ts";
import { useBlocks } from "./blocked/layout.ts";
import { blockedGrad, lowerBlocks } from "./blocked/rules.ts";
import { addGradients } from "./grad.ts";
import type { OptimizerOptions } from "./optimizers/optimizer.ts";
import { makeOptimizer } from "./optimizers/table.ts";
import { removeUnused } from "./remove-unused.ts";
import { StepState } from "./step-state.ts";
import { addUpdates, type UpdateOptions } from "./step-update.ts";

export interface ObjectiveStepOptions extends OptimizerOptions, UpdateOptions {
  /** Names of the initializers that are learned. */
  readonly parameters: readonly string[];
  /** Channels per block of the engine's blocked image layout; undefined: plain images. */
  readonly block?: number | undefined;
}

export interface ObjectiveStep {
  /** Inputs: the graph's own, the optimizer's scalars, the state. */
  readonly model: Model;
  /** Name of the output that holds the objective. */
  readonly loss: string;
  /** State input to the output that replaces it. */
  readonly links: Readonly<Record<string, string>>;
  initialState(): Promise<Record<string, NdArray>>;
  /** The optimizer's scalars at a step, from 0. */
  scalars(step: number, learningRate: number): Feeds;
}

/** The step of a model whose first output is the objective, a scalar. Every shape must be fixed. The model is not changed. */
export function objectiveStep(model: Model, options: ObjectiveStepOptions): ObjectiveStep {
  const step = cloneModel(model);
  const { graph } = step;
  const loss = graph.outputs[0];
  if (!loss) throw new PareError("bad-model", "The model has no output to minimize");
  const state = new StepState(graph);
  const parameters = options.parameters.map((name) => {
    const value = graph.initializers.get(name);
    if (!value) throw new PareError("bad-option", "The model has no such number to learn", { where: `'${name}'` });
    state.adopt(value);
    return value;
  });
  [loss.dtype, loss.shape] = ["float32", []];
  graph.outputs.splice(0, graph.outputs.length, loss);
  inferShapes(step);
  if (options.block) useBlocks(step, options.block);
  const gradients = addGradients(step, loss, parameters, undefined, blockedGrad);
  const optimizer = makeOptimizer(options);
  const b = new Builder(graph, { prefix: "train/" });
  const scalars: Record<string, Value> = Object.fromEntries(
    optimizer.scalars.map((name) => [name, b.input(name, "float32", [])]),
  );
  const site = { b, opset: step.opset };
  addUpdates(site, { state, optimizer, scalars, parameters, gradients, lossScale: undefined, options });
  lowerBlocks(step);
  removeUnused(graph, graph.nodes);
  state.dropUnused();
  const here = new Set(graph.inputs);
  const fed = Object.entries(scalars).filter(([, value]) => here.has(value));
  return {
    model: step,
    loss: loss.name,
    links: state.links,
    initialState: () => state.initial(),
    scalars(index, learningRate) {
      const values = optimizer.feed(index, learningRate);
      return Object.fromEntries(
        fed.map(([name, value]) => [
          value.name,
          { dtype: "float32", shape: [], data: Float32Array.of(values[name] ?? 0) } satisfies NdArray,
        ]),
      );
    },
  };
}
