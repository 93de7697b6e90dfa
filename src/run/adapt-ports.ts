/** Models whose inputs or outputs have dtypes that the engine's binding cannot pass: casts are put at their borders. */
import type { DType } from "../base/dtype.ts";
import { Builder } from "../ir/builder.ts";
import { cloneModel } from "../ir/clone.ts";
import { type Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { dtypeCode } from "../base/dtype.ts";
import { convertArray } from "./arrays.ts";
import type { Feeds, NdArray, Port, Resident, RunOptions, Session } from "./session.ts";

/** Dtypes that cannot be passed, and the ones that carry their values exactly. */
const CARRIERS: Partial<Record<DType, DType>> = {
  int4: "int8",
  uint4: "uint8",
  int2: "int8",
  uint2: "uint8",
  bfloat16: "float32",
  float8e4m3fn: "float32",
  float8e4m3fnuz: "float32",
  float8e5m2: "float32",
  float8e5m2fnuz: "float32",
  float4e2m1: "float32",
};

/** Dtypes of the ports that were changed, by name. */
export type PortTypes = ReadonlyMap<string, DType>;

/** A copy of the model with carriers at its ports, and the dtypes they stand for; undefined if none is needed. */
export function adaptPorts(model: Model): { readonly model: Model; readonly types: PortTypes } | undefined {
  const odd = (value: Value): boolean => value.dtype !== undefined && CARRIERS[value.dtype] !== undefined;
  if (![...model.graph.inputs, ...model.graph.outputs].some((value) => odd(value) && !value.tensor)) return undefined;
  const adapted = cloneModel(model);
  const { graph } = adapted;
  const types = new Map<string, DType>();
  for (const [index, value] of graph.inputs.entries())
    if (odd(value) && !value.tensor) types.set(value.name, adaptInput(graph, index, value));
  for (const [index, value] of graph.outputs.entries())
    if (odd(value)) types.set(value.name, adaptOutput(graph, index, value));
  return { model: adapted, types };
}

function adaptInput(graph: Graph, index: number, value: Value): DType {
  const dtype = value.dtype as DType;
  const carrier = new Value(value.name, CARRIERS[dtype] as DType, value.shape);
  value.name = graph.uniqueName(`${value.name}_typed`);
  graph.inputs[index] = carrier;
  const cast = new Node({
    opType: "Cast",
    name: value.name,
    inputs: [carrier],
    outputs: [value],
    attributes: [["to", { type: "int", value: dtypeCode(dtype) }]],
  });
  graph.add(cast, graph.nodes[0]);
  return dtype;
}

function adaptOutput(graph: Graph, index: number, value: Value): DType {
  const dtype = value.dtype as DType;
  const carrier = CARRIERS[dtype] as DType;
  const { name, shape } = value;
  value.name = graph.uniqueName(`${name}_typed`);
  const result = new Builder(graph).op("Cast", [value], {
    name: `${name}_carried`,
    attributes: { to: dtypeCode(carrier) },
  });
  result.name = name;
  result.dtype = carrier;
  result.shape = shape;
  graph.outputs[index] = result;
  return dtype;
}

/** The session with the dtypes that the model declares. */
export class AdaptedSession implements Session {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly #inner: Session;
  readonly #types: PortTypes;

  constructor(inner: Session, types: PortTypes) {
    this.#inner = inner;
    this.#types = types;
    const declared = (port: Port): Port => ({ ...port, dtype: types.get(port.name) ?? port.dtype });
    this.inputs = inner.inputs.map(declared);
    this.outputs = inner.outputs.map(declared);
  }

  async run(feeds: Feeds, fetches?: readonly string[], options?: RunOptions): Promise<Record<string, NdArray>> {
    return this.#out(await this.#inner.run(this.#in(feeds), fetches, options));
  }

  time(feeds: Feeds, times: number): Promise<Float64Array> {
    return this.#inner.time(this.#in(feeds), times);
  }

  async resident(state: Feeds, links: Readonly<Record<string, string>>): Promise<Resident> {
    const inner = await this.#inner.resident(this.#in(state), links);
    return {
      step: async (feeds, fetches, options) => this.#out(await inner.step(this.#in(feeds), fetches, options)),
      read: async (names) => this.#out(await inner.read(names)),
      write: (values) => inner.write(this.#in(values)),
    };
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  #in(feeds: Feeds): Feeds {
    const converted: Record<string, NdArray> = {};
    for (const [name, array] of Object.entries(feeds)) {
      const carrier = CARRIERS[this.#types.get(name) ?? array.dtype];
      converted[name] = carrier && this.#types.get(name) === array.dtype ? convertArray(array, carrier) : array;
    }
    return converted;
  }

  #out(arrays: Record<string, NdArray>): Record<string, NdArray> {
    const converted: Record<string, NdArray> = {};
    for (const [name, array] of Object.entries(arrays))
      converted[name] = convertArray(array, this.#types.get(name) ?? array.dtype);
    return converted;
  }
}
