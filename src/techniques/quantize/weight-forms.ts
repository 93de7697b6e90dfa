/** The forms a low-precision weight can take in the graph, and the rewriting of its operators into each. */
import { type DType, bytesOf } from "../../base/dtype.ts";
import { packedBytes } from "../../base/packed.ts";
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
import { type Codes, type CodesOptions, blockCodes, rowCodes } from "./weight-codes.ts";

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

export interface PlanOptions extends Omit<CodesOptions, "balance"> {
  /** Round convolutions so that errors cancel. */
  readonly balance: boolean;
  readonly block: number;
  readonly form: "auto" | "folded" | "dequantize";
  readonly compute: "int8" | "fp32";
}

/** How the weight would be stored, or why it cannot be. */
export function planOf(model: Model, site: WeightSite, options: PlanOptions): Plan | string {
  const { tensor, uses, otherUses } = site;
  const shape = tensor.shape;
  if (options.form === "dequantize") return planDequantize(model, site, options);
  const packable =
    options.form === "auto" &&
    options.bits !== 3 && // there is no kernel
    otherUses.length === 0 &&
    ["float32", "float16"].includes(tensor.dtype) &&
    shape.length === 2 &&
    // Without int8 arithmetic only 4-bit products have a kernel; the others would unpack at every run.
    (options.compute === "int8" || options.bits === 4 || uses.every((use) => use.spec.traits?.lookup)) &&
    uses.every((use) => isPackable(model, use));
  if (packable) {
    const orientations = new Set(uses.map((use) => isStoredByColumns(use)));
    const transpose = orientations.has(true);
    const length = (transpose ? shape[0] : shape[1]) ?? 1;
    const block = blockFor(
      options.block,
      length,
      uses.some((use) => use.spec.traits?.lookup),
    );
    if (orientations.size === 1 && block !== undefined) return { kind: "packed", transpose, block };
  }
  return { kind: "folded", ...rowsOf(site, options) };
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

/** Rows of scales for a dense weight: per output channel, and below 8 bits per group of about `block` elements of it. */
function rowsOf(site: WeightSite, options: PlanOptions): { transpose: boolean; rows: number } {
  const { shape, elements } = site.tensor;
  const use = site.uses[0] as WeightUse;
  const kind = use.spec.traits?.linear;
  const transpose = shape.length === 2 && isStoredByColumns(use) && kind !== "conv";
  const spatial = kind === "conv" || kind === "conv-transpose";
  const channels = transpose ? (shape[1] ?? 1) : spatial ? (shape[0] ?? 1) : elements / (shape.at(-1) ?? 1);
  const length = elements / channels;
  // A scale for every few elements would cost more than it saves: neighbouring short rows share one.
  if (length < SHORTEST_ROW) return { transpose, rows: elements / groupFor(options.block, elements) };
  return { transpose, rows: options.bits === 8 ? channels : channels * (length / groupFor(options.block, length)) };
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
  if (options.bits === 3) return "DequantizeLinear has no 3-bit elements; use form=auto";
  const needed = options.bits === 8 ? 13 : options.bits === 4 ? 21 : 25;
  if (model.opset < needed)
    return `DequantizeLinear on ${options.bits}-bit weights needs opset ${needed}, the model has ${model.opset}; convert it or use form=auto`;
  const { transpose } = rowsOf(site, options);
  const shape = transpose ? site.tensor.shape.toReversed() : site.tensor.shape;
  const length = site.tensor.elements / (shape[0] ?? 1);
  const blocked = shape.length === 2 && model.opset >= 21 && options.bits < 8 && length % options.block === 0;
  return { kind: "dequantize", transpose, group: blocked ? options.block : length };
}

/** Bytes of codes, scales and zero points. */
export function bytesOfPlan(plan: Plan, tensor: Tensor, options: PlanOptions): number {
  const { bits, symmetric } = options;
  const scaleBytes = scaleTypeOf(plan, tensor, options) === "float16" ? 2 : 4;
  if (plan.kind === "dequantize")
    return Math.ceil((tensor.elements * bits) / 8) + (tensor.elements / plan.group) * (4 + (symmetric ? 0 : bits / 8));
  if (plan.kind === "folded")
    return packedBytes(tensor.elements, bits) + plan.rows * (scaleBytes + (symmetric ? 0 : 1));
  const [rows = 1, cols = 1] = plan.transpose ? tensor.shape.toReversed() : tensor.shape;
  const blocks = Math.ceil(cols / plan.block);
  return rows * (blocks * ((plan.block * bits) / 8 + scaleBytes) + (symmetric ? 0 : Math.ceil((blocks * bits) / 8)));
}

function scaleTypeOf(plan: Plan, tensor: Tensor, options: PlanOptions): "float32" | "float16" {
  if (plan.kind === "dequantize") return tensor.dtype === "float16" ? "float16" : "float32";
  return plan.kind === "packed" && tensor.dtype === "float16" ? "float16" : options.scaleType;
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
    scaleType: scaleTypeOf(plan, site.tensor, options),
    balance: balanceFor(site, plan, options),
  };
  if (plan.kind === "dequantize") return applyDequantize(model, kernels, site, plan, codesOptions, solved);
  return plan.kind === "packed"
    ? applyPacked(model, kernels, site, plan, codesOptions, solved)
    : applyFolded(model, kernels, site, plan, codesOptions, solved);
}

function balanceFor(site: WeightSite, plan: Plan, options: PlanOptions): number | undefined {
  if (!options.balance || plan.kind === "packed") return undefined;
  const { shape, elements } = site.tensor;
  return balanceOf(site.uses[0]?.spec.traits, shape, plan.kind === "folded" ? elements / plan.rows : plan.group);
}

function applyFolded(
  model: Model,
  kernels: Kernels,
  site: WeightSite,
  plan: Extract<Plan, { kind: "folded" }>,
  options: CodesOptions,
  solved: Solved | undefined,
): Codes {
  const { tensor, graph, value } = site;
  const { bits } = options;
  const packed = hasPackedType(bits, model.opset);
  const shape = plan.transpose ? tensor.shape.toReversed() : tensor.shape;
  const perChannel = plan.rows === shape[0];
  const grouped = perChannel ? shape : [plan.rows, tensor.elements / plan.rows];
  const scalesShape = [plan.rows, ...grouped.slice(1).map(() => 1)];
  const layout = {
    codesShape: packed || bits === 8 ? grouped : [packedBytes(tensor.elements, bits)],
    codesType: (!packed || bits === 8 ? "uint8" : bits === 4 ? "uint4" : "uint2") as DType,
    scalesShape,
    transpose: plan.transpose ? ([tensor.shape[0] ?? 1, tensor.shape[1] ?? 1] as const) : undefined,
  };
  const codes = solved
    ? solvedRows(kernels, solved, options, layout)
    : rowCodes(kernels, tensor, plan.rows, options, layout);
  const dense = unpackWeight(
    graph,
    model.opset,
    { ...codes, bits, grouped, shape, transpose: plan.transpose, dtype: tensor.dtype },
    value.name,
    graph.nodes[0],
  );
  value.replaceUses(dense);
  if (packed) model.irVersion = Math.max(model.irVersion, irVersionFor(bits));
  return codes;
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
  const scales = graph.addInitializer(`${stem}.scales`, codes.scales);
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
