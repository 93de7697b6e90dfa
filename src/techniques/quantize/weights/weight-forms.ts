/** The rewriting of operators into the form that was planned for a low-precision weight. */
import { type DType, bytesOf } from "../../../base/dtype.ts";
import { type CodeBits, packedBytes } from "../../../base/packed.ts";
import { Builder } from "../../../ir/builder.ts";
import type { Attribute } from "../../../ir/attribute.ts";
import { float } from "../../../ir/attribute.ts";
import type { Node, Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { Tensor } from "../../../ir/tensor.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { constantTensor } from "../../../transform/constants.ts";
import { balanceOf } from "../balanced.ts";
import { applyDequantize } from "./dequantize-form.ts";
import { hasPackedType, irVersionFor, sharedConstant, unpackWeight } from "../../../transform/unpack-weights.ts";
import type { WeightSite, WeightUse } from "../../../transform/weight-sites.ts";
import { type Solved, solvedBlocks, solvedRows } from "./solved-codes.ts";
import type { NumberFormat } from "./formats.ts";
import { halfCodes, levelCodes, wideCodes } from "./level-codes.ts";
import { type Codes, type CodesOptions, type RowLayout, blockCodes, rowCodes } from "./weight-codes.ts";
import { type Plan, type PlanOptions, hasScales, scaleTypeOf } from "./weight-plan.ts";

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
