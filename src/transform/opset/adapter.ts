/** What an opset adapter is: it rewrites one node for the first opset in which its operator changed its form or meaning. */
import type { DType } from "../../base/dtype.ts";
import type { Dim } from "../../base/shape.ts";
import { Builder } from "../../ir/builder.ts";
import { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { constantTensor } from "../constants.ts";

/** What is known of values before the conversion. */
export interface KnownType {
  readonly dtype: DType | undefined;
  readonly shape: readonly Dim[] | undefined;
}

/** Asked and called by adapters about the node at hand. */
export interface AdapterContext {
  readonly model: Model;
  typeOf(value: Value | undefined): KnownType;
}

/** Rewrites the node in place, or returns why it cannot. */
export type Adapter = (node: Node, context: AdapterContext) => string | undefined;

/** Operators that change at one opset. */
export type AdapterTable = Readonly<Record<string, Adapter>>;

/** A builder whose nodes come before `node`, named after it. */
export function before(node: Node): Builder {
  if (!node.graph) throw new Error("A node outside any graph");
  return new Builder(node.graph, { before: node, prefix: `${node.outputs[0]?.name || node.opType}_` });
}

/** An integer-list attribute as an int64 vector, exact up to the largest integers (which mean "to the end"). */
export function intsTensor(node: Node, attribute: string): Tensor | undefined {
  const found = node.attributes.get(attribute);
  if (found?.type !== "ints") return undefined;
  return Tensor.of("int64", [found.value.length], BigInt64Array.from(found.value, BigInt));
}

/** Turns an integer-list attribute into input `index`; an absent attribute leaves the input empty. */
export function intsToInput(node: Node, attribute: string, index: number): void {
  const values = intsTensor(node, attribute);
  node.attributes.delete(attribute);
  if (values) node.setInput(index, before(node).constant(attribute, values));
}

/** ONNX's code of float16. */
const FLOAT16 = 10;

/** A scalar of the dtype of the node's first input, or undefined if that is not a float type known beforehand. */
export function scalarLike(node: Node, name: string, value: number, context: AdapterContext): Value | undefined {
  const { dtype } = context.typeOf(node.inputs[0]);
  const b = before(node);
  if (dtype === "float64") return b.constant(name, Tensor.of("float64", [], Float64Array.of(value)));
  if (dtype !== "float32" && dtype !== "float16") return undefined;
  const wide = b.constant(name, Tensor.float32([], [value]));
  return dtype === "float32" ? wide : b.op("Cast", [wide], { attributes: { to: FLOAT16 }, name: `${name}_half` });
}

/** Elements of a constant input as numbers, if they lie in memory. */
export function constantNumbers(node: Node, index: number, context: AdapterContext): number[] | undefined {
  return constantTensor(context.model, node.inputs[index])?.peekNumbers();
}

/**
 * Makes `node` compute a new value and appends a node that computes the old output from it; returns the new value.
 * `inputs` come after the new value.
 */
export function finishWith(node: Node, opType: string, inputs: readonly (Value | undefined)[]): Value {
  const graph = node.graph;
  const old = node.outputs[0];
  if (!graph || !old) throw new Error("A node without graph or output");
  const inner = new Value(graph.uniqueName(`${old.name}_inner`), old.dtype);
  node.outputs[0] = inner;
  inner.producer = node;
  const last = new Node({
    opType,
    inputs: [inner, ...inputs],
    outputs: [old],
    name: graph.uniqueName(`${old.name}_${opType}`),
  });
  graph.add(last, graph.nodes[graph.nodes.indexOf(node) + 1]);
  return inner;
}

/** Rank of a value, if known. */
export function rankOf(value: Value | undefined, context: AdapterContext): number | undefined {
  return context.typeOf(value).shape?.length;
}
