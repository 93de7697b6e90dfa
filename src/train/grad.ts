/** Reverse-mode differentiation of an ONNX graph: the gradient of a model is a model. */
import { isFloat } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { Builder } from "../ir/builder.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { inferShapes } from "../analyse/shapes.ts";
import { specOf } from "../ops/registry.ts";
import type { Grad } from "../ops/spec.ts";

export interface GradOptions {
  /** Name of the value to differentiate; where it has several elements, their sum is differentiated. */
  readonly of: string;
  /** Names of the inputs, initializers or inner values to differentiate with respect to. */
  readonly wrt: readonly string[];
}

/** Name of the output that holds the gradient with respect to a value. */
export function gradientName(name: string): string {
  return `${name}_grad`;
}

/**
 * A model that computes `of` and, as outputs named by {@link gradientName}, the gradient of Σ `of` with respect to each of
 * `wrt`, in that shape. What `of` does not depend on has gradient zero. The given model is not changed.
 * Throws `not-differentiable`, naming the value and its path to `of`, where an operator on the way has no gradient.
 */
export function grad(model: Model, options: GradOptions): Model {
  const result = cloneModel(model);
  inferShapes(result);
  const { graph } = result;
  const byName = new Map([...graph.values()].map((value) => [value.name, value]));
  const find = (name: string): Value => {
    const value = byName.get(name);
    if (value) return value;
    throw new PareError("bad-option", "The model has no such value", { where: `'${name}'` });
  };
  const of = find(options.of);
  const wrt = options.wrt.map(find);
  const gradients = addGradients(graph, result.opset, of, wrt);
  const b = new Builder(graph, { prefix: "grad/" });
  graph.outputs.splice(0, graph.outputs.length, of);
  for (const value of wrt) {
    const known = gradients.get(value);
    // An output has one name: two equal gradients need two values.
    const own =
      known && !graph.isOutput(known) && known.producer ? known : b.op("Identity", [known ?? zeros(b, value)]);
    own.name = graph.uniqueName(gradientName(value.name));
    b.output(own);
    [own.dtype, own.shape] = [value.dtype, value.shape];
  }
  removeUnused(graph, graph.nodes);
  return result;
}

/**
 * Appends to `graph` the nodes that compute the gradient of Σ `of` with respect to each of `wrt`, and returns its values;
 * what `of` does not depend on is left out. Shapes must have been inferred. `seed` is the gradient of `of` (default: ones).
 */
export function addGradients(
  graph: Graph,
  opset: number,
  of: Value,
  wrt: readonly Value[],
  seed?: Value,
): Map<Value, Value> {
  const first = graph.nodes.length;
  const b = new Builder(graph, { prefix: "grad/" });
  const moving = dependents(graph, wrt);
  const flows = new Map<Value, Value[]>();
  const wanted = new Set(wrt);
  const result = new Map<Value, Value>();
  flows.set(of, [seed ?? ones(b, of)]);
  const total = (value: Value): Value | undefined => {
    const parts = flows.get(value);
    if (!parts) return undefined;
    flows.delete(value);
    const sum = parts.length === 1 ? (parts[0] as Value) : b.op(parts.length === 2 ? "Add" : "Sum", parts);
    sum.dtype ??= value.dtype;
    sum.shape ??= value.shape;
    if (wanted.has(value)) result.set(value, sum);
    return sum;
  };
  for (const node of graph.nodes.slice(0, first).reverse()) {
    if (!node.outputs.some((output) => flows.has(output))) continue;
    const gradients = node.outputs.map(total);
    const wants = node.inputs.map((input) => input !== undefined && moving.has(input));
    if (!wants.includes(true)) continue;
    const rule = ruleOf(node, opset);
    if (!rule) throw notDifferentiable(node, moving, of);
    const parts = rule({
      node,
      b,
      opset,
      outputGrad: (index) => gradients[index],
      wants: (index) => wants[index] ?? false,
    });
    for (const [index, part] of parts.entries()) {
      const input = node.inputs[index];
      if (!part || !input || !wants[index]) continue;
      const list = flows.get(input);
      if (list) list.push(part);
      else flows.set(input, [part]);
    }
  }
  for (const value of wrt) total(value);
  removeUnused(graph, graph.nodes.slice(first), new Set(result.values()));
  return result;
}

