/** Reverse-mode differentiation of an ONNX graph: the gradient of a model is a model. */
import { isFloat } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { Builder } from "../ir/builder.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { knownContents } from "../analyse/known-contents.ts";
import { inferShapes } from "../analyse/shapes.ts";
import { onesLike, zerosLike } from "../ops/gradients/words.ts";
import { specOf } from "../ops/registry.ts";
import type { Grad, RuleContext } from "../ops/spec.ts";
import { branchGradients } from "./branches.ts";
import { capturedValues, dependents } from "./dependents.ts";
import { lowerPath } from "./lower.ts";
import { removeUnused } from "./remove-unused.ts";

export interface GradOptions {
  /** Name of the value to differentiate; where it has several elements, their sum is differentiated. */
  readonly of: string;
  /** Names of the inputs, initializers or inner values to differentiate with respect to. */
  readonly wrt: readonly string[];
}

/** The oldest opset with the operators that gradients are written in, such as comparisons of floats and products without bias. */
const OLDEST_OPSET = 11;

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
  const gradients = addGradients(result, of, wrt);
  const b = new Builder(graph, { prefix: "grad/" });
  const site = { b, opset: result.opset };
  graph.outputs.splice(0, graph.outputs.length, of);
  for (const value of wrt) {
    const known = gradients.get(value);
    // An output has one name: two equal gradients need two values.
    const own =
      known && !graph.isOutput(known) && known.producer ? known : b.op("Identity", [known ?? zerosLike(site, value)]);
    own.name = graph.uniqueName(gradientName(value.name));
    b.output(own);
    [own.dtype, own.shape] = [value.dtype, value.shape];
  }
  removeUnused(graph, graph.nodes);
  return result;
}

/**
 * Appends to the model's graph the nodes that compute the gradient of Σ `of` with respect to each of `wrt`, and returns its
 * values; what `of` does not depend on is left out. Shapes must have been inferred. `seed` is the gradient of `of` (default:
 * ones). Operators on the way that are differentiated by their lowered form are replaced by it. `own` gives rules for nodes
 * that have no record.
 */
export function addGradients(
  model: Model,
  of: Value,
  wrt: readonly Value[],
  seed?: Value,
  own: (node: Node) => Grad | undefined = () => undefined,
): Map<Value, Value> {
  const { graph, opset } = model;
  if (opset < OLDEST_OPSET)
    throw new PareError("unsupported", `The gradient of a model needs opset ${OLDEST_OPSET}`, {
      found: `opset ${opset}`,
      help: "Convert the model to a newer opset",
    });
  lowerPath(model, of, wrt);
  const first = graph.nodes.length;
  const b = new Builder(graph, { prefix: "grad/" });
  const seeds = new Map([[of, seed ?? onesLike({ b, opset }, of)]]);
  const result = backward({ graph, b, opset, of, contents: knownContents(model), own }, seeds, wrt);
  removeUnused(graph, graph.nodes.slice(first), new Set(result.values()));
  return result;
}

/** Where gradients are written: at the end of the graph whose nodes are differentiated. */
interface Scope {
  readonly graph: Graph;
  readonly b: Builder;
  readonly opset: number;
  /** What is differentiated in the end, for messages. */
  readonly of: Value;
  readonly contents: RuleContext["contents"];
  readonly own: (node: Node) => Grad | undefined;
}

/** Walks the graph's nodes backwards from the gradients of some values to those of `wrt`. */
function backward(scope: Scope, seeds: ReadonlyMap<Value, Value>, wrt: readonly Value[]): Map<Value, Value> {
  const { graph, b, opset, contents } = scope;
  const moving = dependents(graph, wrt);
  const wanted = new Set(wrt);
  const result = new Map<Value, Value>();
  const flows = new Map<Value, Value[]>();
  const flow = (value: Value, part: Value): void => {
    const list = flows.get(value);
    if (list) list.push(part);
    else flows.set(value, [part]);
  };
  for (const [value, seed] of seeds) flow(value, seed);
  const total = (value: Value): Value | undefined => {
    const parts = flows.get(value);
    if (!parts) return undefined;
    flows.delete(value);
    const sum = parts.length === 1 ? (parts[0] as Value) : b.op(parts.length === 2 ? "Add" : "Sum", parts);
    sum.dtype ??= value.dtype !== undefined && isFloat(value.dtype) ? value.dtype : undefined;
    sum.shape ??= value.shape;
    if (wanted.has(value)) result.set(value, sum);
    return sum;
  };
  for (const node of graph.nodes.slice().reverse()) {
    if (!node.outputs.some((output) => flows.has(output))) continue;
    const gradients = node.outputs.map(total);
    const wants = node.inputs.map((input) => input !== undefined && moving.has(input));
    const captured = [...node.subgraphs()].length > 0 ? capturedValues(node).filter((value) => moving.has(value)) : [];
    if (!wants.includes(true) && captured.length === 0) continue;
    const kind = scope.own(node) ?? specOf(node, opset)?.grad;
    if (kind === "zero") continue;
    if (kind === "branches") {
      const parts = branchGradients(node, b, opset, captured, gradients, (branch, ends, originals) => {
        const known = (value: Value | undefined) => contents(value && (originals.get(value) ?? value));
        const inner = new Builder(branch, { prefix: "grad/" });
        return backward({ ...scope, graph: branch, b: inner, contents: known }, ends, captured);
      });
      for (const [i, part] of parts.entries()) flow(captured[i] as Value, part);
      continue;
    }
    if (typeof kind !== "function") throw notDifferentiable(node, moving, scope.of);
    const parts = kind({
      node,
      b,
      opset,
      contents,
      outputGrad: (index) => gradients[index],
      wants: (index) => wants[index] ?? false,
    });
    for (const [index, part] of parts.entries()) {
      const input = node.inputs[index];
      if (part && input && wants[index]) flow(input, part);
    }
  }
  for (const value of wrt) total(value);
  return result;
}

function notDifferentiable(node: Node, moving: ReadonlySet<Value>, of: Value): PareError {
  const value = [...node.inputs, ...capturedValues(node)].find((input) => input && moving.has(input));
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
