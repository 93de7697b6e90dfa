/** Stores a weight in few bits in front of any operator, in operators that the engine folds into a dense float weight at load. */
import { type DType, dtypeBits, dtypeCode } from "../base/dtype.ts";
import { type CodeBits, planesOf } from "../base/packed.ts";
import { elementCount } from "../base/shape.ts";
import { Builder } from "../ir/builder.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";

/** Opsets from which `Cast` reads packed elements; the file needs the IR version beside it. */
const PACKED_CAST: Readonly<Partial<Record<number, { readonly opset: number; readonly ir: number }>>> = {
  4: { opset: 21, ir: 10 },
  2: { opset: 25, ir: 13 },
};

/** True if packed elements of that width can be initializers of a model at this opset. */
export function hasPackedType(bits: number, opset: number): boolean {
  return bits >= 8 || opset >= (PACKED_CAST[bits]?.opset ?? Number.POSITIVE_INFINITY);
}

/** IR version that a file with such initializers declares. */
export function irVersionFor(dtype: DType): number {
  if (dtype.startsWith("float8")) return 9;
  return PACKED_CAST[dtypeBits(dtype)]?.ir ?? 4;
}

export interface UnpackParts {
  readonly bits: CodeBits | 16;
  /**
   * Elements of `grouped` shape that a Cast reads (uint8, uint4, uint2, int16, an 8- or 16-bit float); or of codes below 8 bits
   * uint8 of shape (bytes) in the planes that `packCodes` makes.
   */
  readonly codes: Tensor;
  /** Shape in which scales broadcast. */
  readonly grouped: readonly number[];
  /** float32 or float16; undefined: 1. */
  readonly scales: Tensor | undefined;
  readonly zeroPoints: Tensor | undefined;
  /** float32 levels that the codes count; undefined: the codes are the levels, unsigned ones around their middle. */
  readonly levels?: Tensor | undefined;
  /** Name of levels that other weights use too. */
  readonly levelsName?: string | undefined;
  /** Shape of the weight, before `transpose`. */
  readonly shape: readonly number[];
  /** Matrix transpose at the end. */
  readonly transpose: boolean;
  /** Dtype of the weight. */
  readonly dtype: DType;
}

/**
 * ŵ = (code − z)·s as Cast → Sub → Mul → Reshape, or levels[code]·s as Cast → Gather → Mul → Reshape, on constants: the engine
 * computes it once at load. Codes below 8 bits without a packed type at the model's opset come as bytes that index a table of
 * the codes in each byte; those of 3, 5 and 6 bits always do, as the sum of two planes.
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
  const codes = b.constant("codes", parts.codes);
  const unsigned = parts.codes.dtype.startsWith("uint");
  // What a zero point or levels do not say: unsigned codes stand around their middle.
  const middle = unsigned && !parts.zeroPoints && !parts.levels ? 2 ** (parts.bits - 1) : 0;
  const number: DType = parts.levels ? "int32" : "float32";
  let value: Value;
  if (parts.bits < 8 && parts.codes.dtype === "uint8")
    value = planes(b, codes, { ...parts, bits: parts.bits as CodeBits, number, middle }, opset);
  else {
    value = cast(codes, number);
    if (middle > 0) value = b.op("Sub", [value, scalarConstant(graph, middle)], { name: "sub" });
  }
  if (parts.levels) {
    const levels =
      parts.levelsName === undefined
        ? b.constant("levels", parts.levels)
        : sharedConstant(graph, parts.levelsName, parts.levels);
    value = b.op("Gather", [levels, value], { name: "level" });
  }
  if (parts.zeroPoints)
    value = b.op("Sub", [value, cast(b.constant("zero", parts.zeroPoints), "float32")], { name: "sub" });
  if (parts.scales) {
    const scales = b.constant("scales", parts.scales);
    value = b.op("Mul", [value, parts.scales.dtype === "float32" ? scales : cast(scales, "float32")], { name: "mul" });
  }
  if (parts.grouped.join() !== parts.shape.join())
    value = b.op("Reshape", [value, shapeConstant(graph, parts.shape)], { name: "shape" });
  if (parts.transpose) value = b.op("Transpose", [value], { attributes: { perm: [1, 0] }, name: "transpose" });
  if (parts.dtype !== "float32") value = cast(value, parts.dtype);
  value.dtype = parts.dtype;
  value.shape = parts.transpose ? parts.shape.toReversed() : parts.shape;
  return value;
}

/** Codes minus `middle` in `grouped` shape, out of the bytes of their planes. */
function planes(
  b: Builder,
  bytes: Value,
  parts: {
    readonly bits: CodeBits;
    readonly grouped: readonly number[];
    readonly number: DType;
    readonly middle: number;
  },
  opset: number,
): Value {
  const { graph } = b;
  const elements = elementCount(parts.grouped);
  const cast = (value: Value, to: DType): Value =>
    b.op("Cast", [value], { attributes: { to: dtypeCode(to) }, name: "cast" });
  const widths = planesOf(parts.bits) as readonly (1 | 2 | 4)[];
  let sum: Value | undefined;
  let [at, shift] = [0, 0];
  for (const width of widths) {
    const end = at + Math.ceil((elements * width) / 8);
    const own = widths.length > 1 ? range(b, bytes, [at, end], opset) : bytes;
    const table = cast(codeTable(graph, width, 2 ** shift, shift === 0 ? parts.middle : 0), parts.number);
    const fields = b.op("Gather", [table, cast(own, "int32")], { name: "pairs" }); // (bytes, 8/width)
    const whole = widths.length === 1 && (elements * width) % 8 === 0;
    const plane = whole ? fields : range(b, fields, [0, elements], opset, true);
    sum = sum ? b.op("Add", [sum, plane], { name: "planes" }) : plane;
    at = end;
    shift += width;
  }
  return b.op("Reshape", [sum, shapeConstant(graph, parts.grouped)], { name: "grouped" });
}

