/** Puts simulated low-bit numbers into a model that will be trained, and takes them out again. */
import type { CodeBits } from "../../base/packed.ts";
import { Builder } from "../../ir/builder.ts";
import { float } from "../../ir/attribute.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { SIMULATED_DOMAIN } from "../../ops/simulated.ts";
import { elementCount, isConcrete } from "../../base/shape.ts";
import { type AwarePlan, type Layer, type Rounding, STREAM_BITS } from "./plan.ts";

/** How the codes of a weight are found. */
export type WeightRule = "uniform" | "binary" | "mean-binary" | "mean-ternary" | "trained-ternary";

/** What a weight is rounded to. */
export interface WeightGrid {
  readonly layer: Layer;
  readonly rule: WeightRule;
  /** Of the stored codes. */
  readonly bits: CodeBits;
  readonly low: number;
  readonly high: number;
  /** One scale per output channel, or one for all. */
  readonly perChannel: boolean;
  /** Initializers that learn: a scale, or two magnitudes; none where the weight itself decides. */
  readonly learned: readonly Value[];
}

/** What an activation is rounded to: codes 0..2^bits − 1. */
export interface ActivationGrid {
  readonly rounding: Rounding;
  readonly bits: number;
  /** (), float32. */
  readonly scale: Value;
  /** (), float32, rounded where it is used; undefined: 0. */
  readonly offset: Value | undefined;
  readonly learns: boolean;
}

export interface Simulation {
  readonly weights: readonly WeightGrid[];
  readonly activations: readonly ActivationGrid[];
}

/** First numbers of a weight's rule. */
export interface WeightStart {
  readonly rule: WeightRule;
  readonly bits: CodeBits;
  readonly low: number;
  readonly high: number;
  readonly perChannel: boolean;
  /** First values of what learns. */
  readonly learned: readonly Tensor[];
  /** False: they stay as they are. */
  readonly learns: boolean;
}

export interface ActivationStart {
  readonly bits: number;
  readonly scale: number;
  /** Code of 0; undefined: the values are never negative. */
  readonly zeroPoint: number | undefined;
  readonly learns: boolean;
  /** The range follows the data at first. */
  readonly observed?: boolean | undefined;
}

const OPERATORS: Readonly<Record<WeightRule, string>> = {
  uniform: "FakeQuantize",
  binary: "FakeBinary",
  "mean-binary": "FakeBinary",
  "mean-ternary": "FakeTernary",
  "trained-ternary": "FakeTrainedTernary",
};

/** Bits at which a rounding happens, or undefined where it does not: everything is rounded to the stream's bits already. */
export function bitsOf(rounding: Rounding, bits: { readonly layer: number; readonly end: number }): number | undefined {
  if (rounding.kind === "stream") return STREAM_BITS;
  const own = bits[rounding.kind];
  return rounding.behind && own >= STREAM_BITS ? undefined : own;
}

/** Rounds the weights and activations of the plan in place, from these first numbers on. */
export function simulate(
  model: Model,
  plan: AwarePlan,
  weightStart: (layer: Layer) => WeightStart,
  activationStart: (rounding: Rounding) => ActivationStart | undefined,
): Simulation {
  const weights = new Map<Value, WeightGrid>();
  for (const layer of plan.layers)
    if (!weights.has(layer.weight)) weights.set(layer.weight, roundWeight(model, layer, weightStart(layer)));
  for (const layer of plan.layers) {
    const rounded = weights.get(layer.weight)?.layer.weight.uses.find((use) => use.node.domain === SIMULATED_DOMAIN);
    layer.node.setInput(1, rounded?.node.outputs[0]);
  }
  const made = new Map<Rounding, Map<Value, Value>>();
  const activations: ActivationGrid[] = [];
  for (const rounding of plan.roundings) {
    const start = activationStart(rounding);
    if (!start) continue;
    const before = rounding.behind && made.get(rounding.behind);
    const { grid, rounded } = roundActivations(model.graph, rounding, start, before);
    made.set(rounding, rounded);
    activations.push(grid);
  }
  return { weights: [...weights.values()], activations };
}

