/** Parameters of a model and how many of them are not zero, in whatever form they are stored. */
import { type DType, isFloat } from "../base/dtype.ts";
import { unpackUnsigned } from "../base/packed.ts";
import { elementCount } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import { storedCodes, storedZeros } from "./zeros.ts";

/** How one stored tensor counts. */
export interface ParameterTensor {
  readonly name: string;
  readonly tensor: Tensor;
  /** Numbers that it stands for: K·N of packed weights, not their bytes. */
  readonly parameters: number;
  /** Counts its zeros: elements equal to the zero point where it is quantized. Reads the tensor. */
  zeros(): Promise<number>;
}

/** Inputs that carry scales, zero points and other bookkeeping of quantization, by operator. */
const SCALE_INPUTS: Readonly<Record<string, readonly number[]>> = {
  QuantizeLinear: [1, 2],
  DequantizeLinear: [1, 2],
  QLinearConv: [1, 2, 4, 5, 6, 7],
  QLinearMatMul: [1, 2, 4, 5, 6, 7],
  QLinearAdd: [1, 2, 4, 5, 6, 7],
  QLinearMul: [1, 2, 4, 5, 6, 7],
  QLinearSigmoid: [1, 2, 3, 4],
  QLinearLeakyRelu: [1, 2, 3, 4],
  QLinearGlobalAveragePool: [1, 2, 3, 4],
  QLinearAveragePool: [1, 2, 3, 4],
  QLinearSoftmax: [1, 2, 3, 4],
  QLinearConcat: [],
  QGemm: [1, 2, 4, 5, 7, 8],
  ConvInteger: [2, 3],
  MatMulInteger: [2, 3],
  MatMulIntegerToFloat: [2, 3, 4, 5],
  DynamicQuantizeMatMul: [2, 3],
  MatMulNBits: [2, 3, 4],
  GatherBlockQuantized: [2, 3],
};

/** Where the zero point of a quantized input is found: input index of data to input index of its zero point. */
const ZERO_POINTS: Readonly<Record<string, Readonly<Record<number, number>>>> = {
  DequantizeLinear: { 0: 2 },
  QLinearConv: { 3: 5, 0: 2 },
  QLinearMatMul: { 3: 5, 0: 2 },
  QGemm: { 3: 5, 0: 2 },
  ConvInteger: { 1: 3 },
  MatMulInteger: { 1: 3 },
  MatMulIntegerToFloat: { 1: 5 },
  DynamicQuantizeMatMul: { 1: 3 },
};

/**
 * Every stored tensor that holds learned numbers. Not counted: scales and zero points, codebooks, running statistics of
 * normalization, shapes, axes and indices, and single numbers that no operator record calls learned. Shared tensors count once.
 */
export function parameterTensors(model: Model): ParameterTensor[] {
  const found: ParameterTensor[] = [];
  const seen = new Set<Tensor>();
  for (const graph of model.graph.allGraphs()) {
    const stored = [...graph.initializers.values()];
    for (const node of graph.nodes) if (node.opType === "Constant" && node.outputs[0]) stored.push(node.outputs[0]);
    for (const value of stored) {
      const tensor = storedTensor(value);
      if (!tensor || seen.has(tensor)) continue;
      const counted = countedAs(value, tensor, model);
      if (!counted) continue;
      seen.add(tensor);
      found.push(counted);
    }
  }
  return found;
}

function storedTensor(value: Value): Tensor | undefined {
  if (value.tensor) return value.tensor;
  const attribute = value.producer?.opType === "Constant" ? value.producer.attributes.get("value") : undefined;
  return attribute?.type === "tensor" ? attribute.value : undefined;
}

function countedAs(value: Value, tensor: Tensor, model: Model): ParameterTensor | undefined {
  if (tensor.dtype === "string" || tensor.dtype.startsWith("complex") || value.uses.length === 0) return undefined;
  const make = (parameters: number, zeros: () => Promise<number>): ParameterTensor => ({
    name: value.name,
    tensor,
    parameters,
    zeros,
  });
  for (const { node, index } of value.uses) {
    if (SCALE_INPUTS[node.opType]?.includes(index)) continue;
    const packed = packedWeight(node, index, tensor);
    if (packed) return make(packed.parameters, packed.zeros);
    const zeroPoint = ZERO_POINTS[node.opType]?.[index];
    if (zeroPoint !== undefined && tensor.dtype !== "float32")
      return make(tensor.elements, () => zerosAt(tensor, node, node.inputs[zeroPoint]));
    const codes = codebookOf(node, index, tensor);
    if (codes) return make(tensor.elements, () => zerosThroughCodebook(tensor, codes));
    if (node.opType === "QLinearConv" && index === 8) return make(tensor.elements, () => storedZeros(tensor));
    if (!isFloat(tensor.dtype)) continue;
    const role = roleOf(node, index, model);
    if (role === "statistic") return undefined;
    if (role !== undefined || tensor.elements > 1) return make(tensor.elements, () => storedZeros(tensor));
  }
  return undefined;
}

function roleOf(node: Node, index: number, model: Model): string | undefined {
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  const weights = typeof spec?.weights === "function" ? spec.weights(node) : spec?.weights;
  return weights?.find((weight) => weight.input === index)?.role;
}