/**
 * Codes of 4 bits in two's complement (packed, low bits first) as int8 of `shape`, in operators that the engine folds at load,
 * before it fuses what reads them into integer kernels: a Cast of int4, or below opset 21 a look-up of pairs.
 */
export function unpackCodes(
  graph: Graph,
  opset: number,
  packed: Uint8Array,
  shape: readonly number[],
  name: string,
  before: Node | undefined,
): Value {
  const b = new Builder(graph, { prefix: `${name}.`, before });
  const elements = elementCount(shape);
  let value: Value;
  if (hasPackedType(4, opset)) {
    const codes = b.constant("packed", Tensor.of("int4", shape, packed));
    value = b.op("Cast", [codes], { attributes: { to: dtypeCode("int8") }, name: "codes" });
  } else {
    const bytes = b.constant("packed", Tensor.of("uint8", [packed.length], packed));
    const index = b.op("Cast", [bytes], { attributes: { to: dtypeCode("int32") }, name: "bytes" });
    const pairs = b.op("Gather", [codeTable(graph, 4, 1, 0, true), index], { name: "pairs" });
    const flat = elements % 2 === 0 ? pairs : range(b, pairs, [0, elements], opset, true);
    value = b.op("Reshape", [flat, shapeConstant(graph, shape)], { name: "codes" });
  }
  [value.dtype, value.shape] = ["int8", shape];
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

/**
 * (256, 8/bits) int8: the codes in each byte, low bits first, times `factor`, minus `middle`; codes are unsigned, or two's
 * complement. One per graph and kind.
 */
function codeTable(graph: Graph, bits: 1 | 2 | 4, factor: number, middle: number, signed = false): Value {
  const perByte = 8 / bits;
  const table = new Int8Array(256 * perByte);
  for (let byte = 0; byte < 256; byte++)
    for (let i = 0; i < perByte; i++) {
      const code = (byte >> (bits * i)) & (2 ** bits - 1);
      table[byte * perByte + i] = (signed && code >= 2 ** (bits - 1) ? code - 2 ** bits : code) * factor - middle;
    }
  return sharedConstant(
    graph,
    `codes_${signed ? "int" : "uint"}${bits}${factor > 1 ? `_times_${factor}` : ""}${middle === 0 ? "" : middle === 2 ** (bits - 1) ? "_centered" : `_minus_${middle}`}`,
    Tensor.of("int8", [256, perByte], table),
  );
}

/** Bytes of the tables that unpack codes of a width without a packed type, once in a model. */
export function codeTableBytes(bits: CodeBits | 16, opset: number): number {
  if (hasPackedType(bits, opset)) return 0;
  return planesOf(bits as CodeBits).reduce<number>((bytes, width) => bytes + (256 * 8) / width, 0);
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