function roundWeight({ graph }: Model, layer: Layer, start: WeightStart): WeightGrid {
  const { weight, axis } = layer;
  const { rule, bits, low, high, perChannel } = start;
  const b = new Builder(graph, { prefix: `${weight.name}.`, before: graph.nodes[0] });
  const learned = start.learned.map((tensor, i) => b.constant(`scale${i === 0 ? "" : i}`, tensor));
  const elements = weight.tensor?.elements ?? 1;
  const sharing = perChannel ? elements / (weight.tensor?.shape[axis] ?? 1) : elements;
  const attributes = {
    low,
    high,
    axis: perChannel ? axis : undefined,
    learned: start.learns && learned.length > 0 ? 1 : 0,
    gradient_scale: float(1 / Math.sqrt(sharing * Math.max(1, high))),
  };
  const rounded = b.op(OPERATORS[rule], [weight, ...learned], {
    domain: SIMULATED_DOMAIN,
    attributes,
    name: "rounded",
  });
  [rounded.dtype, rounded.shape] = ["float32", weight.tensor?.shape];
  return { layer, rule, bits, low, high, perChannel, learned };
}

/** Rounds the roots of a group of activations on one grid. */
function roundActivations(
  graph: Graph,
  rounding: Rounding,
  start: ActivationStart,
  before: ReadonlyMap<Value, Value> | undefined,
): { readonly grid: ActivationGrid; readonly rounded: Map<Value, Value> } {
  const name = rounding.values[0]?.name ?? "";
  const stored = (suffix: string, value: number): Value =>
    graph.addInitializer(graph.uniqueName(`${name}.${suffix}`), Tensor.float32([], [value]));
  const scale = stored(`scale${start.bits}`, start.scale);
  const offset = start.zeroPoint === undefined ? undefined : stored(`offset${start.bits}`, start.zeroPoint);
  const high = 2 ** start.bits - 1;
  const rounded = new Map<Value, Value>();
  for (const value of rounding.roots) {
    const source = before?.get(value) ?? value;
    const sizes = value.shape?.slice(1);
    const features = isConcrete(sizes) ? elementCount(sizes) : 1;
    const uses = source.uses.filter((use) => rounding.everywhere.has(value) || rounding.readers.has(use.node));
    const after = source.producer ? graph.nodes[graph.nodes.indexOf(source.producer) + 1] : graph.nodes[0];
    const b = new Builder(graph, { before: after });
    const attributes = {
      low: 0,
      high,
      learned: start.learns ? 1 : 0,
      observed: start.observed ? 1 : undefined,
      nonnegative: offset ? 0 : 1,
      gradient_scale: float(1 / Math.sqrt(features * high)),
    };
    const result = b.op("FakeQuantize", [source, scale, offset], {
      domain: SIMULATED_DOMAIN,
      attributes,
      name: `${value.name}.rounded${start.bits}`,
    });
    [result.dtype, result.shape] = ["float32", value.shape];
    for (const use of uses) use.node.setInput(use.index, result);
    if (rounding.everywhere.has(value)) giveOut(graph, source, result);
    rounded.set(value, result);
  }
  const grid = { rounding, bits: start.bits, scale, offset, learns: start.learns };
  return { grid, rounded };
}

/** Makes the rounded value the output that the unrounded one was. */
function giveOut(graph: Graph, value: Value, rounded: Value): void {
  for (const [i, output] of graph.outputs.entries()) if (output === value) graph.outputs[i] = rounded;
}

/** Takes every simulated number out again; weights and normalizations stay as they were trained. */
export function unsimulate({ graph }: Model): void {
  for (const node of graph.nodes.filter(({ domain }) => domain === SIMULATED_DOMAIN)) {
    const [source, ...parameters] = node.inputs;
    const [rounded] = node.outputs;
    if (!source || !rounded) continue;
    rounded.replaceUses(source);
    giveOut(graph, rounded, source);
    graph.remove(node);
    for (const value of parameters)
      if (value && value.uses.length === 0 && graph.initializers.has(value.name)) graph.removeInitializer(value);
  }
}
