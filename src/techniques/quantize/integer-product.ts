/** Rewrites matrix products with a constant weight into MatMulInteger, activations quantized at run time: with a zero point, which the engine fuses, or without. */
import { bytesOf, dtypeCode } from "../../base/dtype.ts";
import { toFloat32 } from "../../base/to-float32.ts";
import { Builder } from "../../ir/builder.ts";
import type { Graph, Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Kernels } from "../../kernels/types.ts";
import { SharedParts } from "../../transform/shared-source.ts";
import type { WeightSite, WeightUse } from "../../transform/weight-sites.ts";
import { relativeError } from "./weights/weight-codes.ts";
import { REDUCED_HIGH } from "./reduce-range.ts";

/** From this opset on the standard domain has DynamicQuantizeLinear; before, one fused operator of the engine stands for all. */
const DYNAMIC_SINCE = 11;

/** Scales of activations are at least this, the smallest normal number of single precision. */
const LEAST_SCALE = 2 ** -126;

/** Why a weight cannot be the right side of integer products, or undefined. */
export function reasonAgainstInteger(site: WeightSite): string | undefined {
  if (site.otherUses.length > 0) return "other operators read the weight too";
  if (site.tensor.shape.length !== 2) return "it is not the matrix of a product";
  for (const use of site.uses) {
    const kind = use.spec.traits?.linear;
    if (use.input !== 1 || (kind !== "matmul" && kind !== "gemm") || use.node.domain !== "")
      return "it is not the right side of a matrix product";
    if (kind === "gemm" && use.node.int("transA", 0) !== 0) return "its Gemm transposes the activations";
    const rank = use.node.inputs[0]?.shape?.length;
    if (rank !== undefined && rank < 2) return "its activations are a vector";
  }
  const rows = site.uses.map(isStoredByRows);
  return rows.every((one) => one === rows[0]) ? undefined : "it is read both plain and transposed";
}

/** Stored as (n, k): the summed axis is the last. */
function isStoredByRows(use: WeightUse): boolean {
  return ((use.weight.reductionAxis ?? 0) === 1) !== (use.transpose !== undefined);
}

export interface IntegerProductOptions {
  readonly perChannel: boolean;
  readonly reduceRange: boolean;
  /** uint8: a scale and a zero point for the range at hand. int8: a scale for the largest magnitude. */
  readonly activations: "uint8" | "int8";
}

export interface IntegerProduct {
  readonly error: { value: number | undefined };
  keep(): Promise<void>;
}

/**
 * Replaces every use of the weight. Codes are (k, n) int8, scales (n) or scalar. With int8 activations and one scale for the weight
 * Y this is σx·σy·clip(round(X/σx))·clip(round(Y/σy)), σ = max|·|/127, summed in 32-bit integers; with uint8 the zero point of X is
 * subtracted from its codes.
 */
export function applyIntegerProduct(
  model: Model,
  kernels: Kernels,
  site: WeightSite,
  options: IntegerProductOptions,
): IntegerProduct {
  const { tensor, graph, value, uses } = site;
  const byRows = isStoredByRows(uses[0] as WeightUse);
  const [first = 1, second = 1] = tensor.shape;
  const [k, n] = byRows ? [second, first] : [first, second];
  const high = options.reduceRange ? REDUCED_HIGH : 127;
  const error: { value: number | undefined } = { value: undefined };
  const parts = new SharedParts(
    [
      { dtype: "int8", shape: [k, n] },
      { dtype: "float32", shape: options.perChannel ? [n] : [] },
    ],
    async () => {
      const stored = toFloat32(tensor.dtype, await tensor.bytes());
      const weights = byRows ? kernels.transpose(stored, n, k) : stored;
      const layout = options.perChannel ? { outer: k, channels: n, inner: 1 } : { outer: 1, channels: 1, inner: k * n };
      const result = kernels.quantizeChannels(weights, layout, { low: -high, high });
      error.value = relativeError(result);
      return [bytesOf(result.codes), bytesOf(result.scales)];
    },
  );
  const codes = graph.addInitializer(`${value.name}.int8`, parts.tensors[0] as Tensor);
  const scales = graph.addInitializer(`${value.name}.scale`, parts.tensors[1] as Tensor);
  for (const use of uses) rewrite(model, use.node, codes, scales, options.activations);
  return { error, keep: () => parts.keep() };
}