/** Weights packed by blocks: their number is in the node's attributes or follows from the packing. */
function packedWeight(
  node: Node,
  index: number,
  tensor: Tensor,
): { readonly parameters: number; zeros(): Promise<number> } | undefined {
  if (node.opType === "MatMulNBits" && index === 1) {
    const k = node.int("K", 0);
    const n = node.int("N", 0);
    const bits = node.int("bits", 4);
    const block = node.int("block_size", 32);
    const layout: PackedLayout = { rows: n, cols: k, bits, block, fallback: 2 ** (bits - 1) };
    return { parameters: k * n, zeros: () => packedZeros(tensor, node.inputs[3], layout) };
  }
  if (node.opType === "GatherBlockQuantized" && index === 0) {
    const bits = node.int("bits", 4);
    const perElement = tensor.dtype === "uint8" ? 8 / bits : 1;
    const parameters = tensor.elements * perElement;
    const cols = (tensor.shape.at(-1) ?? 1) * perElement;
    const signed = tensor.dtype.startsWith("int");
    const layout: PackedLayout = {
      rows: parameters / cols,
      cols,
      bits,
      block: node.int("block_size", 128),
      fallback: tensor.dtype === "uint8" ? 2 ** (bits - 1) : 0,
      continuous: true,
    };
    return signed
      ? { parameters, zeros: () => zerosAt(tensor, node, node.inputs[3]) }
      : { parameters, zeros: () => packedZeros(tensor, node.inputs[3], layout) };
  }
  return undefined;
}

interface PackedLayout {
  readonly rows: number;
  readonly cols: number;
  readonly bits: number;
  readonly block: number;
  /** Zero point where none is stored. */
  readonly fallback: number;
  /** Rows follow one another without padding to whole blocks. */
  readonly continuous?: boolean;
}

/** Zeros of block-wise packed codes: those equal to their block's zero point. */
async function packedZeros(tensor: Tensor, zeroPoints: Value | undefined, layout: PackedLayout): Promise<number> {
  const { rows, cols, bits, block } = layout;
  const blocks = Math.ceil(cols / block);
  const stride = layout.continuous ? cols : blocks * block;
  const codes = unpackBits(await tensor.bytes(), bits, rows * stride);
  const stored = zeroPoints ? storedTensor(zeroPoints) : undefined;
  // One zero point per block; in bytes, each row of them starts at a whole one.
  const perRow = stored?.dtype === "uint4" ? blocks : Math.ceil((blocks * bits) / 8) * (8 / bits);
  const points = stored && !isFloat(stored.dtype) ? unpackBits(await stored.bytes(), bits, rows * perRow) : undefined;
  let zeros = 0;
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++) {
      const point = points?.[row * perRow + Math.floor(col / block)] ?? layout.fallback;
      if (codes[row * stride + col] === point) zeros++;
    }
  return zeros;
}

function unpackBits(bytes: Uint8Array, bits: number, count: number): Uint8Array {
  return bits === 8 ? bytes : unpackUnsigned(bytes, bits === 2 ? 2 : 4, Math.min(count, (bytes.length * 8) / bits));
}

/** Zeros of a tensor quantized per tensor, per axis or by blocks: elements equal to their zero point. */
async function zerosAt(tensor: Tensor, node: Node, zeroPoint: Value | undefined): Promise<number> {
  const stored = zeroPoint ? storedTensor(zeroPoint) : undefined;
  const codes = await storedCodes(tensor);
  const points = stored ? await storedCodes(stored) : undefined;
  if (!points || points.every((point) => point === points[0])) {
    const point = points?.[0] ?? 0;
    let zeros = 0;
    for (const code of codes) if (code === point) zeros++;
    return zeros;
  }
  const { shape } = tensor;
  const given = node.int("axis", node.int("quantize_axis", 1));
  const axis = given < 0 ? given + shape.length : given;
  const block = node.int("block_size", 0);
  const inner = elementCount(shape.slice(axis + 1));
  const size = shape[axis] ?? 1;
  const blocks = block > 0 ? Math.ceil(size / block) : size;
  let zeros = 0;
  for (let i = 0; i < codes.length; i++) {
    const along = Math.floor(i / inner) % size;
    const outer = Math.floor(i / (inner * size));
    const at = block > 0 ? (outer * blocks + Math.floor(along / block)) * inner + (i % inner) : along;
    if (codes[i] === points[at]) zeros++;
  }
  return zeros;
}

/** The codebook of `Cast(codes) -> Gather(codebook, codes)` when `node` is that Cast or Gather. */
function codebookOf(node: Node, index: number, tensor: Tensor): Tensor | undefined {
  const packed: readonly DType[] = ["uint2", "uint4", "uint8"];
  if (!packed.includes(tensor.dtype)) return undefined;
  const gather = node.opType === "Cast" ? node.outputs[0]?.uses[0] : { node, index };
  if (gather?.node.opType !== "Gather" || gather.index !== 1) return undefined;
  const table = gather.node.inputs[0];
  return table ? storedTensor(table) : undefined;
}

async function zerosThroughCodebook(tensor: Tensor, codebook: Tensor): Promise<number> {
  const zeroCodes = new Set<number>();
  const values = await storedCodes(codebook);
  for (const [code, value] of values.entries()) if (value === 0) zeroCodes.add(code);
  if (zeroCodes.size === 0) return 0;
  let zeros = 0;
  for (const code of await storedCodes(tensor)) if (zeroCodes.has(code)) zeros++;
  return zeros;
}
