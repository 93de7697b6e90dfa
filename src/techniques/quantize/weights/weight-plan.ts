/** Which form a low-precision weight takes in the graph, and the bytes of it. */
import { type CodeBits, packedBytes, planesOf } from "../../../base/packed.ts";
import type { Model } from "../../../ir/model.ts";
import type { Tensor } from "../../../ir/tensor.ts";
import { constantTensor } from "../../../transform/constants.ts";
import type { WeightSite, WeightUse } from "../../../transform/weight-sites.ts";
import type { Granularity, NumberFormat } from "./formats.ts";
import type { CodesOptions } from "./weight-codes.ts";

/** The smallest block that ONNX Runtime's kernels take. */
const SMALLEST_BLOCK = 16;

/** Rows shorter than this share scales with their neighbours. */
const SHORTEST_ROW = 8;

export type Plan =
  /** MatMulNBits and GatherBlockQuantized on rows (stored [n, k] or a table) or columns (stored [k, n]). */
  | { readonly kind: "packed"; readonly transpose: boolean; readonly block: number }
  /** Unpacked to a dense weight when the engine loads the model: `rows` scales. */
  | { readonly kind: "folded"; readonly transpose: boolean; readonly rows: number }
  /** DequantizeLinear, with a scale per `group` elements of each of the rows (of the transpose). */
  | { readonly kind: "dequantize"; readonly transpose: boolean; readonly group: number };

export interface PlanOptions extends Omit<CodesOptions, "balance" | "bits"> {
  readonly format: NumberFormat;
  /** Round convolutions so that errors cancel. */
  readonly balance: boolean;
  readonly block: Granularity;
  readonly form: "auto" | "folded" | "dequantize";
  readonly compute: "int8" | "fp32";
}

/** How the weight would be stored, or why it cannot be. */
export function planOf(model: Model, site: WeightSite, options: PlanOptions): Plan | string {
  const { tensor, uses, otherUses } = site;
  const { format, block } = options;
  const shape = tensor.shape;
  const least = leastOpset(format);
  if (model.opset < least) return `${format.name} needs opset ${least}, the model has ${model.opset}`;
  if (options.form === "dequantize") return planDequantize(model, site, options);
  const packable =
    options.form === "auto" &&
    format.kind === "int" &&
    [2, 4, 8].includes(format.bits) && // what there are kernels for
    typeof block === "number" &&
    otherUses.length === 0 &&
    ["float32", "float16"].includes(tensor.dtype) &&
    shape.length === 2 &&
    // Without int8 arithmetic only 4-bit products have a kernel; the others would unpack at every run.
    (options.compute === "int8" || format.bits === 4 || uses.every((use) => use.spec.traits?.lookup)) &&
    uses.every((use) => isPackable(model, use));
  if (packable) {
    const orientations = new Set(uses.map((use) => isStoredByColumns(use)));
    const transpose = orientations.has(true);
    const length = (transpose ? shape[0] : shape[1]) ?? 1;
    const fitting = blockFor(
      block,
      length,
      uses.some((use) => use.spec.traits?.lookup),
    );
    if (orientations.size === 1 && fitting !== undefined) return { kind: "packed", transpose, block: fitting };
  }
  return { kind: "folded", ...rowsOf(site, options) };
}

/** Opset from which a Cast reads what is stored; formats of codes can come as bytes before. */
function leastOpset(format: NumberFormat): number {
  return format.kind === "half" && format.dtype === "bfloat16" ? 13 : 1;
}

function isPackable(model: Model, use: WeightUse): boolean {
  const { node, spec } = use;
  if (spec.traits?.lookup) return use.input === 0 && node.int("axis", 0) === 0 && !use.transpose;
  const kind = spec.traits?.linear;
  if (use.input !== 1 || (kind !== "matmul" && kind !== "gemm") || node.domain !== "") return false;
  const rank = node.inputs[0]?.shape?.length;
  if (rank !== undefined && rank < 2) return false;
  if (kind === "matmul") return true;
  if (node.int("transA", 0) !== 0 || node.float("alpha", 1) !== 1) return false;
  // β·C: a constant C takes β in, a computed one is added as it is.
  return node.float("beta", 1) === 1 || !node.inputs[2] || constantTensor(model, node.inputs[2])?.dtype === "float32";
}

/** True if the summed axis of the stored matrix is its first: [k, n]. */
function isStoredByColumns(use: WeightUse): boolean {
  if (use.spec.traits?.lookup) return false;
  return ((use.weight.reductionAxis ?? 0) === 0) !== (use.transpose !== undefined);
}

/** The block that fits: never much longer than a row, and for tables a divisor of the row. */
function blockFor(wanted: number, length: number, divides: boolean): number | undefined {
  let block = wanted;
  while (block > SMALLEST_BLOCK && block >= 2 * length) block /= 2;
  if (!divides) return block;
  while (block > SMALLEST_BLOCK && length % block !== 0) block /= 2;
  return length % block === 0 ? block : undefined;
}

