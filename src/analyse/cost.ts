/** What a model costs: multiply-accumulates, parameters, bytes and bit operations, layer by layer. */
import { byteLengthOf } from "../base/dtype.ts";
import { isConcrete } from "../base/shape.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import type { OpSpec, ValueType } from "../ops/spec.ts";
import { type Bindings, symbolsOf } from "../ops/symbolic.ts";
import { nameOf } from "./keep.ts";
import { type LayerWeight, activationBits, layerWeights } from "./layer-weights.ts";
import { parameterTensors } from "./parameters.ts";
import { type ScopeTypes, inferTypes } from "./shapes.ts";

export interface LayerCost {
  readonly node: Node;
  readonly name: string;
  readonly op: string;
  /** Multiply-accumulates of one run. */
  readonly macs: number;
  /** Other arithmetic operations. */
  readonly flops: number;
  /** Learned numbers, whatever form they are stored in; running statistics are not counted. */
  readonly parameters: number;
  /** Bytes of the stored tensors that the weights are made of, scales and zero points included. */
  readonly weightBytes: number;
  /** Bytes read and written: weights as stored, activations by their dtype. */
  readonly bytesMoved: number;
  /** Bits of an element of the kernel, and of the activations that meet it. */
  readonly weightBits: number;
  readonly activationBits: number;
  /** macs · weightBits · activationBits. */
  readonly bops: number;
  /** How the kernel is stored; undefined without weights. */
  readonly dtype: string | undefined;
}

export interface Cost {
  readonly macs: number;
  readonly flops: number;
  readonly bops: number;
  /** Of the whole model, subgraphs and local functions included, shared tensors once. */
  readonly parameters: number;
  readonly weightBytes: number;
  readonly bytesMoved: number;
  /** Every node, in order; nodes of subgraphs and local functions too. */
  readonly layers: readonly LayerCost[];
  /** Sizes that symbolic dimensions were given because nobody said: all 1. */
  readonly assumed: Bindings;
  /** Nodes whose cost nobody can tell: unknown operators, or shapes that only the data decides. Counted as 0. */
  readonly unknown: readonly string[];
}

/**
 * The cost of one run. `dims` gives sizes of symbolic dimensions (`{ batch: 1, seq: 128 }`); those without are taken for 1.
 * A compressed form counts the MACs of what it replaces: MatMulNBits N·K for each row, QLinearConv like Conv. Of an If, the
 * dearer branch counts; a loop counts its body as often as it is known to run, else once. Reads no weights and never throws.
 */
export function costOf(model: Model, dims: Bindings = {}): Cost {
  const assumed = assumedSizes(model, dims);
  const scope = inferTypes(model, { dims: { ...assumed, ...dims } });
  const layers: LayerCost[] = [];
  const unknown: string[] = [];
  walk({ graph: model.graph, opsets: model.opsets, scope, times: 1, layers, unknown });
  const sum = (pick: (layer: LayerCost) => number): number => layers.reduce((total, layer) => total + pick(layer), 0);
  return {
    macs: sum((layer) => layer.macs),
    flops: sum((layer) => layer.flops),
    bops: sum((layer) => layer.bops),
    parameters: parameterTensors(model).reduce((total, tensor) => total + tensor.parameters, 0),
    weightBytes: weightBytesOf(model),
    bytesMoved: sum((layer) => layer.bytesMoved),
    layers,
    assumed,
    unknown,
  };
}

/** Bytes of every stored tensor that weights are made of, each once. */
function weightBytesOf(model: Model): number {
  const stored = new Set<Tensor>();
  for (const graph of [model.graph, ...model.functions.map(({ body }) => body)])
    for (const node of graph.allNodes())
      for (const weight of layerWeights(node, model.opsets.get(node.domain) ?? 1))
        for (const { tensor } of weight.stored) stored.add(tensor);
  return [...stored].reduce((sum, tensor) => sum + tensor.byteLength, 0);
}

