/** The forms a low-precision weight can take in the graph, and the rewriting of its operators into each. */
import { type DType, bytesOf } from "../../base/dtype.ts";
import { type CodeBits, packedBytes } from "../../base/packed.ts";
import { Builder } from "../../ir/builder.ts";
import type { Attribute } from "../../ir/attribute.ts";
import { float } from "../../ir/attribute.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import type { Kernels } from "../../kernels/types.ts";
import { constantTensor } from "../../transform/constants.ts";
import { balanceOf } from "./balanced.ts";
import { applyDequantize } from "./dequantize-form.ts";
import { hasPackedType, irVersionFor, sharedConstant, unpackWeight } from "../../transform/unpack-weights.ts";
import type { WeightSite, WeightUse } from "../../transform/weight-sites.ts";
import { type Solved, solvedBlocks, solvedRows } from "./solved-codes.ts";
import type { Granularity, NumberFormat } from "./formats.ts";
import { halfCodes, levelCodes, wideCodes } from "./level-codes.ts";
import { type Codes, type CodesOptions, type RowLayout, blockCodes, rowCodes } from "./weight-codes.ts";

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

/** A codebook for the whole weight holds its scale itself. */
function hasScales(plan: Extract<Plan, { kind: "folded" }>, format: NumberFormat): boolean {
  return format.kind !== "half" && !(format.kind === "codebook" && plan.rows === 1);
}

function scaleTypeOf(plan: Plan, tensor: Tensor, { format, scaleType }: PlanOptions): "float32" | "float16" {
  if (plan.kind === "dequantize") return tensor.dtype === "float16" ? "float16" : "float32";
  if (format.bits === 16) return "float32"; // of int16, steps are finer than a half's
  return plan.kind === "packed" && tensor.dtype === "float16" ? "float16" : scaleType;
}

/**
 * Rewrites every use of the weight and returns its codes, which are rounded to nearest unless a solver has chosen them; the
 * old constant has no uses left.
 */
export function applyPlan(
  model: Model,
  kernels: Kernels,
  site: WeightSite,
  plan: Plan,
  options: PlanOptions,
  solved?: Solved,
): Codes {
  const codesOptions = {
    ...options,
    bits: options.format.bits,
    scaleType: scaleTypeOf(plan, site.tensor, options),
    balance: balanceFor(site, plan, options),
  };
  if (plan.kind === "dequantize") return applyDequantize(model, kernels, site, plan, codesOptions, solved);
  return plan.kind === "packed"
    ? applyPacked(model, kernels, site, plan, codesOptions, solved)
    : applyFolded(model, kernels, site, plan, codesOptions, solved);
}

function balanceFor(site: WeightSite, plan: Plan, options: PlanOptions): number | undefined {
  if (!options.balance || plan.kind === "packed" || options.format.kind !== "int") return undefined;
  const { shape, elements } = site.tensor;
  return balanceOf(site.uses[0]?.spec.traits, shape, plan.kind === "folded" ? elements / plan.rows : plan.group);
}

function applyFolded(
  model: Model,
  kernels: Kernels,
  site: WeightSite,
  plan: Extract<Plan, { kind: "folded" }>,
  options: CodesOptions & Pick<PlanOptions, "format">,
  solved: Solved | undefined,
): Codes {
  const { tensor, graph, value } = site;
  const { format } = options;
  const { bits } = format;
  const native = format.kind === "levels" ? format.levels.native : undefined;
  const isNative = native !== undefined && model.opset >= native.opset;
  const codesType = isNative ? native.dtype : codesTypeOf(format, model.opset);
  const shape = plan.transpose ? tensor.shape.toReversed() : tensor.shape;
  const perChannel = plan.rows === shape[0] || plan.rows === 1;
  const grouped = perChannel ? shape : [plan.rows, tensor.elements / plan.rows];
  const layout: RowLayout = {
    codesShape:
      bits >= 8 || hasPackedType(bits, model.opset) ? grouped : [packedBytes(tensor.elements, bits as CodeBits)],
    codesType,
    scalesShape: hasScales(plan, format) ? [plan.rows, ...grouped.slice(1).map(() => 1)] : undefined,
    transpose: plan.transpose ? ([tensor.shape[0] ?? 1, tensor.shape[1] ?? 1] as const) : undefined,
  };
  const codes = foldedCodes(kernels, site, plan.rows, options, layout, solved);
  const table = format.kind === "levels" && !isNative ? levelTable(format) : undefined;
  const dense = unpackWeight(
    graph,
    model.opset,
    {
      ...codes,
      levels: table ?? codes.levels,
      levelsName: table && `levels_${format.name}`,
      bits,
      grouped,
      shape,
      transpose: plan.transpose,
      dtype: tensor.dtype,
    },
    value.name,
    graph.nodes[0],
  );
  value.replaceUses(dense);
  model.irVersion = Math.max(model.irVersion, irVersionFor(codesType));
  return codes;
}

function foldedCodes(
  kernels: Kernels,
  site: WeightSite,
  rows: number,
  options: CodesOptions & Pick<PlanOptions, "format">,
  layout: RowLayout,
  solved: Solved | undefined,
): Codes {
  const { tensor } = site;
  const { format } = options;
  switch (format.kind) {
    case "half":
      return halfCodes(kernels, tensor, format.dtype);
    case "levels":
    case "codebook":
      return levelCodes(kernels, tensor, rows, { ...options, format }, layout);
    default:
      if (format.bits === 16) return wideCodes(kernels, tensor, rows, layout);
      return solved ? solvedRows(kernels, solved, options, layout) : rowCodes(kernels, tensor, rows, options, layout);
  }
}

