/** Which operators of a quantized model the engine runs on integers, and which it left in floating point: read off its own graph. */
import { type DType, dtypeFromCode, isFloat } from "../base/dtype.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { nameOf } from "./keep.ts";
import { inferTypes } from "./shapes.ts";

/** How the engine runs one operator: on 8-bit codes, in floating point, or between the two. */
export type KernelKind = "integer" | "float" | "conversion" | "layout";

/** One operator of the engine's graph that computes on what it is fed (constants and sizes are left out). */
export interface EngineKernel {
  /** Name in the engine's graph, as its profile has it. */
  readonly name: string;
  readonly op: string;
  readonly kind: KernelKind;
  /** The operator of the given model that it is; undefined for what the engine added. */
  readonly layer: string | undefined;
  /** Of the layer in the given model: its operator. */
  readonly layerOp: string | undefined;
  /** Why it is in floating point; undefined otherwise. */
  readonly why: string | undefined;
}

/** What stands for numbers in 8 bits or fewer. */
const CODES: ReadonlySet<DType> = new Set(["int8", "uint8", "int4", "uint4", "int2", "uint2"]);

/** Operators between codes and floats. */
const CONVERSIONS: ReadonlySet<string> = new Set(["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"]);

/** True if integers are computed with: some activation is quantized, or an integer product is there. */
export function hasIntegerArithmetic(model: Model): boolean {
  return kernelsOf(model, model).some(
    ({ kind, op }) => kind === "integer" || (kind === "conversion" && op !== "DequantizeLinear"),
  );
}

/**
 * The operators of `optimized`, the engine's own form of `source`, in order. The engine keeps the names of operators, with suffixes
 * (`_token_12`, `_nchwc`), or calls them by their outputs.
 */
export function kernelsOf(source: Model, optimized: Model): EngineKernel[] {
  const layers = layerNames(source);
  const kinds = numberKinds(optimized);
  const taken = new Set<Node>();
  return optimized.graph.nodes.flatMap((node): EngineKernel[] => {
    const kind = kernelKind(node, kinds);
    if (!kind) return [];
    const layer = layerOf(node, layers, taken);
    if (layer) taken.add(layer);
    const op = node.domain === "" ? node.opType : `${node.domain}::${node.opType}`;
    const own = layer && !CONVERSIONS.has(layer.opType) ? layer : undefined;
    const shown = kind !== "conversion" && !own ? (isLayout(node) ? "layout" : kind) : kind;
    return [
      {
        name: node.name,
        op,
        kind: shown,
        layer: own && nameOf(own),
        layerOp: own?.opType,
        why: shown === "float" ? reasonForFloat(own ?? node) : undefined,
      },
    ];
  });
}

/** Transposes and reorderings, which the engine adds where a kernel wants another layout. */
function isLayout(node: Node): boolean {
  return node.opType === "Transpose" || node.opType.startsWith("Reorder");
}

type NumberKind = "codes" | "float" | "other";

/** undefined for constants, sizes and indices. */
function kernelKind(node: Node, kinds: ReadonlyMap<Value, NumberKind>): KernelKind | undefined {
  const kindOf = (value: Value | undefined): NumberKind | undefined => value && kinds.get(value);
  const computed = node.inputs.filter((input) => input && !input.tensor);
  const read = new Set(computed.map(kindOf));
  if (node.opType === "Cast") return undefined;
  if (CONVERSIONS.has(node.opType))
    return computed.length > 0 || node.opType === "DequantizeLinear" ? "conversion" : undefined;
  if (read.has("codes")) return "integer";
  if (read.has("float")) {
    // Kernels that quantize for themselves (DynamicQuantizeMatMul) or unpack codes as they go (MatMulNBits).
    if (node.opType.startsWith("DynamicQuantize")) return "integer";
    return "float";
  }
  return undefined;
}

/**
 * Which numbers each value holds. The engine writes no types of its inner values, and operators that are its own stop inference:
 * what such an operator gives is taken to be what it reads first.
 */