/** Symbols of the inputs that have no size given are 1. */
function assumedSizes(model: Model, dims: Bindings): Bindings {
  const assumed: Record<string, number> = {};
  const { types } = inferTypes(model);
  for (const input of model.graph.inputs)
    for (const dim of types.get(input)?.shape ?? [])
      for (const symbol of symbolsOf(dim)) if (!Object.hasOwn(dims, symbol)) assumed[symbol] = 1;
  return assumed;
}

interface Walk {
  readonly graph: Graph;
  readonly opsets: ReadonlyMap<string, number>;
  readonly scope: ScopeTypes;
  /** How often the graph runs. */
  readonly times: number;
  readonly layers: LayerCost[];
  readonly unknown: string[];
}

function walk(state: Walk): void {
  const { graph, opsets, scope, layers, unknown } = state;
  const constants = new Set<Value>();
  for (const node of graph.nodes) {
    const call = scope.calls.get(node);
    if (call) {
      walk({ ...state, graph: call.body, opsets: call.opsets, scope: call.scope });
      continue;
    }
    const opset = opsets.get(node.domain) ?? 1;
    const spec = specOf(node, opset);
    const atLoad = isComputedAtLoad(node, spec, constants);
    if (atLoad) for (const output of node.outputs) constants.add(output);
    const layer = layerCost(node, spec, opset, state);
    const free = atLoad || isFusedCodec(node, opsets);
    if (layer) layers.push(free ? { ...layer, macs: 0, flops: 0, bytesMoved: 0, bops: 0 } : layer);
    else unknown.push(nameOf(node));
    walkBodies(node, state);
  }
}

/** What depends on constants alone (weights being unpacked) is computed when the model is loaded, not when it runs. */
function isComputedAtLoad(node: Node, spec: OpSpec | undefined, constants: ReadonlySet<Value>): boolean {
  if (!spec || spec.traits?.impure || node.subgraphs().next().done !== true) return false;
  return node.inputs.every((input) => !input || input.tensor !== undefined || constants.has(input));
}

/** QuantizeLinear or DequantizeLinear that the engine melts into the integer operator beside it: it runs no code of its own. */
function isFusedCodec(node: Node, opsets: ReadonlyMap<string, number>): boolean {
  const isQuantizable = (other: Node | undefined): boolean =>
    other !== undefined && specOf(other, opsets.get(other.domain) ?? 1)?.traits?.quantizable === true;
  if (node.opType === "QuantizeLinear") return isQuantizable(node.inputs[0]?.producer);
  const uses = node.outputs[0]?.uses ?? [];
  return node.opType === "DequantizeLinear" && uses.length > 0 && uses.every((use) => isQuantizable(use.node));
}

/** The value whose dtype is what lies in memory: the codes, where a value only passes between a pair of codecs. */
function storedValue(value: Value): Value {
  if (value.producer?.opType === "DequantizeLinear") return value.producer.inputs[0] ?? value;
  const codes = value.uses.every((use) => use.node.opType === "QuantizeLinear")
    ? value.uses[0]?.node.outputs[0]
    : undefined;
  return codes ?? value;
}

/** Bodies of control flow: the branch that costs more, or the body as often as it runs. */
function walkBodies(node: Node, state: Walk): void {
  const bodies = [...node.subgraphs()];
  if (bodies.length === 0) return;
  const results = bodies.map((graph) => {
    const layers: LayerCost[] = [];
    const unknown: string[] = [];
    walk({ ...state, graph, times: state.times * runs(node, state.scope), layers, unknown });
    return { layers, unknown, macs: layers.reduce((total, { macs, flops }) => total + macs + flops, 0) };
  });
  const dearest = results.reduce((a, b) => (b.macs > a.macs ? b : a));
  state.layers.push(...dearest.layers);
  state.unknown.push(...dearest.unknown);
}