/** Element type of codes: packed where the opset has it, else bytes. */
function codesTypeOf(format: NumberFormat, opset: number): DType {
  if (format.kind === "half") return format.dtype;
  if (format.bits === 16) return "int16";
  return format.bits < 8 && hasPackedType(format.bits, opset) ? (`uint${format.bits}` as DType) : "uint8";
}

/** Levels in the order of their stored codes. */
function levelTable({ levels }: Extract<NumberFormat, { kind: "levels" }>): Tensor {
  const { values, stored } = levels;
  if (!stored) return Tensor.float32([values.length], values);
  const table = new Float32Array(256);
  for (const [i, code] of stored.entries()) table[code] = values[i] as number;
  return Tensor.float32([256], table);
}

function applyPacked(
  model: Model,
  kernels: Kernels,
  site: WeightSite,
  plan: Extract<Plan, { kind: "packed" }>,
  options: CodesOptions & Pick<PlanOptions, "compute">,
  solved: Solved | undefined,
): Codes {
  const { tensor, graph, value, uses } = site;
  const { bits } = options;
  const { block, transpose } = plan;
  const [storedRows = 1, storedCols = 1] = tensor.shape;
  const [n, k] = transpose ? [storedCols, storedRows] : [storedRows, storedCols];
  const blocks = Math.ceil(k / block);
  const blob = (block * bits) / 8;
  const table = uses.some((use) => use.spec.traits?.lookup);
  const layout = {
    codesShape: table ? [n, (k * bits) / 8] : [n, blocks, blob],
    codesType: "uint8",
    trim: table,
  } as const;
  const codes = solved
    ? solvedBlocks(kernels, solved, options, layout)
    : blockCodes(kernels, tensor, { rows: storedRows, cols: storedCols, transpose }, block, options, layout);
  const stem = value.name;
  const packed = graph.addInitializer(`${stem}.codes`, codes.codes);
  const scales = graph.addInitializer(`${stem}.scales`, codes.scales as Tensor);
  const zeros = codes.zeroPoints && graph.addInitializer(`${stem}.zero`, codes.zeroPoints);
  const widened = widenScales(site, scales, options);
  for (const use of uses) {
    const { node } = use;
    if (use.spec.traits?.lookup) {
      const indices = node.inputs[1];
      become(node, "GatherBlockQuantized", [packed, indices, widened, zeros], {
        bits,
        block_size: block,
        gather_axis: 0,
        quantize_axis: 1,
      });
      continue;
    }
    // A table's codes have no block axis; the engine folds this Reshape at load.
    const b = new Builder(node.graph ?? graph, { prefix: `${stem}.`, before: node });
    const matrix = table
      ? b.op(
          "Reshape",
          [packed, sharedConstant(graph, `shape_${n}x${blocks}x${blob}`, Tensor.int64([n, blocks, blob]))],
          {
            name: "blocks",
          },
        )
      : packed;
    const attributes = { bits, block_size: block, K: k, N: n, accuracy_level: options.compute === "int8" ? 4 : 0 };
    const { bias, addend } = biasOf(model, use, n);
    const inputs = [node.inputs[0], matrix, widened, zeros, undefined, bias];
    if (!addend) become(node, "MatMulNBits", inputs, attributes);
    else {
      const product = b.op("MatMulNBits", inputs, { attributes, domain: "com.microsoft", name: "product" });
      become(node, "Add", [product, addend], {}, "");
    }
  }
  model.opsets.set("com.microsoft", model.opsets.get("com.microsoft") ?? 1);
  return codes;
}

/** Half-precision scales of a float32 weight are widened on a constant path, folded at load. */
function widenScales(site: WeightSite, scales: Value, options: CodesOptions): Value {
  if (options.scaleType === "float32" || site.tensor.dtype === "float16") return scales;
  const b = new Builder(site.graph, { prefix: `${site.value.name}.`, before: site.graph.nodes[0] });
  return b.op("Cast", [scales], { attributes: { to: 1 }, name: "scales32" });
}

/** The third input of a Gemm: a constant vector of n becomes the product's bias, anything else is added behind it. */
function biasOf(model: Model, use: WeightUse, n: number): { bias?: Value | undefined; addend?: Value | undefined } {
  const { node } = use;
  const value = use.spec.traits?.linear === "gemm" ? node.inputs[2] : undefined;
  if (!value) return {};
  const tensor = constantTensor(model, value);
  const beta = node.float("beta", 1);
  const graph = node.graph;
  if (!tensor || !graph) return { addend: value };
  const scaled =
    beta === 1
      ? tensor
      : Tensor.lazy("float32", tensor.shape, async () =>
          bytesOf(((await tensor.data()) as Float32Array).map((element) => element * beta)),
        );
  const isVector = tensor.elements === n && (tensor.shape.at(-1) ?? 1) === n;
  if (isVector && beta === 1 && tensor.shape.length === 1) return { bias: value };
  if (isVector) return { bias: graph.addInitializer(`${value.name}.bias`, scaled.reshape([n])) };
  return { addend: beta === 1 ? value : graph.addInitializer(`${value.name}.scaled`, scaled) };
}

/** Turns a node into another operator in place; name and outputs stay. */
function become(
  node: Node,
  opType: string,
  inputs: readonly (Value | undefined)[],
  attributes: Readonly<Record<string, number>>,
  domain = "com.microsoft",
): void {
  node.detach();
  node.opType = opType;
  node.domain = domain;
  node.attributes.clear();
  for (const [name, value] of Object.entries(attributes)) {
    const attribute: Attribute = Number.isInteger(value) ? { type: "int", value } : float(value);
    node.attributes.set(name, attribute);
  }
  for (const [index, input] of inputs.entries()) if (input) node.setInput(index, input);
}
