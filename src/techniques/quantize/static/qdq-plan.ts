/** Chooses what runs in int8: which operators, which activations are quantized, and which share one grid. */
import { type Keep, nameOf } from "../../../analyse/keep.ts";
import type { Node, Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { specOf } from "../../../ops/registry.ts";
import type { Traits } from "../../../ops/spec.ts";
import { clampBounds, isClamp } from "../../../transform/clamps.ts";
import { constantTensor, onlyUse, outputValues } from "../../../transform/constants.ts";
import { weightsOf } from "../../../transform/weight-sites.ts";

/** A linear operator with a constant weight: what int8 arithmetic is for. */
export interface LinearNode {
  readonly node: Node;
  readonly traits: Traits | undefined;
  readonly weight: Value;
  /** Axis of the output channels in the weight. */
  readonly channelAxis: number;
  readonly bias: Value | undefined;
}

export interface QdqPlan {
  readonly linear: readonly LinearNode[];
  /** Every operator that runs on int8, the linear ones included. */
  readonly nodes: ReadonlySet<Node>;
  /** Activations that are quantized, each with the set of values that share its grid (itself included). */
  readonly groups: ReadonlyMap<Value, ReadonlySet<Value>>;
  /** What the operators give: their outputs, or those of the clamps that they absorb. */
  readonly results: ReadonlySet<Value>;
  readonly skipped: readonly { readonly what: string; readonly why: string }[];
}

export interface QdqPlanOptions {
  /** Why an operator shall stay in floating point; undefined where it need not. */
  readonly reasonToKeep: (node: Node) => string | undefined;
  /** Operator types to quantize; undefined: all that the engine runs on int8. */
  readonly operators: ReadonlySet<string> | undefined;
  /** Quantize the model's own float inputs and outputs, whatever reads and gives them. */
  readonly ports?: { readonly inputs: boolean; readonly outputs: boolean } | undefined;
}

/** Keeps what a user's patterns name: operators, and those that read a named weight. */
export function keepReason(keep: Keep): QdqPlanOptions["reasonToKeep"] {
  return (node) =>
    keep.node(node) || node.inputs.some((input) => input?.tensor !== undefined && keep.value(input))
      ? "kept"
      : undefined;
}

/** Non-linear operators that gain nothing from, or lose too much by, 8 bits. */
const LEFT_ALONE: ReadonlySet<string> = new Set(["Softmax", "LogSoftmax", "Where"]);

/** Plans the main graph; nothing is changed. Dtypes and shapes must have been inferred. */
export function planQdq(model: Model, options: QdqPlanOptions): QdqPlan {
  const { graph } = model;
  const outputs = outputValues(model);
  const linear: LinearNode[] = [];
  const nodes = new Set<Node>();
  /** Values that a quantized operator gives. */
  const given = new Set<Value>();
  const resultOf = new Map<Node, Value>();
  const ports = portValues(model, options);
  for (const input of ports.inputs) given.add(input);
  const skipped: { what: string; why: string }[] = [];
  for (const node of graph.nodes) {
    const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
    const traits = spec?.traits;
    if (!spec || !traits?.quantizable) continue;
    if (options.operators && !options.operators.has(node.opType)) continue;
    const kept = options.reasonToKeep(node);
    if (kept !== undefined) {
      if (traits.linear) skipped.push({ what: nameOf(node), why: kept });
      continue;
    }
    const output = node.outputs[0];
    if (!output || output.dtype !== "float32" || node.outputs.length > 1) continue;
    if (traits.linear) {
      const found = linearOf(model, node);
      if (typeof found === "string") {
        skipped.push({ what: nameOf(node), why: found });
        continue;
      }
      linear.push(found);
    } else {
      if (LEFT_ALONE.has(node.opType) || (node.opType === "Resize" && !isNearestResize(node))) continue;
      const inputs = activations(model, node);
      if (inputs.length === 0 || !inputs.every((input) => given.has(input))) continue;
      if (node.opType === "Pad" && !padsWithZeros(model, node)) continue;
      // Other operators with a constant operand have no int8 form.
      const argued = isClamp(node) || node.opType === "Pad" || isNearestResize(node);
      if (!argued && hasFloatConstant(model, node)) continue;
    }
    nodes.add(node);
    const clamp = onlyUse(output, outputs)?.node;
    const isAbsorbed =
      clamp !== undefined &&
      clamp.graph === graph &&
      clamp.inputs[0] === output &&
      !traits.movement &&
      typeof clampBounds(model, clamp) === "object";
    const result = (isAbsorbed ? clamp.outputs[0] : output) ?? output;
    given.add(result);
    resultOf.set(node, result);
  }
  // What comes last stays in floating point: 8 bits would only make ties among the scores.
  for (const [node, result] of [...resultOf].toReversed()) {
    if (linear.some((one) => one.node === node) || result.uses.some((use) => nodes.has(use.node))) continue;
    if (ports.outputs.has(result)) continue;
    nodes.delete(node);
    resultOf.delete(node);
    given.delete(result);
  }
  const quantized = new Set<Value>();
  for (const [node, result] of resultOf) {
    for (const input of activations(model, node)) quantized.add(input);
    if (needsOutputGrid(model, node, result, nodes)) quantized.add(result);
  }
  for (const port of [...ports.inputs, ...ports.outputs]) {
    quantized.add(port);
    given.add(port);
  }
  return { linear, nodes, groups: groupsOf(model, nodes, quantized, outputs), results: given, skipped };
}

/** Float inputs, and computed float outputs, that shall be quantized for their own sake. */
function portValues(model: Model, { ports }: QdqPlanOptions): { inputs: Set<Value>; outputs: Set<Value> } {
  const { inputs, outputs } = model.graph;
  const fed = inputs.filter((value) => !value.tensor && value.dtype === "float32" && ports?.inputs);
  const computed = outputs.filter((value) => value.producer && value.dtype === "float32" && ports?.outputs);
  return { inputs: new Set(fed), outputs: new Set(computed) };
}

/** Matrix products may give floats; everything else has an int8 kernel only with a quantized output. */
function needsOutputGrid(model: Model, node: Node, result: Value, nodes: ReadonlySet<Node>): boolean {
  const kind = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits?.linear;
  if (kind !== "gemm" && kind !== "matmul") return true;
  return result.uses.some((use) => nodes.has(use.node));
}

/** Float inputs that are computed or fed, not constant. */
export function activations(model: Model, node: Node): Value[] {
  return node.inputs.filter(
    (input): input is Value =>
      input !== undefined && input.dtype === "float32" && constantTensor(model, input) === undefined,
  );
}

function hasFloatConstant(model: Model, node: Node): boolean {
  return node.inputs.some((input) => input?.dtype === "float32" && constantTensor(model, input) !== undefined);
}

/** Constant padding with 0 in the form that takes its value as an input (opset 11). */
function padsWithZeros(model: Model, node: Node): boolean {
  if ((node.string("mode") ?? "constant") !== "constant" || node.attributes.has("pads")) return false;
  const value = node.inputs[2];
  return !value || constantTensor(model, value)?.peekNumbers()?.[0] === 0;
}

function linearOf(model: Model, node: Node): LinearNode | string {
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  const weight = spec && weightsOf(spec, node).find(({ role, input }) => role === "kernel" && input === 1);
  const value = node.inputs[1];
  const tensor = constantTensor(model, value);
  if (node.domain !== "") return `the engine has no int8 form of ${node.domain}.${node.opType}`;
  if (!weight || !value || !tensor) return "its weight is computed, not constant";
  if (tensor.dtype !== "float32") return `its weight is ${tensor.dtype}`;
  if (node.inputs[0]?.dtype !== "float32" || constantTensor(model, node.inputs[0]))
    return "its input is not a float activation";
  if (spec.traits?.linear === "gemm") {
    if (node.float("alpha", 1) !== 1 || node.float("beta", 1) !== 1 || node.int("transA", 0) !== 0)
      return "its Gemm scales or transposes";
  } else if (spec.traits?.linear === "matmul" && tensor.shape.length !== 2) return "its weight is not a matrix";
  const bias = spec.traits?.linear === "matmul" ? undefined : node.inputs[2];
  const biasTensor = constantTensor(model, bias);
  const channels = tensor.shape[weight.channelAxis ?? 0] ?? 1;
  if (bias && (biasTensor?.dtype !== "float32" || biasTensor.elements !== channels || biasTensor.shape.length !== 1))
    return "its bias is not a constant vector";
  return { node, traits: spec.traits, weight: value, channelAxis: weight.channelAxis ?? 0, bias };
}

/** Resizing that only copies values. */
function isNearestResize(node: Node): boolean {
  return node.opType === "Resize" && (node.string("mode") ?? "nearest") === "nearest";
}

/** Movement passes a grid through; the parts of a Concat that nobody else reads take the grid of the whole. */
function groupsOf(
  model: Model,
  nodes: ReadonlySet<Node>,
  quantized: ReadonlySet<Value>,
  outputs: ReadonlySet<Value>,
): Map<Value, Set<Value>> {
  const groups = new Map<Value, Set<Value>>();
  for (const value of quantized) groups.set(value, new Set([value]));
  const union = (a: Value | undefined, b: Value | undefined): void => {
    const [left, right] = [a && groups.get(a), b && groups.get(b)];
    if (!left || !right || left === right) return;
    for (const value of right) {
      left.add(value);
      groups.set(value, left);
    }
  };
  for (const node of nodes) {
    const traits = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits;
    if (!traits?.movement && !isNearestResize(node)) continue;
    const inputs = activations(model, node);
    for (const input of inputs) if (inputs.length === 1 || onlyUse(input, outputs)) union(node.outputs[0], input);
  }
  return groups;
}