/** Iterations of a Loop or Scan where they are known; otherwise 1. */
function runs(node: Node, scope: ScopeTypes): number {
  const type = (input: Value | undefined): ValueType | undefined => input && scope.types.get(input);
  if (node.opType === "Loop") {
    const trips = type(node.inputs[0])?.contents?.[0];
    return typeof trips === "number" && trips < 1e6 ? Math.max(0, trips) : 1;
  }
  if (node.opType !== "Scan") return 1;
  const first = node.inputs.length - node.int("num_scan_inputs", 1);
  const shape = type(node.inputs[first])?.shape;
  const length = shape?.at(node.ints("scan_input_axes")?.[0] ?? 0);
  return typeof length === "number" ? length : 1;
}

/** undefined if the cost cannot be told. */
function layerCost(node: Node, spec: OpSpec | undefined, opset: number, state: Walk): LayerCost | undefined {
  if (!spec) return undefined;
  const { types } = state.scope;
  const shapeOf = (value: Value | undefined): readonly number[] | undefined => {
    const shape = value && types.get(value)?.shape;
    return isConcrete(shape) ? shape : undefined;
  };
  const inputs = node.inputs.map(shapeOf);
  const outputs = node.outputs.map(shapeOf);
  if (spec.traits?.linear && (!inputs[0] || !outputs.some((output) => output !== undefined))) return undefined;
  const { macs, flops = 0 } = spec.cost({ node, inputs, outputs });
  const weights = layerWeights(node, opset, (value) => types.get(value)?.shape);
  const kernel = weights.find(({ weight }) => weight.role === "kernel" || weight.role === "table") ?? weights[0];
  const weightBytes = storedBytes(weights);
  const weightBits = kernel?.bits ?? 32;
  const activations = bitsOfActivations(node, weights, types);
  return {
    node,
    name: nameOf(node),
    op: node.opType,
    macs: macs * state.times,
    flops: flops * state.times,
    parameters: weights.reduce((sum, { weight, elements }) => sum + (weight.role === "statistic" ? 0 : elements), 0),
    weightBytes,
    bytesMoved: (weightBytes + bytesOfActivations(node, weights, types)) * state.times,
    weightBits,
    activationBits: activations,
    bops: macs * state.times * weightBits * activations,
    dtype: kernel?.stored[0]?.tensor.dtype,
  };
}

function storedBytes(weights: readonly LayerWeight[]): number {
  const tensors = new Set(weights.flatMap(({ stored }) => stored.map(({ tensor }) => tensor)));
  return [...tensors].reduce((sum, tensor) => sum + tensor.byteLength, 0);
}

/** The bits of what meets the kernel. An integer kernel beside float data means that the operator quantizes it itself. */
function bitsOfActivations(node: Node, weights: readonly LayerWeight[], types: ReadonlyMap<Value, ValueType>): number {
  const kernels = weights.filter(({ weight }) => weight.role === "kernel");
  const index = node.inputs.findIndex((_, i) => !weights.some(({ weight }) => weight.input === i));
  const data = node.inputs[index];
  const bits = activationBits(data, (value) => types.get(value)?.dtype);
  const kernel = kernels[0] && node.inputs[kernels[0].weight.input];
  const direct = kernel && types.get(kernel)?.dtype;
  const isPacked = node.int("K") !== undefined;
  return !isPacked && (direct === "int8" || direct === "uint8") ? Math.min(bits, 8) : bits;
}

function bytesOfActivations(node: Node, weights: readonly LayerWeight[], types: ReadonlyMap<Value, ValueType>): number {
  const bytesOf = (value: Value | undefined): number => {
    const type = value && types.get(storedValue(value));
    return type?.dtype && isConcrete(type.shape)
      ? byteLengthOf(
          type.dtype,
          type.shape.reduce((a, b) => a * b, 1),
        )
      : 0;
  };
  const learned = new Set(
    weights.flatMap(({ weight, stored }) => [node.inputs[weight.input], ...stored.map((part) => part.value)]),
  );
  const read = node.inputs.filter((input) => input && !learned.has(input));
  return [...read, ...node.outputs].reduce((sum, value) => sum + bytesOf(value), 0);
}
