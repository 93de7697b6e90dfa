/** Seeded synthetic inputs for a model, when there is no data: of the right types, shapes and sensible ranges. */
import { isFloat } from "../base/dtype.ts";
import { Rng } from "../base/rng.ts";
import { type Dim, elementCount } from "../base/shape.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { convertArray, zeros } from "./arrays.ts";
import type { Feeds, NdArray, Port } from "./session.ts";

export interface SyntheticOptions {
  /** Default 1. */
  readonly seed?: number | undefined;
  /** Size of a symbolic or unknown first axis; default 1. */
  readonly batch?: number | undefined;
  /** Sizes of symbols: `{ sequence: 32 }`. Sums such as "past + sequence" follow from their parts. */
  readonly dims?: Readonly<Record<string, number>> | undefined;
  /** Integers of an input lie in [0, n); see {@link indexRanges}. Default 2. */
  readonly ranges?: Readonly<Record<string, number>> | undefined;
}

/** Size of a symbolic axis that is not named: pictures (rank 4) need room for strides, waveforms for windows, tokens little. */
const PICTURE_SIDE = 64;
const WAVEFORM_LENGTH = 1024;
const SEQUENCE_LENGTH = 16;

/** Arrays for every input: floats from N(0, 1), integers below their range, masks 1, positions counted up, flags random. */
export function syntheticFeeds(inputs: readonly Port[], options: SyntheticOptions = {}): Feeds {
  const rng = new Rng(options.seed ?? 1);
  const sizes = new Map(Object.entries(options.dims ?? {}));
  const feeds: Record<string, NdArray> = {};
  for (const port of inputs) {
    const shape = port.shape.map((dim, axis) => sizeOf(dim, axis, port, sizes, options.batch ?? 1));
    feeds[port.name] = synthetic(port, shape, rng.fork(port.name), options.ranges?.[port.name] ?? 2);
  }
  return feeds;
}

function sizeOf(dim: Dim, axis: number, port: Port, sizes: Map<string, number>, batch: number): number {
  if (typeof dim === "number") return dim;
  if (dim !== null) {
    const known = sizes.get(dim);
    if (known !== undefined) return known;
    const parts = dim.split("+").map((part) => part.trim());
    if (parts.length > 1)
      return parts.reduce(
        (sum, part) => sum + (/^\d+$/.test(part) ? Number(part) : sizeOf(part, axis, port, sizes, batch)),
        0,
      );
  }
  // The batch axis is the first, or of recurrent state and the like the first one that is open.
  const isBatch = axis === port.shape.findIndex((other) => typeof other !== "number") && (axis === 0 || dim === null);
  const size = isBatch || /batch/i.test(dim ?? "") ? batch : defaultSize(dim, axis, port);
  if (dim !== null) sizes.set(dim, size);
  return size;
}

function defaultSize(dim: Dim, axis: number, port: Port): number {
  if (String(dim).startsWith("past") || port.name.startsWith("past")) return 0;
  if (port.shape.length === 4 && axis >= 2) return PICTURE_SIDE;
  return port.shape.length === 2 && isFloat(port.dtype) ? WAVEFORM_LENGTH : SEQUENCE_LENGTH;
}

function synthetic(port: Port, shape: readonly number[], rng: Rng, range: number): NdArray {
  const { name, dtype } = port;
  if (dtype === "string") return zeros(dtype, shape);
  const count = elementCount(shape);
  const values = new Float64Array(count);
  const width = shape.at(-1) ?? 1;
  if (isFloat(dtype)) for (let i = 0; i < count; i++) values[i] = rng.normal();
  else if (/mask/.test(name)) values.fill(1);
  else if (/position/.test(name)) for (let i = 0; i < count; i++) values[i] = i % width;
  else if (dtype === "bool") for (let i = 0; i < count; i++) values[i] = rng.below(2);
  else {
    const narrow = /^u?int[248]$/.test(dtype) ? 2 ** (Number(dtype.replace(/\D/g, "")) - 1) : Number.MAX_SAFE_INTEGER;
    for (let i = 0; i < count; i++) values[i] = rng.below(Math.min(range, narrow));
  }
  return convertArray({ dtype: "float64", shape, data: values }, dtype);
}

/** Operators that pass indices on unchanged on their way from an input to a table. */
const PASSING: ReadonlySet<string> = new Set([
  "Cast",
  "Identity",
  "Reshape",
  "Flatten",
  "Squeeze",
  "Unsqueeze",
  "Transpose",
  "Slice",
  "Expand",
  "Gather",
]);

/** For each integer input that ends as an index into a table: the number of rows of the smallest such table. */
export function indexRanges(model: Model): Record<string, number> {
  const ranges: Record<string, number> = {};
  for (const input of model.graph.inputs) {
    if (input.tensor) continue;
    let rows = Number.POSITIVE_INFINITY;
    for (const use of indexUses(input)) rows = Math.min(rows, tableRows(use));
    if (Number.isFinite(rows) && rows > 0) ranges[input.name] = rows;
  }
  return ranges;
}

function* indexUses(input: Value): Generator<Node> {
  const open = [input];
  const seen = new Set(open);
  for (let value = open.pop(); value; value = open.pop())
    for (const { node, index } of value.uses) {
      if ((node.opType === "Gather" || node.opType === "GatherBlockQuantized") && index === 1) yield node;
      else if (index === 0 && PASSING.has(node.opType))
        for (const output of node.outputs)
          if (!seen.has(output)) {
            seen.add(output);
            open.push(output);
          }
    }
}

function tableRows(gather: Node): number {
  const shape = gather.inputs[0]?.shape;
  const axis = gather.int("axis", gather.int("gather_axis", 0));
  const rows = shape?.[axis < 0 ? axis + shape.length : axis];
  return typeof rows === "number" ? rows : Number.POSITIVE_INFINITY;
}
