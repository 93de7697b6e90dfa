/** Stores a weight in few bits in front of any operator, in operators that the engine folds into a dense float weight at load. */
import type { DType } from "../base/dtype.ts";
import { dtypeCode } from "../base/dtype.ts";
import { elementCount } from "../base/shape.ts";
import { Builder } from "../ir/builder.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";

/** Opsets from which `Cast` reads packed elements; the file needs the IR version beside it. */
const PACKED_CAST = { 4: { opset: 21, ir: 10 }, 2: { opset: 25, ir: 13 } } as const;

/** True if packed elements of that width can be initializers of a model at this opset. */
export function hasPackedType(bits: 2 | 3 | 4 | 8, opset: number): boolean {
  return bits === 8 ? true : bits === 3 ? false : opset >= PACKED_CAST[bits].opset;
}

/** IR version that a file with such initializers declares. */
export function irVersionFor(bits: 2 | 3 | 4 | 8): number {
  return bits === 8 || bits === 3 ? 4 : PACKED_CAST[bits].ir;
}

export interface UnpackParts {
  readonly bits: 2 | 3 | 4 | 8;
  /**
   * uint8, uint4 or uint2 of `grouped` shape; or uint8 of shape (bytes) that hold 8/bits codes each, low bits first (of 3-bit
   * codes the planes that `packCodes` makes).
   */
  readonly codes: Tensor;
  /** Shape in which scales broadcast. */
  readonly grouped: readonly number[];
  /** float32 or float16. */
  readonly scales: Tensor;
  readonly zeroPoints: Tensor | undefined;
  /** Shape of the weight, before `transpose`. */
  readonly shape: readonly number[];
  /** Matrix transpose at the end. */
  readonly transpose: boolean;
  /** Dtype of the weight. */
  readonly dtype: DType;
}

/**
 * ŵ = (code − z)·s, as Cast → Sub → Mul → Reshape on constants: the engine computes it once at load. Codes of 2 and 4 bits
 * in a model whose opset has no packed types come as bytes that index a table of code pairs (quadruples); 3-bit codes always
 * come so, as the sum of a 2-bit and a 1-bit plane.
 * Nodes are inserted before `before` (or appended); returns the value that replaces the weight.
 */
export function unpackWeight(
  graph: Graph,
  opset: number,
  parts: UnpackParts,
  name: string,
  before: Node | undefined,
): Value {
  const b = new Builder(graph, { prefix: `${name}.`, before });
  const cast = (value: Value, to: DType): Value =>
    b.op("Cast", [value], { attributes: { to: dtypeCode(to) }, name: "cast" });
  const middle = 2 ** (parts.bits - 1);
  const codes = b.constant("codes", parts.codes);
  let symmetricDone = false;
  let value: Value;
  if (parts.bits < 8 && parts.codes.dtype === "uint8") {
    symmetricDone = true;
    const elements = elementCount(parts.grouped);
    const offset = parts.zeroPoints ? 0 : middle;
    const plane = (bytes: Value, bits: 1 | 2 | 4, factor: number, minus: number): Value => {
      const table = cast(codeTable(graph, bits, factor, minus), "float32");
      const fields = b.op("Gather", [table, cast(bytes, "int32")], { name: "pairs" });
      if (parts.bits !== 3 && (elements * bits) % 8 === 0) return fields;
      return range(b, fields, [0, elements], opset, true);
    };
    if (parts.bits === 3) {
      const border = Math.ceil(elements / 4);
      const low = plane(range(b, codes, [0, border], opset), 2, 1, offset);
      const high = plane(range(b, codes, [border, border + Math.ceil(elements / 8)], opset), 1, 4, 0);
      value = b.op("Add", [low, high], { name: "planes" });
    } else value = plane(codes, parts.bits as 2 | 4, 1, offset);
    value = b.op("Reshape", [value, shapeConstant(graph, parts.grouped)], { name: "grouped" });
  } else value = cast(codes, "float32");
  if (parts.zeroPoints)
    value = b.op("Sub", [value, cast(b.constant("zero", parts.zeroPoints), "float32")], { name: "sub" });
  else if (!symmetricDone) value = b.op("Sub", [value, scalarConstant(graph, middle)], { name: "sub" });
  const scales = b.constant("scales", parts.scales);
  value = b.op("Mul", [value, parts.scales.dtype === "float32" ? scales : cast(scales, "float32")], { name: "mul" });
  if (parts.grouped.join() !== parts.shape.join())
    value = b.op("Reshape", [value, shapeConstant(graph, parts.shape)], { name: "shape" });
  if (parts.transpose) value = b.op("Transpose", [value], { attributes: { perm: [1, 0] }, name: "transpose" });
  if (parts.dtype !== "float32") value = cast(value, parts.dtype);
  value.dtype = parts.dtype;
  value.shape = parts.transpose ? parts.shape.toReversed() : parts.shape;
  return value;
}

/** Elements [start, end), for example those before what a padded last byte adds; of the flat array if `flatten`. */
function range(
  b: Builder,
  value: Value,
  [start, end]: readonly [number, number],
  opset: number,
  flatten = false,
): Value {
  const flat = flatten ? b.op("Reshape", [value, shapeConstant(b.graph, [-1])], { name: "flat" }) : value;
  if (opset < 10)
    return b.op("Slice", [flat], { attributes: { axes: [0], starts: [start], ends: [end] }, name: "first" });
  const ends = sharedConstant(b.graph, `ends_${end}`, Tensor.int64([end]));
  const starts = sharedConstant(b.graph, `starts_${start}`, Tensor.int64([start]));
  return b.op("Slice", [flat, starts, ends], { name: "first" });
}

/** (256, 8/bits) int8: the codes in each byte, low bits first, times `factor`, minus `middle`. One per graph and kind. */
function codeTable(graph: Graph, bits: 1 | 2 | 4, factor: number, middle: number): Value {
  const perByte = 8 / bits;
  const table = new Int8Array(256 * perByte);
  for (let byte = 0; byte < 256; byte++)
    for (let i = 0; i < perByte; i++)
      table[byte * perByte + i] = ((byte >> (bits * i)) & (2 ** bits - 1)) * factor - middle;
  return sharedConstant(
    graph,
    `codes_uint${bits}${factor > 1 ? `_times_${factor}` : ""}${middle ? "_centered" : ""}`,
    Tensor.of("int8", [256, perByte], table),
  );
}

/** Bytes of the table that a model without packed types needs once. */
export function codeTableBytes(bits: 2 | 3 | 4 | 8, opset: number): number {
  if (hasPackedType(bits, opset)) return 0;
  return bits === 3 ? 256 * 4 + 256 * 8 : (256 * 8) / bits;
}

function shapeConstant(graph: Graph, shape: readonly number[]): Value {
  return sharedConstant(graph, `shape_${shape.join("x")}`, Tensor.int64(shape));
}

function scalarConstant(graph: Graph, value: number): Value {
  return sharedConstant(graph, `middle_${value}`, Tensor.float32([], [value]));
}

/** The constant of that name if an equal one is there already, else a new one. */
export function sharedConstant(graph: Graph, name: string, tensor: Tensor): Value {
  const full = `pare.${name}`;
  const known = graph.initializers.get(full);
  if (
    known?.tensor?.dtype === tensor.dtype &&
    known.tensor.shape.join() === tensor.shape.join() &&
    known.tensor.peek()?.join() === tensor.peek()?.join()
  )
    return known;
  return graph.addInitializer(full, tensor);
}
