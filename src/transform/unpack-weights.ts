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
  const site = siteOf(graph, before);
  const { op, cast } = site;
  const constant = (part: string, tensor: Tensor): Value => graph.addInitializer(`${name}.${part}`, tensor);
  const codes = constant("codes", parts.codes);
  const unsigned = parts.codes.dtype.startsWith("uint");
  // What a zero point or levels do not say: unsigned codes stand around their middle.
  const middle = unsigned && !parts.zeroPoints && !parts.levels ? 2 ** (parts.bits - 1) : 0;
  const number: DType = parts.levels ? "int32" : "float32";
  let value: Value;
  if (parts.bits < 8 && parts.codes.dtype === "uint8")
    value = planes(site, codes, { ...parts, bits: parts.bits as CodeBits, number, middle }, opset);
  else {
    value = cast(codes, number);
    if (middle > 0) value = op("Sub", [value, scalarConstant(graph, middle)]);
  }
  if (parts.levels) {
    const levels =
      parts.levelsName === undefined
        ? constant("levels", parts.levels)
        : sharedConstant(graph, parts.levelsName, parts.levels);
    value = op("Gather", [levels, value]);
  }
  if (parts.zeroPoints) value = op("Sub", [value, cast(constant("zero", parts.zeroPoints), "float32")]);
  if (parts.scales) {
    const scales = constant("scales", parts.scales);
    value = op("Mul", [value, parts.scales.dtype === "float32" ? scales : cast(scales, "float32")]);
  }
  if (parts.grouped.join() !== parts.shape.join()) value = op("Reshape", [value, shapeConstant(graph, parts.shape)]);
  if (parts.transpose) value = op("Transpose", [value], { perm: [1, 0] });
  if (parts.dtype !== "float32") value = cast(value, parts.dtype);
  value.dtype = parts.dtype;
  value.shape = parts.transpose ? parts.shape.toReversed() : parts.shape;
  return value;
}

/** Where the nodes that unpack go. Their names are short: each stands three times in the file. */
interface Site {
  readonly graph: Graph;
  op(
    opType: string,
    inputs: readonly Value[],
    attributes?: Readonly<Record<string, number | readonly number[]>>,
  ): Value;
  cast(value: Value, to: DType): Value;
}

function siteOf(graph: Graph, before: Node | undefined): Site {
  const b = new Builder(graph, { before });
  const op: Site["op"] = (opType, inputs, attributes = {}) => b.op(opType, inputs, { attributes, name: "pare.w" });
  return { graph, op, cast: (value, to) => op("Cast", [value], { to: dtypeCode(to) }) };
}

/** Codes minus `middle` in `grouped` shape, out of the bytes of their planes. */
function planes(
  site: Site,
  bytes: Value,
  parts: {
    readonly bits: CodeBits;
    readonly grouped: readonly number[];
    readonly number: DType;
    readonly middle: number;
  },
  opset: number,
): Value {
  const { graph, op, cast } = site;
  const elements = elementCount(parts.grouped);
  const widths = planesOf(parts.bits) as readonly (1 | 2 | 4)[];
  const grouped = shapeConstant(graph, parts.grouped);
  let sum: Value | undefined;
  let [at, shift] = [0, 0];
  for (const width of widths) {
    const end = at + Math.ceil((elements * width) / 8);
    const own = widths.length > 1 ? range(site, bytes, [at, end], opset) : bytes;
    const table = cast(codeTable(graph, width, 2 ** shift, shift === 0 ? parts.middle : 0), parts.number);
    const fields = op("Gather", [table, cast(own, "int32")]); // (bytes, 8/width)
    const plane = op("Reshape", [trimmed(site, fields, elements, (elements * width) % 8 === 0, opset), grouped]);
    sum = sum ? op("Add", [sum, plane]) : plane;
    at = end;
    shift += width;
  }
  return sum as Value;
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
  const site = siteOf(graph, before);
  const { op, cast } = site;
  const elements = elementCount(shape);
  const type: DType = hasPackedType(4, opset) ? "int4" : "uint8";
  const codes = graph.addInitializer(
    `${name}.packed`,
    Tensor.of(type, type === "int4" ? shape : [packed.length], packed),
  );
  let value: Value;
  if (type === "int4") value = cast(codes, "int8");
  else {
    const pairs = op("Gather", [codeTable(graph, 4, 1, 0, true), cast(codes, "int32")]);
    value = op("Reshape", [trimmed(site, pairs, elements, elements % 2 === 0, opset), shapeConstant(graph, shape)]);
  }
  [value.dtype, value.shape] = ["int8", shape];
  return value;
}

/** Without what fills up the last byte, flat then. */
function trimmed(site: Site, fields: Value, elements: number, whole: boolean, opset: number): Value {
  if (whole) return fields;
  const flat = site.op("Reshape", [fields, shapeConstant(site.graph, [-1])]);
  return range(site, flat, [0, elements], opset);
}

/** Elements [start, end) of a flat array. */
function range({ graph, op }: Site, flat: Value, [start, end]: readonly [number, number], opset: number): Value {
  if (opset < 10) return op("Slice", [flat], { axes: [0], starts: [start], ends: [end] });
  const ends = sharedConstant(graph, `ends_${end}`, Tensor.int64([end]));
  const starts = sharedConstant(graph, `starts_${start}`, Tensor.int64([start]));
  return op("Slice", [flat, starts, ends]);
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
