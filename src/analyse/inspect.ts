/** A model at a glance: ports, operators, sizes, costs and layers, as `inspect --json` prints them. */
import type { DType } from "../base/dtype.ts";
import type { Dim } from "../base/shape.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Bindings } from "../ops/symbolic.ts";
import { type PortGrid, portGrids } from "../run/port-grids.ts";
import { type LayerCost, costOf } from "./cost.ts";
import { parameterTensors } from "./parameters.ts";
import { type InferredTypes, inferTypes } from "./shapes.ts";

export interface InspectedPort {
  readonly name: string;
  readonly dtype: DType | null;
  /** null: rank unknown. A null dimension is of unknown size. */
  readonly shape: readonly Dim[] | null;
  /** Of a port of codes: it stands for (code − zeroPoint)·scale. */
  readonly scale?: number;
  readonly zeroPoint?: number;
}

export interface InspectedLayer {
  readonly name: string;
  readonly op: string;
  readonly parameters: number;
  readonly macs: number;
  /** Of the stored tensors that the layer's weights are made of. */
  readonly bytes: number;
  /** How the kernel is stored; null without weights. */
  readonly dtype: string | null;
}

/** The document that `inspect --json` prints. */
export interface Inspection {
  readonly path: string | null;
  /** Of the model's files where the caller knows them, else of its stored tensors. */
  readonly bytes: number;
  readonly gzipBytes?: number;
  readonly opset: number;
  readonly irVersion: number;
  readonly producer: string;
  readonly inputs: readonly InspectedPort[];
  readonly outputs: readonly InspectedPort[];
  readonly nodes: number;
  /** Nodes of each operator, `Op` or `domain::Op`, the commonest first; subgraphs and local functions included. */
  readonly operators: Readonly<Record<string, number>>;
  readonly parameters: number;
  /** null unless it was asked for: counting reads every weight. */
  readonly nonzero: number | null;
  /** For one sample: symbolic dimensions without a given size are 1. */
  readonly macs: number;
  /** Layers with weights or multiply-accumulates, in order. */
  readonly layers: readonly InspectedLayer[];
}

export interface InspectOptions {
  readonly path?: string | undefined;
  readonly bytes?: number | undefined;
  readonly gzipBytes?: number | undefined;
  /** Count the parameters that are not zero; default false, for it reads the weights. */
  readonly nonzero?: boolean | undefined;
  /** Sizes of symbolic dimensions, for macs. */
  readonly dims?: Bindings | undefined;
}

/** Looks at a model without changing it. Reads no weights unless `nonzero` is asked for. */
export async function inspect(model: Model, options: InspectOptions = {}): Promise<Inspection> {
  const types = inferTypes(model);
  const cost = costOf(model, options.dims);
  const tensors = parameterTensors(model);
  const { parameters } = cost;
  let nonzero = options.nonzero ? parameters : null;
  if (nonzero !== null) for (const tensor of tensors) nonzero -= await tensor.zeros();
  const operators = operatorCounts(model);
  const grids = portGrids(model);
  return {
    path: options.path ?? model.path ?? null,
    bytes: options.bytes ?? storedBytes(model),
    ...(options.gzipBytes === undefined ? {} : { gzipBytes: options.gzipBytes }),
    opset: model.opset,
    irVersion: model.irVersion,
    producer: [model.producerName, model.producerVersion].filter((text) => text !== "").join(" "),
    inputs: model.graph.inputs.filter((input) => !input.tensor).map((input) => portOf(input, undefined, grids)),
    outputs: model.graph.outputs.map((output) => portOf(output, types, grids)),
    nodes: Object.values(operators).reduce((a, b) => a + b, 0),
    operators,
    parameters,
    nonzero,
    macs: cost.macs,
    layers: cost.layers.filter((layer) => layer.parameters > 0 || layer.macs > 0).map(layerOf),
  };
}

/** An input as it is declared, or an output as it is inferred. */
function portOf(
  value: Value,
  inferred: InferredTypes | undefined,
  grids: ReadonlyMap<string, PortGrid>,
): InspectedPort {
  const type = inferred?.types.get(value) ?? value;
  const grid = grids.get(value.name);
  return {
    name: value.name,
    dtype: type.dtype ?? null,
    shape: type.shape ?? null,
    ...(grid ? { scale: grid.scale, zeroPoint: grid.zeroPoint } : {}),
  };
}

function layerOf(layer: LayerCost): InspectedLayer {
  const { name, op, parameters, macs, weightBytes, dtype } = layer;
  return { name, op, parameters, macs, bytes: weightBytes, dtype: dtype ?? null };
}

function operatorCounts(model: Model): Record<string, number> {
  const counts = new Map<string, number>();
  const graphs = [model.graph, ...model.functions.map((each) => each.body)];
  for (const graph of graphs)
    for (const { domain, opType } of graph.allNodes()) {
      const key = domain === "" ? opType : `${domain}::${opType}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  return Object.fromEntries([...counts].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)));
}

/** Bytes of every initializer and tensor attribute. */
function storedBytes(model: Model): number {
  let bytes = 0;
  for (const graph of [model.graph, ...model.functions.map((each) => each.body)].flatMap((top) => [
    ...top.allGraphs(),
  ])) {
    for (const value of graph.initializers.values()) bytes += value.tensor?.byteLength ?? 0;
    for (const node of graph.nodes)
      for (const attribute of node.attributes.values())
        if (attribute.type === "tensor") bytes += attribute.value.byteLength;
  }
  return bytes;
}
