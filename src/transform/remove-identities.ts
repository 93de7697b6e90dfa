/** Removes operators that return their input unchanged, and joins chains of Transpose and of Reshape. */
import type { Dim } from "../base/shape.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import { constantTensor, onlyUse, outputValues } from "./constants.ts";

/** Why a node is a no-op, or undefined. Shapes must have been inferred. */
type Rule = (node: Node, model: Model) => boolean;

/** What makes each operator the identity; the shape of its input and output is known where a rule asks. */
const RULES: Readonly<Record<string, Rule>> = {
  Cast: (node) => node.inputs[0]?.dtype !== undefined && node.inputs[0].dtype === node.outputs[0]?.dtype,
  CastLike: (node) => node.inputs[0]?.dtype !== undefined && node.inputs[0].dtype === node.inputs[1]?.dtype,
  Reshape: sameShape,
  Flatten: sameShape,
  Squeeze: sameShape,
  Unsqueeze: sameShape,
  Expand: sameShape,
  Slice: (node, model) => sameShape(node) && forwardSteps(node, model),
  Tile: sameShape,
  Transpose: (node) => {
    const perm = permOf(node);
    return perm !== undefined && perm.every((axis, index) => axis === index);
  },
  Pad: (node, model) => {
    const pads = node.ints("pads") ?? constantTensor(model, node.inputs[1])?.peekNumbers();
    return pads !== undefined && pads.every((pad) => pad === 0);
  },
  Concat: (node) => node.inputs.length === 1,
  Sum: (node) => node.inputs.length === 1,
  Max: (node) => node.inputs.length === 1,
  Min: (node) => node.inputs.length === 1,
  Mean: (node) => node.inputs.length === 1,
  AveragePool: unitWindow,
  MaxPool: unitWindow,
};

/** Arithmetic with its neutral element, and the operands that may be it. */
const NEUTRAL: Readonly<Record<string, { readonly element: number; readonly sides: readonly number[] }>> = {
  Add: { element: 0, sides: [0, 1] },
  Sub: { element: 0, sides: [1] },
  Mul: { element: 1, sides: [0, 1] },
  Div: { element: 1, sides: [1] },
};

export interface RemovedIdentities {
  /** Operators that went, with how many of each. */
  readonly removed: Readonly<Record<string, number>>;
}

/** Removes no-ops everywhere, subgraphs included; needs inferred shapes for the rules that compare them. */
export function removeIdentities(model: Model): RemovedIdentities {
  const removed: Record<string, number> = {};
  const count = (node: Node): void => {
    removed[node.opType] = (removed[node.opType] ?? 0) + 1;
  };
  for (const graph of model.graph.allGraphs()) {
    for (const node of graph.nodes.slice()) {
      if (node.graph !== graph) continue;
      if (mergeWithPrevious(graph, node, outputValues(model))) count(node);
      const passed = passedThrough(node, model);
      if (passed && bypass(graph, node, passed, outputValues(model))) count(node);
    }
  }
  return { removed };
}

/** The input that the node returns unchanged. */
function passedThrough(node: Node, model: Model): Value | undefined {
  const input = node.domain === "" ? node.inputs[0] : undefined;
  if (!input) return undefined;
  const spec = specOf(node, model.opset);
  const trait = spec?.traits?.identity ?? false;
  if (trait && !isTraining(node, model)) return input;
  const neutral = NEUTRAL[node.opType];
  if (neutral) return otherThanNeutral(node, model, neutral.element, neutral.sides);
  return RULES[node.opType]?.(node, model) ? input : undefined;
}

/** Dropout with its third input true, or of the old `is_test`-less kind, computes something. */
function isTraining(node: Node, model: Model): boolean {
  if (node.opType !== "Dropout") return false;
  const mode = node.inputs[2];
  return mode !== undefined && constantTensor(model, mode)?.peekNumbers()?.[0] !== 0;
}

