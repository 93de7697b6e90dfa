/** Which nodes must keep computing in float32 when a graph goes to half precision, and why. */
import type { DType } from "../base/dtype.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";

/** Operators whose definition has no float16. */
const NO_HALF: ReadonlySet<string> = new Set([
  "Range",
  "NonMaxSuppression",
  "MelWeightMatrix",
  "BlackmanWindow",
  "HannWindow",
  "HammingWindow",
]);

const QUANTIZED: ReadonlySet<DType> = new Set(["int8", "uint8", "int4", "uint4", "int2", "uint2"]);

/** The nodes that stay float32 by what they are, with the reason. */
export function structuralIslands(model: Model): Map<Node, string> {
  const islands = new Map<Node, string>();
  for (const node of model.graph.allNodes()) {
    const why = reasonFor(model, node);
    if (why) islands.set(node, why);
  }
  for (const node of model.graph.allNodes())
    if (node.opType === "Cast" && node.inputs[0]?.dtype === "float32" && isIntegral(node.outputs[0]?.dtype))
      markSizes(model, node, islands);
  return islands;
}

function reasonFor(model: Model, node: Node): string | undefined {
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  if (!spec) return `pare does not know ${node.domain ? `${node.domain}.` : ""}${node.opType}`;
  if (spec.traits?.linear === "recurrent")
    return "the engine has no float16 kernel for recurrent layers and crashes on some";
  if (spec.traits?.linear === "matmul" && node.inputs.some((input) => input && movesBatch(input)))
    return CRASHING_PRODUCT;
  if (node.outputs[0]?.uses.some((use) => isMatMul(model, use.node)) && node.outputs[0] && movesBatch(node.outputs[0]))
    return CRASHING_PRODUCT;
  if (NO_HALF.has(node.opType)) return `${node.opType} is not defined on float16`;
  const touchesQuantized = [...node.inputs, ...node.outputs].some(
    (value) => value?.dtype && QUANTIZED.has(value.dtype),
  );
  if (touchesQuantized && node.opType !== "Cast") return "it works on quantized values";
  const untyped = [...node.inputs, ...node.outputs].some((value) => value && value.dtype === undefined);
  if (untyped && [...node.subgraphs()].length === 0) return "the type of one of its values is not known";
  return undefined;
}

const CRASHING_PRODUCT = "the engine crashes on a float16 product behind a Transpose that moves the first axis";

function isMatMul(model: Model, node: Node): boolean {
  return specOf(node, model.opsets.get(node.domain) ?? 1)?.traits?.linear === "matmul";
}

/**
 * A Transpose whose last axis stays and whose first becomes the one before it. ONNX Runtime 1.30 fuses it into a float16
 * FusedMatMul (transBatch) and dies of a segmentation fault while it loads the model.
 */
function movesBatch(value: Value): boolean {
  const producer = value.producer;
  const perm = producer?.opType === "Transpose" ? producer.ints("perm") : undefined;
  return perm !== undefined && perm.length > 2 && perm.at(-1) === perm.length - 1 && perm.at(-2) === 0;
}

function isIntegral(dtype: DType | undefined): boolean {
  return dtype === "int64" || dtype === "int32";
}

/** Sizes and indices computed in floating point must stay exact: everything behind a float-to-integer cast, up to a linear operator. */
function markSizes(model: Model, cast: Node, islands: Map<Node, string>): void {
  const open: Node[] = [cast];
  const seen = new Set(open);
  const found: Node[] = [];
  for (let node = open.pop(); node; node = open.pop()) {
    const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
    if (spec?.traits?.linear) continue;
    found.push(node);
    for (const input of node.inputs) {
      const producer = input?.dtype === "float32" ? input.producer : undefined;
      if (!producer || seen.has(producer)) continue;
      seen.add(producer);
      open.push(producer);
    }
  }
  for (const node of found) if (!islands.has(node)) islands.set(node, "it computes sizes or indices in floating point");
}