function rewrite(
  model: Model,
  node: Node,
  codes: Value,
  scales: Value,
  activations: IntegerProductOptions["activations"],
): void {
  const graph = node.graph as Graph;
  const b = new Builder(graph, { prefix: `${node.name || node.outputs[0]?.name}.`, before: node });
  const [input, , addend] = node.inputs as [Value, Value, Value | undefined];
  const alpha = node.float("alpha", 1);
  const beta = node.float("beta", 1);
  const scaled = alpha === 1 ? scales : b.op("Mul", [scales, b.constant("alpha", Tensor.float32([], [alpha]))]);
  let left: Value;
  let right: Value | undefined;
  if (model.opset >= DYNAMIC_SINCE || activations === "int8") {
    const [codesOf, scaleOf, zeroOf] =
      activations === "int8" ? signed(graph, input, node) : quantized(graph, input, node);
    const sums = b.op("MatMulInteger", [codesOf, codes, zeroOf], { name: "sums" });
    left = b.op("Cast", [sums], { attributes: { to: dtypeCode("float32") }, name: "float" });
    right = b.op("Mul", [scaleOf, scaled], { name: "scale" });
  } else {
    left = b.op("DynamicQuantizeMatMul", [input, codes, scaled], { domain: "com.microsoft", name: "product" });
    model.opsets.set("com.microsoft", model.opsets.get("com.microsoft") ?? 1);
  }
  const bias = addend && beta !== 1 ? b.op("Mul", [addend, b.constant("beta", Tensor.float32([], [beta]))]) : addend;
  const product = right && bias ? b.op("Mul", [left, right], { name: "product" }) : left;
  // The node itself becomes the last operation, so that its name and output stay.
  node.detach();
  node.attributes.clear();
  node.opType = bias ? "Add" : right ? "Mul" : "Identity";
  const inputs = bias ? [product, bias] : right ? [left, right] : [product];
  for (const [index, one] of inputs.entries()) node.setInput(index, one);
}

/** The activation in uint8 with scale and zero point: quantized once however many products read it. */
function quantized(graph: Graph, input: Value, before: Node): [Value, Value, Value] {
  const known = input.uses.find((use) => use.node.opType === "DynamicQuantizeLinear" && use.node.graph === graph);
  if (known) return known.node.outputs as [Value, Value, Value];
  const b = new Builder(graph, { prefix: `${input.name}.`, before });
  return b.ops("DynamicQuantizeLinear", [input], { outputs: 3, name: "uint8" }) as [Value, Value, Value];
}

/** The activation in int8 with its scale, max|x|/127: quantized once however many products read it. */
function signed(graph: Graph, input: Value, before: Node): [Value, Value] {
  const stem = `${input.name}.int8`;
  const known = input.uses.find(({ node }) => node.opType === "QuantizeLinear" && node.name.startsWith(stem))?.node;
  if (known) return [known.outputs[0] as Value, known.inputs[1] as Value];
  const b = new Builder(graph, { prefix: `${stem}.`, before });
  const number = (name: string, value: number): Value => b.constant(name, Tensor.float32([], [value]));
  const largest = b.op("ReduceMax", [b.op("Abs", [input])], { attributes: { keepdims: 0 }, name: "largest" });
  // Zeros have no scale: any will do
  const scale = b.op("Max", [b.op("Div", [largest, number("top", 127)]), number("least", LEAST_SCALE)], {
    name: "scale",
  });
  const codes = b.op("QuantizeLinear", [input, scale, b.constant("zero", Tensor.of("int8", [], new Int8Array(1)))], {
    name: "codes",
  });
  return [codes, scale];
}