/** The gradient rule of a node, or undefined where its operator has none. */
export function ruleOf(node: Node, opset: number): Grad | undefined {
  const grad = specOf(node, opset)?.grad;
  return typeof grad === "function" ? grad : undefined;
}

/** Every float value of the graph that changes when one of `sources` changes, the sources included. */
export function dependents(graph: Graph, sources: Iterable<Value>): Set<Value> {
  const moving = new Set(sources);
  for (const node of graph.nodes) {
    const reads = node.inputs.some((input) => input && moving.has(input)) || captures(node, moving);
    if (!reads) continue;
    for (const output of node.outputs) if (output.dtype === undefined || isFloat(output.dtype)) moving.add(output);
  }
  return moving;
}

/** True if a subgraph of the node uses one of the values. */
function captures(node: Node, values: ReadonlySet<Value>): boolean {
  for (const subgraph of node.subgraphs())
    for (const inner of subgraph.allNodes()) if (inner.inputs.some((input) => input && values.has(input))) return true;
  return false;
}

function notDifferentiable(node: Node, moving: ReadonlySet<Value>, of: Value): PareError {
  const value = node.inputs.find((input) => input && moving.has(input));
  const path = [`'${value?.name ?? ""}'`, node.opType, ...pathTo(node, of)];
  return new PareError("not-differentiable", `The operator ${node.opType} has no gradient`, {
    where: `value '${value?.name ?? ""}', node '${node.name}'`,
    found: `the path ${path.join(" -> ")}`,
    help: "Freeze what lies before it, or replace the operator",
  });
}

/** Operators on a shortest way from a node's outputs to a value. */
function pathTo(from: Node, of: Value): string[] {
  const cameFrom = new Map<Value, Value | undefined>(from.outputs.map((output) => [output, undefined]));
  for (const value of cameFrom.keys()) {
    if (value === of) break;
    for (const use of value.uses)
      for (const output of use.node.outputs) if (!cameFrom.has(output)) cameFrom.set(output, value);
  }
  const path = [`'${of.name}'`];
  for (let value: Value | undefined = of; value; value = cameFrom.get(value))
    if (cameFrom.get(value) !== undefined && value.producer) path.unshift(value.producer.opType);
  return path.length > 12 ? [...path.slice(0, 5), `… ${path.length - 10} more …`, ...path.slice(-5)] : path;
}

/** Ones of a value's shape: a scalar constant for a scalar. */
function ones(b: Builder, value: Value): Value {
  const one = value.dtype === "float64" ? Tensor.of("float64", [1], Float64Array.of(1)) : Tensor.float32([1], [1]);
  if (value.shape?.length === 0) return b.constant("one", one.reshape([]));
  return b.op("ConstantOfShape", [b.op("Shape", [value])], { attributes: { value: { type: "tensor", value: one } } });
}

function zeros(b: Builder, value: Value): Value {
  const zero = value.dtype === "float64" ? Tensor.of("float64", [1], Float64Array.of(0)) : Tensor.float32([1], [0]);
  return b.op("ConstantOfShape", [b.op("Shape", [value])], { attributes: { value: { type: "tensor", value: zero } } });
}

/** Removes those of `nodes` whose outputs nobody uses, and constants that only they used. */
export function removeUnused(graph: Graph, nodes: readonly Node[], keep: ReadonlySet<Value> = new Set()): void {
  const exported = new Set<Value>(); // values of this graph that a subgraph gives out without using them
  for (const subgraph of graph.allGraphs())
    if (subgraph !== graph) for (const output of subgraph.outputs) exported.add(output);
  const used = (value: Value): boolean =>
    value.uses.length > 0 || graph.isOutput(value) || keep.has(value) || exported.has(value);
  const dead: Node[] = [];
  for (const node of [...nodes].reverse()) {
    if (node.outputs.some(used)) continue;
    const inputs = [...node.inputs];
    node.detach();
    dead.push(node);
    for (const input of inputs)
      if (input?.tensor && !used(input) && !graph.inputs.includes(input) && graph.initializers.has(input.name))
        graph.removeInitializer(input);
  }
  graph.remove(...dead);
}