/** Rows of scales for a dense weight: one, one per output channel, or one per group of about `block` elements of it. */
function rowsOf(site: WeightSite, { format, block }: PlanOptions): { transpose: boolean; rows: number } {
  const { shape, elements } = site.tensor;
  const use = site.uses[0] as WeightUse;
  const kind = use.spec.traits?.linear;
  if (format.kind === "half") return { transpose: false, rows: 1 };
  const transpose = shape.length === 2 && isStoredByColumns(use) && kind !== "conv";
  if (block === "tensor") return { transpose, rows: 1 };
  const spatial = kind === "conv" || kind === "conv-transpose";
  const channels = transpose ? (shape[1] ?? 1) : spatial ? (shape[0] ?? 1) : elements / (shape.at(-1) ?? 1);
  if (block === "channel") return { transpose, rows: channels };
  const length = elements / channels;
  // A scale for every few elements would cost more than it saves: neighbouring short rows share one.
  if (length < SHORTEST_ROW) return { transpose, rows: elements / groupFor(block, elements) };
  const perChannel = format.kind === "int" && format.bits === 8;
  return { transpose, rows: perChannel ? channels : channels * (length / groupFor(block, length)) };
}

/** The divisor of `length` nearest to `block` within a factor of two, or the whole row. */
function groupFor(block: number, length: number): number {
  let best = length;
  for (let group = Math.ceil(block / 2); group <= Math.min(2 * block, length); group++)
    if (length % group === 0 && (best === length || Math.abs(group - block) < Math.abs(best - block))) best = group;
  return best;
}

/** Blocks along the summed axis where the opset knows them and they divide it, else a scale per channel. */
function planDequantize(model: Model, site: WeightSite, options: PlanOptions): Plan | string {
  const { format, block } = options;
  if (format.kind !== "int" || ![2, 4, 8].includes(format.bits))
    return `no form=dequantize for ${format.name}; use form=auto`;
  const needed = format.bits === 8 ? 13 : format.bits === 4 ? 21 : 25;
  if (model.opset < needed)
    return `DequantizeLinear on ${format.bits}-bit weights needs opset ${needed}, the model has ${model.opset}; convert it or use form=auto`;
  if (block === "tensor") return "form=dequantize has a scale per channel or block";
  const { transpose } = rowsOf(site, options);
  const shape = transpose ? site.tensor.shape.toReversed() : site.tensor.shape;
  const length = site.tensor.elements / (shape[0] ?? 1);
  const blocked =
    shape.length === 2 && model.opset >= 21 && format.bits < 8 && block !== "channel" && length % block === 0;
  return { kind: "dequantize", transpose, group: blocked ? block : length };
}

/** Bytes of codes, scales, zero points and learned levels. */
export function bytesOfPlan(plan: Plan, tensor: Tensor, options: PlanOptions): number {
  const { format } = options;
  const { bits } = format;
  const zeros = format.kind === "int" && !options.symmetric && bits < 16;
  const scaleBytes = scaleTypeOf(plan, tensor, options) === "float16" ? 2 : 4;
  if (plan.kind === "dequantize")
    return Math.ceil((tensor.elements * bits) / 8) + (tensor.elements / plan.group) * (4 + (zeros ? bits / 8 : 0));
  if (plan.kind === "folded") {
    const codes = bits === 16 ? 2 * tensor.elements : packedBytes(tensor.elements, bits);
    const levels = format.kind === "codebook" ? 4 * format.entries : 0;
    return codes + levels + (hasScales(plan, format) ? plan.rows * (scaleBytes + (zeros ? 1 : 0)) : 0);
  }
  const [rows = 1, cols = 1] = plan.transpose ? tensor.shape.toReversed() : tensor.shape;
  const blocks = Math.ceil(cols / plan.block);
  return rows * (blocks * ((plan.block * bits) / 8 + scaleBytes) + (zeros ? Math.ceil((blocks * bits) / 8) : 0));
}

/** About the bytes that the nodes and names of one weight add to the file: where they are more than what is won, nothing is. */
export function nodeBytesOf(plan: Plan, { bits }: NumberFormat): number {
  if (plan.kind !== "folded") return 200;
  if (bits >= 8) return 450;
  return planesOf(bits as CodeBits).length > 1 ? 1250 : 700;
}

/** A codebook for the whole weight holds its scale itself. */
export function hasScales(plan: Extract<Plan, { kind: "folded" }>, format: NumberFormat): boolean {
  return format.kind !== "half" && !(format.kind === "codebook" && plan.rows === 1);
}

export function scaleTypeOf(plan: Plan, tensor: Tensor, { format, scaleType }: PlanOptions): "float32" | "float16" {
  if (plan.kind === "dequantize") return tensor.dtype === "float16" ? "float16" : "float32";
  if (format.bits === 16) return "float32"; // of int16, steps are finer than a half's
  return plan.kind === "packed" && tensor.dtype === "float16" ? "float16" : scaleType;
}
