/** The learned inputs of one layer: which stored tensors feed them, through dequantization and the like, and in how many bits. */
import { type DType, dtypeBits, isFloat } from "../base/dtype.ts";
import { type CodeBits, packedBytes } from "../base/packed.ts";
import { type Dim, elementCount, isConcrete } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import type { Weight } from "../ops/spec.ts";

export interface Stored {
  /** The initializer or the output of the Constant node. */
  readonly value: Value | undefined;
  readonly tensor: Tensor;
  /** True for a codebook: numbers that codes stand for, not the codes themselves. */
  readonly isCodebook?: boolean;
}

/** One learned input of one node. */
export interface LayerWeight {
  readonly weight: Weight;
  /** The stored tensors that the input is made of: the codes first, then scales, zero points and codebooks. */
  readonly stored: readonly Stored[];
  /** Elements of the weight itself (not of its scales), as the layer sees them. */
  readonly elements: number;
  /** Bits in which an element is stored. */
  readonly bits: number;
}

/** A chain of operators that unpack or mask a weight is never longer than this. */
const MAX_CHAIN = 12;

/** The tensor of an initializer or of a Constant node. */
export function storedTensor(value: Value | undefined): Tensor | undefined {
  if (value?.tensor) return value.tensor;
  const attribute = value?.producer?.opType === "Constant" ? value.producer.attributes.get("value") : undefined;
  return attribute?.type === "tensor" ? attribute.value : undefined;
}

/**
 * Stored tensors behind a value, the largest (the codes) first; undefined if something that is fed, random or computed by an
 * unknown operator is behind it. Unpacking (Cast, Gather from a codebook, DequantizeLinear), moving and masking all count.
 */
function storedBehind(value: Value | undefined, opset: number, depth = 0): Stored[] | undefined {
  const tensor = storedTensor(value);
  if (tensor) return [{ value, tensor }];
  const node = value?.producer;
  const spec = node && specOf(node, opset);
  if (!spec || depth > MAX_CHAIN || spec.traits?.impure) return undefined;
  const behind: Stored[] = [];
  for (const [index, input] of node.inputs.entries()) {
    if (!input) continue;
    const found = storedBehind(input, opset, depth + 1);
    if (!found) return undefined;
    const isCodebook = spec.traits?.lookup === true && index === 0;
    behind.push(...found.map((part) => (isCodebook ? { ...part, isCodebook } : part)));
  }
  const rank = (part: Stored): number => (part.isCodebook ? 0 : part.tensor.elements);
  // Planes of codes are parts of one tensor: listed once
  const each = behind.filter(({ tensor: own }, i) => behind.findIndex((part) => part.tensor === own) === i);
  return each.length > 0 ? each.sort((a, b) => rank(b) - rank(a)) : undefined;
}

/** True if the node depends on stored tensors alone: it unpacks a weight when the model is loaded, and is no layer. */
export function isUnpacking(node: Node, opset: number): boolean {
  return node.opType !== "Constant" && storedBehind(node.outputs[0], opset) !== undefined;
}

/** Elements of a packed kernel: N·K and the bits that hold each. */
function packedKernel(node: Node): { elements: number; bits: number } | undefined {
  const [n, k] = [node.int("N"), node.int("K")];
  return n !== undefined && k !== undefined ? { elements: n * k, bits: node.int("bits", 4) } : undefined;
}

/**
 * The learned inputs of a node, with the tensors that hold them. Inputs that are computed are left out. `shapeOf` tells the
 * shapes of values that are unpacked: without it a byte that holds several codes counts as one element.
 */
export function layerWeights(
  node: Node,
  opset: number,
  shapeOf: (value: Value) => readonly Dim[] | undefined = (value) => value.shape,
): readonly LayerWeight[] {
  const weights = specOf(node, opset)?.weights ?? [];
  return (typeof weights === "function" ? weights(node) : weights).flatMap((weight): LayerWeight[] => {
    const stored = storedBehind(node.inputs[weight.input], opset);
    const first = stored?.[0];
    if (!stored || !first) return [];
    // Tables of indices and shapes are not learned; an int32 bias is.
    if (weight.role !== "bias" && /^(u?int(32|64)|bool|string)$/.test(first.tensor.dtype)) return [];
    if (weight.role === "kernel" || weight.role === "table") {
      const packed = weight.role === "kernel" ? packedKernel(node) : packedTable(node, first.tensor);
      if (packed) return [{ weight, stored: [...stored, ...companions(node, weight.input)], ...packed }];
    }
    const tied = weight.role === "kernel" ? companions(node, weight.input) : [];
    return [
      { weight, stored: [...stored, ...tied], ...unpackedSize(node.inputs[weight.input], first.tensor, shapeOf) },
    ];
  });
}

/** Elements of a weight as the layer sees it, and the bits that hold each: bytes of codes unpack to more elements than they are. */
function unpackedSize(
  value: Value | undefined,
  codes: Tensor,
  shapeOf: (value: Value) => readonly Dim[] | undefined,
): { elements: number; bits: number } {
  const shape = value && shapeOf(value);
  if (storedTensor(value) !== undefined || codes.dtype !== "uint8" || !isConcrete(shape))
    return { elements: codes.elements, bits: dtypeBits(codes.dtype) };
  const elements = elementCount(shape);
  return { elements, bits: CODE_BITS.find((bits) => packedBytes(elements, bits) >= codes.elements) ?? 8 };
}

const CODE_BITS: readonly CodeBits[] = [1, 2, 3, 4, 5, 6, 8];

/** A packed table of codes: 8 / bits elements in each byte. */
function packedTable(node: Node, tensor: Tensor): { elements: number; bits: number } | undefined {
  if (node.opType !== "GatherBlockQuantized") return undefined;
  const bits = tensor.dtype === "uint8" ? node.int("bits", 4) : dtypeBits(tensor.dtype);
  return { elements: (tensor.byteLength * 8) / bits, bits };
}

/** Stored scales and zero points that follow a quantized kernel among the inputs. */
function companions(node: Node, input: number): Stored[] {
  if (node.inputs[input]?.dtype !== undefined && isFloat(node.inputs[input].dtype)) return [];
  return node.inputs.slice(input + 1).flatMap((value) => {
    const tensor = storedTensor(value);
    return tensor ? [{ value, tensor }] : [];
  });
}

/** Bits of an activation that flows into an operator: those of the codes where it was dequantized just before. */
export function activationBits(value: Value | undefined, dtypeOf: (value: Value) => DType | undefined): number {
  const producer = value?.producer;
  const codes = producer?.opType === "DequantizeLinear" ? producer.inputs[0] : undefined;
  const bits = dtypeBits((codes && dtypeOf(codes)) ?? (value && dtypeOf(value)) ?? "float32");
  return Math.min(bits, (codes && bitsOfClip(codes.producer)) ?? bits);
}

/** Bits of unsigned codes that are cut off below what their type holds. */
function bitsOfClip(node: Node | undefined): number | undefined {
  const highest = node?.opType === "Clip" ? storedTensor(node.inputs[2]) : undefined;
  const value = highest?.dtype === "uint8" ? highest.peekNumbers()?.[0] : undefined;
  return value === undefined ? undefined : Math.ceil(Math.log2(value + 1));
}
