/** Parameters of a model and how many of them are not zero, in whatever form they are stored. */
import { type DType, isFloat } from "../base/dtype.ts";
import { isUnpacking, layerWeights, storedTensor } from "./layer-weights.ts";
import { unpackUnsigned } from "../base/packed.ts";
import { elementCount } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";
import { inferTypes } from "./shapes.ts";
import { unpackedWeight } from "./unpacked-weight.ts";
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
 * The learned tensors of all layers: what the operators' records call weights, as they are stored. Not counted: scales, zero
 * points and codebooks, running statistics of normalization, and constants that no record calls learned. Shared tensors count once.
 */
export function parameterTensors(model: Model): ParameterTensor[] {
  const found = new Map<Tensor, ParameterTensor>();
  const { types } = inferTypes(model);
  const graphs = [...model.graph.allGraphs(), ...model.functions.flatMap(({ body }) => [...body.allGraphs()])];
  for (const graph of graphs)
    for (const node of graph.nodes) {
      if (isUnpacking(node, model.opsets.get(node.domain) ?? 1)) continue;
      for (const { weight, stored, elements } of layerWeights(
        node,
        model.opsets.get(node.domain) ?? 1,
        (value) => types.get(value)?.shape,
      )) {
        const [codes] = stored;
        if (!codes || weight.role === "statistic" || found.has(codes.tensor)) continue;
        found.set(codes.tensor, {
          name: codes.value?.name ?? node.name,
          tensor: codes.tensor,
          parameters: elements,
          zeros: () => zerosOf(codes.value, codes.tensor, node.inputs[weight.input]),
        });
      }
    }
  return [...found.values()];
}

/** Zeros of a stored tensor in the sense of the operators that read it; `weight` is what the layer sees. */
async function zerosOf(value: Value | undefined, tensor: Tensor, weight: Value | undefined): Promise<number> {
  for (const { node, index } of value?.uses ?? []) {
    const packed = packedZerosOf(node, index, tensor);
    if (packed) return packed;
    const zeroPoint = ZERO_POINTS[node.opType]?.[index];
    if (zeroPoint !== undefined && !isFloat(tensor.dtype)) return zerosAt(tensor, node, node.inputs[zeroPoint]);
    const codebook = codebookOf(node, index, tensor);
    if (codebook) return zerosThroughCodebook(tensor, codebook);
  }
  const unpacked = value === weight ? undefined : await unpackedWeight(weight);
  if (unpacked) return unpacked.reduce((zeros, element) => (element === 0 ? zeros + 1 : zeros), 0);
  return storedZeros(tensor);
}

/** Zeros of weights packed by blocks; undefined if `node` does not read them so. */
function packedZerosOf(node: Node, index: number, tensor: Tensor): Promise<number> | undefined {
  if (node.opType === "MatMulNBits" && index === 1) {
    const bits = node.int("bits", 4);
    const [rows, cols] = [node.int("N", 0), node.int("K", 0)];
    const block = node.int("block_size", 32);
    return packedZeros(tensor, node.inputs[3], { rows, cols, bits, block, fallback: 2 ** (bits - 1) });
  }
  if (node.opType !== "GatherBlockQuantized" || index !== 0) return undefined;
  if (tensor.dtype.startsWith("int")) return zerosAt(tensor, node, node.inputs[3]);
  const bits = tensor.dtype === "uint8" ? node.int("bits", 4) : 4;
  const perElement = tensor.dtype === "uint8" ? 8 / bits : 1;
  const cols = (tensor.shape.at(-1) ?? 1) * perElement;
  return packedZeros(tensor, node.inputs[3], {
    rows: (tensor.elements * perElement) / cols,
    cols,
    bits,
    block: node.int("block_size", 128),
    fallback: tensor.dtype === "uint8" ? 2 ** (bits - 1) : 0,
    continuous: true,
  });
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
  const stored = zeroPoints ? storedTensor(zeroPoints) : undefined;
  // One zero point per block; in bytes, each row of them starts at a whole one.
  const perRow = stored?.dtype === "uint4" ? blocks : Math.ceil((blocks * bits) / 8) * (8 / bits);
  const points = stored && !isFloat(stored.dtype) ? unpackBits(await stored.bytes(), bits, rows * perRow) : undefined;
  const pointOf = (row: number, at: number): number => points?.[row * perRow + at] ?? layout.fallback;
  const bytes = await tensor.bytes();
  let zeros = 0;
  if ((block * bits) % 8 === 0 && (stride * bits) % 8 === 0 && cols % block === 0) {
    const blockBytes = (block * bits) / 8;
    for (let row = 0, at = 0; row < rows; row++)
      for (let b = 0; b < blocks; b++, at += blockBytes)
        zeros += codesEqual(bytes, at, at + blockBytes, bits, pointOf(row, b));
    return zeros;
  }
  const codes = unpackBits(bytes, bits, rows * stride);
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++)
      if (codes[row * stride + col] === pointOf(row, Math.floor(col / block))) zeros++;
  return zeros;
}

/** Codes in bytes [from, to) that equal `code`, without unpacking them. */
function codesEqual(bytes: Uint8Array, from: number, to: number, bits: number, code: number): number {
  let equal = 0;
  if (bits === 8) {
    for (let i = from; i < to; i++) if (bytes[i] === code) equal++;
  } else if (bits === 4) {
    for (let i = from; i < to; i++) {
      const pair = bytes[i] as number;
      if ((pair & 15) === code) equal++;
      if (pair >> 4 === code) equal++;
    }
  } else
    for (let i = from; i < to; i++) {
      const four = bytes[i] as number;
      for (let shift = 0; shift < 8; shift += 2) if (((four >> shift) & 3) === code) equal++;
    }
  return equal;
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
