/** Copies of models and graphs: graph objects are new, tensors and kept messages are shared. */
import type { Attribute } from "./attribute.ts";
import { Graph, Node, Value } from "./graph.ts";
import { Model } from "./model.ts";

/** A model that may be changed freely; its tensors are the same objects. */
export function cloneModel(model: Model): Model {
  const copy = new Model(cloneGraph(model.graph), 1, model.irVersion);
  copy.opsets.clear();
  for (const [domain, version] of model.opsets) copy.opsets.set(domain, version);
  for (const body of model.functions)
    copy.functions.push({ ...body, opsets: new Map(body.opsets), body: cloneGraph(body.body) });
  copy.producerName = model.producerName;
  copy.producerVersion = model.producerVersion;
  copy.domain = model.domain;
  copy.modelVersion = model.modelVersion;
  copy.docString = model.docString;
  for (const [key, value] of model.metadata) copy.metadata.set(key, value);
  copy.original = model.original;
  copy.path = model.path;
  return copy;
}

/**
 * A copy of a graph with its subgraphs. `outer` maps captured values to the ones that the copy captures instead (a missing
 * entry: the same value); afterwards it also maps this graph's values to their copies. `holder` is the graph that will hold the
 * copied nodes, where that is not the copy.
 */
export function cloneGraph(graph: Graph, parent?: Graph, outer: Map<Value, Value> = new Map(), holder?: Graph): Graph {
  const copy = new Graph(graph.name, parent);
  copy.original = graph.original;
  const copyOf = (value: Value): Value => {
    const known = outer.get(value);
    if (known) return known;
    const made = new Value(value.name, value.dtype, value.shape, value.tensor);
    made.dtype = value.dtype;
    made.shape = value.shape;
    made.original = value.original;
    outer.set(value, made);
    return made;
  };
  // Captured outer values are already in `outer`, or stay as they are: only this graph's own values are copied.
  const own = new Set(graph.values());
  const resolve = (value: Value): Value => (own.has(value) ? copyOf(value) : (outer.get(value) ?? value));
  for (const input of graph.inputs) copy.inputs.push(copyOf(input));
  for (const value of graph.initializers.values()) copy.initializers.set(value.name, copyOf(value));
  for (const node of graph.nodes) for (const output of node.outputs) copyOf(output);
  for (const node of graph.nodes) {
    const made = new Node({
      opType: node.opType,
      domain: node.domain,
      name: node.name,
      inputs: node.inputs.map((value) => value && resolve(value)),
      outputs: node.outputs.map(copyOf),
      attributes: Array.from(node.attributes, ([name, attribute]) => [
        name,
        cloneAttribute(attribute, (subgraph) => cloneGraph(subgraph, holder ?? copy, outer)),
      ]),
    });
    made.original = node.original;
    made.graph = copy;
    copy.nodes.push(made);
  }
  for (const output of graph.outputs) copy.outputs.push(resolve(output));
  return copy;
}

/**
 * Copies the nodes and initializers of `from` into another graph under names that begin with `prefix`. `bound` says which
 * of its values (inputs, above all) are values of `into`. Returns what each value of `from` has become.
 */
export function graftGraph(
  from: Graph,
  into: Graph,
  prefix: string,
  bound: ReadonlyMap<Value, Value>,
): Map<Value, Value> {
  const copies = new Map(bound);
  const nameFor = (name: string): string => (name === "" ? "" : into.uniqueName(prefix + name));
  for (const value of from.values()) {
    if (copies.has(value)) continue;
    const copy = new Value(nameFor(value.name), value.dtype, value.shape, value.tensor);
    copies.set(value, copy);
    if (value.tensor) into.initializers.set(copy.name, copy);
  }
  const inner = (subgraph: Graph): Graph => {
    const copy = cloneGraph(subgraph, into, copies);
    for (const graph of copy.allGraphs()) {
      for (const node of graph.nodes) node.name = nameFor(node.name);
      const stored = [...graph.initializers.values()];
      for (const value of new Set(graph.values())) value.name = nameFor(value.name);
      graph.initializers.clear();
      for (const value of stored) graph.initializers.set(value.name, value);
    }
    return copy;
  };
  for (const node of from.nodes)
    into.add(
      new Node({
        opType: node.opType,
        domain: node.domain,
        name: nameFor(node.name),
        inputs: node.inputs.map((input) => input && copies.get(input)),
        outputs: node.outputs.map((output) => copies.get(output) as Value),
        attributes: Array.from(node.attributes, ([name, attribute]) => [name, cloneAttribute(attribute, inner)]),
      }),
    );
  return copies;
}

/** Gives everything that a copied graph and its subgraphs compute or store names of its own within the whole model. */
export function renameApart(copy: Graph): void {
  for (const graph of copy.allGraphs()) {
    const values = Array.from(graph.values()); // the map of initializers changes below
    for (const value of values) {
      if (value.name === "") continue;
      const name = copy.uniqueName(value.name);
      if (graph.initializers.delete(value.name)) graph.initializers.set(name, value);
      value.name = name;
    }
    for (const node of graph.nodes) node.name = copy.uniqueName(node.name);
  }
}

/**
 * Appends a copy of a subgraph's nodes to `graph`, with `inputs` in the place of its own, and returns what its outputs become.
 * `stored` keeps the subgraph's initializers from being copied more than once.
 */
export function inlineGraph(
  graph: Graph,
  body: Graph,
  inputs: readonly Value[],
  stored: Map<Value, Value> = new Map(),
): Value[] {
  for (const value of body.initializers.values())
    if (value.tensor && !stored.has(value)) stored.set(value, graph.addInitializer(value.name, value.tensor));
  const copies = new Map([...stored, ...body.inputs.map((input, i) => [input, inputs[i] ?? input] as const)]);
  const copy = cloneGraph(body, graph, copies, graph);
  copy.inputs.splice(0);
  copy.initializers.clear();
  renameApart(copy);
  for (const node of copy.nodes) graph.add(node);
  return [...copy.outputs];
}

/** A copy of one node between other values; attributes (subgraphs too) are shared. */
export function copyNode(node: Node, valueOf: (value: Value) => Value): Node {
  const copy = new Node({
    opType: node.opType,
    domain: node.domain,
    name: node.name,
    inputs: node.inputs.map((input) => input && valueOf(input)),
    outputs: node.outputs.map(valueOf),
    attributes: node.attributes,
  });
  copy.original = node.original;
  return copy;
}

function cloneAttribute(attribute: Attribute, clone: (graph: Graph) => Graph): Attribute {
  if (attribute.type === "graph") return { ...attribute, value: clone(attribute.value) };
  if (attribute.type === "graphs") return { ...attribute, value: attribute.value.map(clone) };
  return attribute;
}