function numberKinds(model: Model): Map<Value, NumberKind> {
  const { types } = inferTypes(model);
  const kinds = new Map<Value, NumberKind>();
  const set = (value: Value, dtype: DType | undefined): void => {
    const type = dtype ?? types.get(value)?.dtype ?? value.dtype;
    if (type) kinds.set(value, CODES.has(type) ? "codes" : isFloat(type) ? "float" : "other");
  };
  for (const value of [...model.graph.inputs, ...model.graph.initializers.values()]) set(value, value.tensor?.dtype);
  for (const node of model.graph.nodes) {
    const first = node.inputs.find((input) => input && !input.tensor && kinds.has(input));
    for (const [index, output] of node.outputs.entries()) {
      if (node.opType === "Cast") set(output, dtypeFromCode(node.int("to", 1)));
      else if (node.opType === "QuantizeLinear") set(output, "uint8");
      else if (node.opType === "DequantizeLinear") set(output, "float32");
      else if (node.opType === "DynamicQuantizeLinear") set(output, index === 1 ? "float32" : "uint8");
      else set(output, undefined);
      const taken = first && kinds.get(first);
      if (!kinds.has(output) && taken) kinds.set(output, taken);
    }
  }
  return kinds;
}

interface LayerNames {
  readonly nodes: ReadonlyMap<string, Node>;
  readonly outputs: ReadonlyMap<string, Node>;
}

function layerNames(source: Model): LayerNames {
  const nodes = new Map<string, Node>();
  const outputs = new Map<string, Node>();
  for (const node of source.graph.nodes) {
    if (node.name) nodes.set(node.name, node);
    for (const output of node.outputs) outputs.set(output.name, node);
  }
  return { nodes, outputs };
}

/** The node that is called so; where it was fused into one before it (a rectifier into its convolution), that one. */
function layerOf(node: Node, names: LayerNames, taken: ReadonlySet<Node>): Node | undefined {
  const called = nodeCalled(node, names);
  const opType = node.opType.replace(/^Fused/, "");
  if (!called || called.opType === opType) return called;
  let frontier = [called];
  for (let depth = 0; depth < MOST_FUSED; depth++) {
    frontier = frontier.flatMap(({ inputs }) => inputs.flatMap((input) => input?.producer ?? []));
    const found = frontier.find((each) => each.opType === opType && !taken.has(each));
    if (found) return found;
  }
  return called;
}

/** Operators that the engine fuses into one, beyond the first: a sum, an activation and a clamp. */
const MOST_FUSED = 3;

function nodeCalled(node: Node, { nodes, outputs }: LayerNames): Node | undefined {
  for (let name = node.name; ; ) {
    const found = name === "" ? undefined : (nodes.get(name) ?? outputs.get(name));
    if (found) return found;
    const shorter = name.replace(/^fused /, "").replace(/(?:_token_\d+|_nchwc|_nhwc|_quant)$/, "");
    if (shorter === name) break;
    name = shorter;
  }
  return outputs.get(node.outputs[0]?.name ?? "");
}

/** What keeps an operator of the given model from an integer kernel, as far as its surroundings tell. */
function reasonForFloat(node: Node): string {
  const computed = node.inputs.filter((input): input is Value => input !== undefined && !input.tensor);
  const dequantized = (value: Value): boolean => value.producer?.opType === "DequantizeLinear";
  const isConstant = (value: Value): boolean =>
    dequantized(value) && value.producer?.inputs.every((input) => !input || input.tensor !== undefined) === true;
  const activations = computed.filter((value) => !isConstant(value));
  const weight = node.inputs.find((input) => input?.tensor && isFloat(input.tensor.dtype));
  if (weight && activations.some(dequantized)) return "its constant operand is in floating point";
  if (activations.length === 0 || !activations.every(dequantized)) return "what it reads is not quantized";
  const uses = node.outputs.flatMap((output) => output.uses);
  if (uses.length === 0 || !uses.every((use) => use.node.opType === "QuantizeLinear"))
    return "what it gives is not quantized";
  if (activations.some(({ producer }) => producer?.inputs[2]?.tensor?.dtype === "int8"))
    return "the engine fuses pairs of int8 activations on ARM only: take uint8, or form qoperator";
  return "the engine has no integer kernel for it here";
}
