/** The graph in memory: values that know their producer and uses, nodes in order, subgraphs that may capture outer values. */
import type { DType } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import type { Dim } from "../base/shape.ts";
import type { Attribute } from "./attribute.ts";
import type { Tensor } from "./tensor.ts";

/** One use of a value: input `index` of `node`. */
export interface Use {
  readonly node: Node;
  readonly index: number;
}

/**
 * One edge of the graph: a graph input, an initializer, or an output of a node. `dtype` and `shape` are what is known
 * (declared or inferred); `type` keeps sequence, optional, map and sparse types that have no dtype and shape of their own.
 */
export class Value {
  name: string;
  dtype: DType | undefined;
  shape: readonly Dim[] | undefined;
  /** The initializer's tensor; undefined for anything computed or fed. */
  tensor: Tensor | undefined;
  /** The node that computes this value; undefined for inputs and initializers. */
  producer: Node | undefined;
  readonly uses: Use[] = [];
  /** What the file said beyond dtype and shape, kept for saving: type message, doc string, metadata, unknown fields. */
  original: unknown;

  constructor(name: string, dtype?: DType, shape?: readonly Dim[], tensor?: Tensor) {
    this.name = name;
    this.dtype = dtype ?? tensor?.dtype;
    this.shape = shape ?? tensor?.shape;
    this.tensor = tensor;
  }

  /** Makes every use of this value use `by` instead. Graph outputs are not uses: see {@link Graph.replaceOutput}. */
  replaceUses(by: Value): void {
    for (const use of this.uses.slice()) use.node.setInput(use.index, by);
  }
}

/** One operator call. Change inputs through {@link setInput} so that use lists stay true. */
export class Node {
  name: string;
  opType: string;
  /** "" is the standard domain ("ai.onnx" is read as ""). */
  domain: string;
  readonly inputs: readonly (Value | undefined)[] = [];
  /** An optional output that is left out is a value with the empty name. */
  readonly outputs: Value[];
  readonly attributes: Map<string, Attribute>;
  /** Doc string, metadata, overload and unknown fields of the file, kept for saving. */
  original: unknown;
  /** The graph that holds this node; set by Graph. */
  graph: Graph | undefined;

  constructor(parts: {
    opType: string;
    inputs: readonly (Value | undefined)[];
    outputs: readonly Value[];
    name?: string;
    domain?: string;
    attributes?: Iterable<readonly [string, Attribute]>;
  }) {
    this.name = parts.name ?? "";
    this.opType = parts.opType;
    this.domain = parts.domain === "ai.onnx" ? "" : (parts.domain ?? "");
    this.outputs = [...parts.outputs];
    this.attributes = new Map(parts.attributes ?? []);
    for (const output of this.outputs) output.producer = this;
    for (const [index, input] of parts.inputs.entries()) this.setInput(index, input);
  }

  /** Sets, replaces or (with undefined) empties input `index`; trailing empty inputs are dropped. */
  setInput(index: number, value: Value | undefined): void {
    const inputs = this.inputs as (Value | undefined)[];
    const old = inputs[index];
    if (old) {
      const at = old.uses.findIndex((use) => use.node === this && use.index === index);
      if (at >= 0) old.uses.splice(at, 1);
    }
    while (inputs.length <= index) inputs.push(undefined);
    inputs[index] = value;
    value?.uses.push({ node: this, index });
    while (inputs.length > 0 && inputs.at(-1) === undefined) inputs.pop();
  }

  /** Empties every input, so that no value lists this node among its uses. */
  detach(): void {
    for (let index = this.inputs.length - 1; index >= 0; index--) this.setInput(index, undefined);
  }

  /** Subgraphs in attributes (If, Loop, Scan), in attribute order. */
  *subgraphs(): Generator<Graph> {
    for (const attribute of this.attributes.values()) {
      if (attribute.type === "graph") yield attribute.value;
      else if (attribute.type === "graphs") yield* attribute.value;
    }
  }

  /** Integer attribute, or the fallback. */
  int(name: string, fallback: number): number;
  int(name: string): number | undefined;
  int(name: string, fallback?: number): number | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === "int" ? Number(attribute.value) : fallback;
  }

  float(name: string, fallback: number): number;
  float(name: string): number | undefined;
  float(name: string, fallback?: number): number | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === "float" ? attribute.value : fallback;
  }

  ints(name: string): number[] | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === "ints" ? attribute.value.map(Number) : undefined;
  }

  floats(name: string): readonly number[] | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === "floats" ? attribute.value : undefined;
  }

  string(name: string): string | undefined {
    const attribute = this.attributes.get(name);
    return attribute?.type === "string" ? new TextDecoder().decode(attribute.value) : undefined;
  }
}

/** A graph or subgraph: inputs, initializers, nodes in topological order, outputs. */
export class Graph {
  name: string;
  readonly inputs: Value[] = [];
  readonly outputs: Value[] = [];
  /** Values with a `tensor`, by name, in file order. An input may also be an initializer (its default). */
  readonly initializers: Map<string, Value> = new Map();
  readonly nodes: Node[] = [];
  /** The graph whose values this subgraph may capture. */
  readonly parent: Graph | undefined;
  /** Doc string, quantization annotations, sparse initializers, metadata and unknown fields, kept for saving. */
  original: unknown;
  #names: Set<string> | undefined;

  constructor(name = "graph", parent?: Graph) {
    this.name = name;
    this.parent = parent;
  }

