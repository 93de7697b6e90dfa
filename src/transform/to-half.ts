/** Rewrites a float32 graph to float16 with float32 islands: Casts stand where the two meet. */
import { type DType, dtypeCode } from "../base/dtype.ts";
import { Builder } from "../ir/builder.ts";
import { type Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { SharedParts } from "./shared-source.ts";

export interface ToHalfOptions {
  /** Nodes that keep computing in float32. */
  readonly isIsland: (node: Node) => boolean;
  /** Constants that stay float32. */
  readonly keepsFloat32: (value: Value) => boolean;
  /** Model inputs and outputs stay float32. */
  readonly keepIo: boolean;
  /** Bits of a float32 tensor as float16, in the dtype's bytes. */
  readonly convert: (tensor: Tensor) => Promise<Uint8Array>;
}

/** Inputs that an operator's definition wants in float32 whatever its data is. */
const FLOAT32_INPUTS: Readonly<Record<string, readonly number[]>> = { Resize: [1, 2], Upsample: [1] };

/** Constants of islands below this size are not worth a Cast. */
const SMALLEST_STORED = 64;

/** Attributes that name the dtype of an output. */
const DTYPE_ATTRIBUTES = ["to", "dtype"];

/** Converts in place. Dtypes of all values must have been inferred; strings, integers and sequences are not touched. */
export function toHalf(model: Model, options: ToHalfOptions): void {
  const float32 = new Set<Value>();
  for (const graph of model.graph.allGraphs())
    for (const value of graph.values()) if (value.dtype === "float32") float32.add(value);
  new Conversion(options, float32).graph(model.graph, options.keepIo, false);
}

class Conversion {
  readonly #options: ToHalfOptions;
  /** Values that were float32 in the file: all that is ever converted. */
  readonly #float32: ReadonlySet<Value>;
  readonly #casts = new Map<Graph, Map<string, Value>>();
  readonly #constants = new Map<Value, Value>();

  constructor(options: ToHalfOptions, float32: ReadonlySet<Value>) {
    this.#options = options;
    this.#float32 = float32;
  }

  /** `outer32`: the node that holds this subgraph is an island, and so is everything inside. */
  graph(graph: Graph, ioIs32: boolean, outer32: boolean): void {
    if (!ioIs32)
      for (const input of graph.inputs)
        if (input.dtype === "float32" && !input.tensor) {
          input.dtype = "float16";
          input.original = undefined;
        }
    for (const node of graph.nodes.slice()) this.#node(graph, node, outer32);
    for (const [index, output] of graph.outputs.slice().entries()) this.#output(graph, index, output, ioIs32);
  }

  #node(graph: Graph, node: Node, outer32: boolean): void {
    const island = outer32 || this.#options.isIsland(node);
    for (const subgraph of node.subgraphs()) this.graph(subgraph, island, island);
    const float32Inputs = FLOAT32_INPUTS[node.opType] ?? [];
    for (const [index, input] of node.inputs.entries()) {
      if (!input || !this.#float32.has(input)) continue;
      const wanted = island || float32Inputs.includes(index) ? "float32" : "float16";
      node.setInput(index, this.#as(graph, node, input, wanted));
    }
    if (island) return;
    for (const name of DTYPE_ATTRIBUTES)
      if (node.int(name) === dtypeCode("float32"))
        node.attributes.set(name, { type: "int", value: dtypeCode("float16") });
    const filling = node.attributes.get("value");
    if (filling?.type === "tensor" && filling.value.dtype === "float32")
      node.attributes.set("value", { ...filling, value: this.#halfTensor(filling.value) });
    for (const output of node.outputs)
      if (output.dtype === "float32") {
        output.dtype = "float16";
        output.original = undefined;
      }
  }

  /** The value in the wanted dtype, as the node sees it. */
  #as(graph: Graph, node: Node, value: Value, wanted: "float32" | "float16"): Value {
    if (value.tensor?.dtype === "float32") {
      const keeps = this.#options.keepsFloat32(value);
      if (wanted === "float16")
        return keeps ? this.#cast(graph, node, value, wanted) : this.#halfConstant(value, graph);
      // Weights of an island are stored in half precision too, and widened once at load.
      if (keeps || value.tensor.elements < SMALLEST_STORED) return value;
      return this.#cast(graph, node, this.#halfConstant(value, graph), wanted);
    }
    return value.dtype === wanted ? value : this.#cast(graph, node, value, wanted);
  }

  /** One Cast per value, dtype and graph, placed before its first reader. */
  #cast(graph: Graph, before: Node | undefined, value: Value, to: DType): Value {
    const known = this.#casts.get(graph) ?? new Map<string, Value>();
    this.#casts.set(graph, known);
    const key = `${value.name}:${to}`;
    const old = known.get(key);
    if (old) return old;
    const b = new Builder(graph, { before });
    const made = b.op("Cast", [value], { attributes: { to: dtypeCode(to) }, name: `${value.name}.${to}` });
    made.dtype = to;
    made.shape = value.shape;
    known.set(key, made);
    return made;
  }

  #halfConstant(value: Value, graph: Graph): Value {
    const known = this.#constants.get(value);
    if (known) return known;
    let holder: Graph = graph;
    while (holder.initializers.get(value.name) !== value && holder.parent) holder = holder.parent;
    const made = holder.addInitializer(`${value.name}.half`, this.#halfTensor(value.tensor as Tensor));
    this.#constants.set(value, made);
    return made;
  }

  #halfTensor(tensor: Tensor): Tensor {
    const parts = new SharedParts([{ dtype: "float16", shape: tensor.shape }], async () => [
      await this.#options.convert(tensor),
    ]);
    return parts.tensors[0] as Tensor;
  }

  /** An output of the model keeps its name and dtype behind a Cast; one of a subgraph takes the dtype of its node. */
  #output(graph: Graph, index: number, output: Value, ioIs32: boolean): void {
    if (!this.#float32.has(output)) return;
    const isHalf = output.dtype === "float16";
    if (isHalf === !ioIs32) return;
    if (output.tensor && !isHalf) {
      graph.outputs[index] = this.#halfConstant(output, graph);
      return;
    }
    const to = ioIs32 ? "float32" : "float16";
    const name = output.name;
    const made = new Value(name, to, output.shape);
    const inner = graph.parent === undefined && !output.tensor && !graph.inputs.includes(output);
    if (inner) output.name = graph.uniqueName(`${name}.${isHalf ? "float16" : "float32"}`);
    else made.name = graph.uniqueName(`${name}.${to}`);
    made.original = undefined;
    graph.add(
      new Node({
        opType: "Cast",
        inputs: [output],
        outputs: [made],
        name: `${made.name}.cast`,
        attributes: [["to", { type: "int", value: dtypeCode(to) }]],
      }),
    );
    graph.outputs[index] = made;
  }
}