/** Routes around the node; false if its public outputs forbid it. */
function bypass(graph: Graph, node: Node, input: Value, outputs: ReadonlySet<Value>): boolean {
  const [output, ...others] = node.outputs;
  if (!output || others.some((other) => other.uses.length > 0 || outputs.has(other))) return false;
  // An outer value or an input cannot take over a public name; replaceValue says so. A subgraph's output must be its own.
  if (outputs.has(output) && (input.producer?.graph !== graph || outputs.has(input) || !graph.isOutput(output)))
    return false;
  if (!graph.replaceValue(output, input)) return false;
  graph.remove(node);
  return true;
}

/** Transpose after Transpose composes; Reshape after Reshape forgets the first, when the second names every size. */
function mergeWithPrevious(graph: Graph, node: Node, outputs: ReadonlySet<Value>): boolean {
  const middle = node.inputs[0];
  const previous = middle?.producer;
  if (!middle || !previous || previous.graph !== graph || node.domain !== "" || previous.domain !== "") return false;
  if (previous.opType !== node.opType || !onlyUse(middle, outputs)) return false;
  const source = previous.inputs[0];
  if (!source) return false;
  if (node.opType === "Transpose") {
    const [first, second] = [permOf(previous), permOf(node)];
    if (!first || !second || first.length !== second.length) return false;
    // y[…] = x transposed by p1, then p2: perm_i = p1[p2[i]]
    const perm = second.map((axis) => first[axis] ?? 0);
    node.attributes.set("perm", { type: "ints", value: perm });
  } else if (node.opType === "Reshape") {
    const target = node.outputs[0]?.shape;
    const wanted = node.inputs[1]?.tensor?.peekNumbers();
    if (!wanted || !target || node.int("allowzero", 0) === 1 || wanted.includes(0)) return false;
    if (wanted.filter((size) => size < 0).length > 1) return false;
  } else return false;
  node.setInput(0, source);
  graph.remove(previous);
  return true;
}

function permOf(node: Node): number[] | undefined {
  const rank = node.inputs[0]?.shape?.length ?? node.outputs[0]?.shape?.length;
  return node.ints("perm") ?? (rank === undefined ? undefined : Array.from({ length: rank }, (_, i) => rank - 1 - i));
}

/** Input and output have the same known shape; equal symbols are equal sizes. */
function sameShape(node: Node): boolean {
  const [from, to] = [node.inputs[0]?.shape, node.outputs[0]?.shape];
  return from !== undefined && to !== undefined && sameDims(from, to);
}

function sameDims(a: readonly Dim[], b: readonly Dim[]): boolean {
  return a.length === b.length && a.every((dim, index) => dim !== null && dim === b[index]);
}

function forwardSteps(node: Node, model: Model): boolean {
  if (!node.inputs[4]) return true;
  const steps = constantTensor(model, node.inputs[4])?.peekNumbers();
  return steps !== undefined && steps.every((step) => step > 0);
}

/** The operand beside a constant scalar equal to `element`, if it already has the result's shape. */
function otherThanNeutral(node: Node, model: Model, element: number, sides: readonly number[]): Value | undefined {
  const shape = node.outputs[0]?.shape;
  for (const side of shape ? sides : []) {
    const tensor = constantTensor(model, node.inputs[side]);
    const other = node.inputs[1 - side];
    if (tensor?.elements !== 1 || !other?.shape || !shape || !sameDims(other.shape, shape)) continue;
    if (tensor.peekNumbers()?.[0] === element) return other;
  }
  return undefined;
}

/** A pooling window of one element without padding or steps. */
function unitWindow(node: Node): boolean {
  const ones = (name: string): boolean => node.ints(name)?.every((size) => size === 1) ?? true;
  return (
    node.outputs.length === 1 &&
    node.ints("kernel_shape")?.every((size) => size === 1) === true &&
    ones("strides") &&
    (node.ints("pads")?.every((pad) => pad === 0) ?? true)
  );
}