  /** Appends a node, or inserts it before `before`. */
  add(node: Node, before?: Node): Node {
    node.graph = this;
    const at = before ? this.nodes.indexOf(before) : this.nodes.length;
    if (at < 0)
      throw new PareError("internal", "Node to insert before is not in this graph", { where: before?.name ?? "" });
    this.nodes.splice(at, 0, node);
    for (const output of node.outputs) this.#names?.add(output.name);
    return node;
  }

  /** Removes nodes and detaches their inputs. Their outputs must have no uses left. */
  remove(...nodes: readonly Node[]): void {
    const gone = new Set(nodes);
    for (const node of gone) {
      node.detach();
      node.graph = undefined;
    }
    const kept = this.nodes.filter((node) => !gone.has(node));
    this.nodes.splice(0, this.nodes.length, ...kept);
  }

  /** Adds an initializer under a name that is still free (made from `name`). */
  addInitializer(name: string, tensor: Tensor): Value {
    const value = new Value(this.uniqueName(name), tensor.dtype, tensor.shape, tensor);
    this.initializers.set(value.name, value);
    return value;
  }

  removeInitializer(value: Value): void {
    this.initializers.delete(value.name);
  }

  /** True if the value is one of this graph's outputs. */
  isOutput(value: Value): boolean {
    return this.outputs.includes(value);
  }

  /**
   * Replaces `from` by `to` everywhere: uses and graph outputs. An output keeps its public name: `to` takes it over,
   * which needs `to` to be computed by a node of this graph and not to be an output already; otherwise false is returned,
   * nothing changes, and the caller inserts an Identity or leaves the graph alone.
   */
  replaceValue(from: Value, to: Value): boolean {
    if (this.isOutput(from)) {
      if (!to.producer || to.producer.graph !== this || this.isOutput(to)) return false;
      const publicName = from.name;
      from.name = this.uniqueName(`${publicName}_replaced`);
      to.name = publicName;
      to.dtype ??= from.dtype;
      to.shape ??= from.shape;
      to.original ??= from.original;
      for (const [index, output] of this.outputs.entries()) if (output === from) this.outputs[index] = to;
    }
    from.replaceUses(to);
    return true;
  }

  /** All values of this graph, each once: inputs, initializers, node outputs. Captured outer values are not included. */
  *values(): Generator<Value> {
    yield* this.inputs;
    for (const value of this.initializers.values()) if (!this.inputs.includes(value)) yield value;
    for (const node of this.nodes) yield* node.outputs;
  }

  /** The value of that name in this graph, or undefined. Linear: build a map for many look-ups. */
  find(name: string): Value | undefined {
    for (const value of this.values()) if (value.name === name) return value;
    return undefined;
  }

  /** Nodes of this graph and, after each, of its subgraphs. */
  *allNodes(): Generator<Node> {
    for (const node of this.nodes) {
      yield node;
      for (const subgraph of node.subgraphs()) yield* subgraph.allNodes();
    }
  }

  /** This graph and every subgraph. */
  *allGraphs(): Generator<Graph> {
    yield this;
    for (const node of this.nodes) for (const subgraph of node.subgraphs()) yield* subgraph.allGraphs();
  }

  /** A name not used in this graph, its parents or its subgraphs, made from `base`; it is reserved by the call. */
  uniqueName(base: string): string {
    const root = this.root;
    if (!root.#names) {
      root.#names = new Set();
      for (const graph of root.allGraphs()) {
        for (const value of graph.values()) root.#names.add(value.name);
        for (const node of graph.nodes) root.#names.add(node.name); // the engine refuses two nodes of one name
      }
    }
    const stem = base || "value";
    let name = stem;
    for (let i = 1; root.#names.has(name); i++) name = `${stem}_${i}`;
    root.#names.add(name);
    return name;
  }

  get root(): Graph {
    return this.parent?.root ?? this;
  }

  /** Stable topological sort in place (depth-first, file order kept where it is free). Throws `bad-model` on a cycle. */
  sort(): void {
    const state = new Map<Node, "open" | "done">();
    const sorted: Node[] = [];
    const mine = new Set(this.nodes);
    for (const root of this.nodes) {
      const stack: { node: Node; dependencies: Node[] }[] = [];
      const enter = (node: Node): void => {
        if (state.get(node) === "done") return;
        if (state.get(node) === "open")
          throw new PareError("bad-model", "The graph has a cycle", { where: `node '${node.name || node.opType}'` });
        state.set(node, "open");
        stack.push({ node, dependencies: [...dependenciesOf(node, mine)] });
      };
      enter(root);
      for (let top = stack.at(-1); top; top = stack.at(-1)) {
        const next = top.dependencies.pop();
        if (next) enter(next);
        else {
          stack.pop();
          state.set(top.node, "done");
          sorted.push(top.node);
        }
      }
    }
    this.nodes.splice(0, this.nodes.length, ...sorted);
  }
}

/** Producers, within `mine`, of a node's inputs and of everything its subgraphs capture; last first. */
function* dependenciesOf(node: Node, mine: ReadonlySet<Node>): Generator<Node> {
  const seen = new Set<Node>();
  const visit = function* (inner: Node): Generator<Node> {
    for (const input of inner.inputs) {
      const producer = input?.producer;
      if (producer && mine.has(producer) && !seen.has(producer)) {
        seen.add(producer);
        yield producer;
      }
    }
    for (const subgraph of inner.subgraphs()) {
      for (const child of subgraph.nodes) yield* visit(child);
      for (const output of subgraph.outputs)
        if (output.producer && mine.has(output.producer) && !seen.has(output.producer)) {
          seen.add(output.producer);
          yield output.producer;
        }
    }
  };
  yield* [...visit(node)].reverse();
}
