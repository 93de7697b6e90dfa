/** What is fed to a model: a data set's batch mapped to the model's inputs, or synthetic arrays of the right kind. */
import { PareError } from "../base/error.ts";
import { elementCount, formatShape } from "../base/shape.ts";
import { convertArray, convertible, padRows, rowsOf } from "./arrays.ts";
import { shapeFits } from "./check-feeds.ts";
import type { Feeds, NdArray, Port } from "./session.ts";

/** The part of a data set's batch that is fed. */
export interface SampleBatch {
  readonly size: number;
  readonly fields: Readonly<Record<string, NdArray>>;
}

/** One run of the model: `size` samples, the rest of a fixed batch filled with copies of the last. */
export interface FeedChunk {
  readonly feeds: Feeds;
  /** Samples that count. */
  readonly size: number;
  /** Index of the first within the batch. */
  readonly start: number;
}

/** Inputs that follow from the others when the data has no field for them, by name. */
const COMPANIONS: readonly { readonly name: RegExp; readonly value: (position: number) => number }[] = [
  { name: /(^|_)attention_mask$/, value: () => 1 },
  { name: /(^|_)token_type_ids$/, value: () => 0 },
  { name: /(^|_)position_ids$/, value: (position) => position },
];

/**
 * The runs that one batch needs. Fields go to inputs of the same name; one field and one input go together whatever their
 * names, as do equally many of both, in order. A sample may differ from the input by axes of size 1 or by being flattened.
 * A model whose batch axis is a number is fed in chunks of that size, the last one padded; a model without a batch axis
 * sample by sample. Throws `shape-mismatch` naming the input and the field with both shapes.
 */
export function feedChunks(inputs: readonly Port[], batch: SampleBatch): FeedChunk[] {
  const pairs = pairUp(inputs, batch);
  const plans = pairs.map(({ port, name, array }) => planOf(port, name, array));
  const fixed = plans.map((plan) => plan.rows).filter((rows) => rows !== undefined);
  const rows = fixed[0] ?? batch.size;
  if (fixed.some((other) => other !== rows))
    throw new PareError("shape-mismatch", "The model's inputs disagree on the batch size", {
      found: inputs.map((port) => `${port.name} ${formatShape(port.shape)}`).join(", "),
    });
  const chunks: FeedChunk[] = [];
  for (let start = 0; start < batch.size; start += rows) {
    const size = Math.min(rows, batch.size - start);
    const feeds: Record<string, NdArray> = {};
    for (const [index, { port, array }] of pairs.entries()) {
      const plan = plans[index] as Plan;
      const part = padRows(rowsOf(array, start, start + size), plan.rows === undefined ? size : rows);
      feeds[port.name] = { ...convertArray(part, port.dtype), shape: plan.shapeOf(part.shape[0] ?? size) };
    }
    addCompanions(inputs, feeds);
    chunks.push({ feeds, size, start });
  }
  return chunks;
}

interface Pair {
  readonly port: Port;
  readonly name: string;
  readonly array: NdArray;
}

function pairUp(inputs: readonly Port[], batch: SampleBatch): Pair[] {
  const fields = new Map(Object.entries(batch.fields));
  const pairs: Pair[] = [];
  const open: Port[] = [];
  for (const port of inputs) {
    const array = fields.get(port.name);
    if (array) {
      pairs.push({ port, name: port.name, array });
      fields.delete(port.name);
    } else open.push(port);
  }
  const needed = open.filter((port) => !COMPANIONS.some(({ name }) => name.test(port.name)));
  const rest = [...fields];
  if (needed.length > rest.length || (needed.length > 1 && rest.length !== needed.length)) {
    const port = needed[rest.length === 0 ? 0 : needed.length - 1] as Port;
    throw new PareError("shape-mismatch", `The data has no field for input '${port.name}'`, {
      found: `fields ${describeFields(batch)}`,
      expected: inputs.map((input) => `${input.name} ${formatShape(input.shape)}`).join(", "),
      help: "Name the fields after the inputs",
    });
  }
  // With several fields left for one input, the one that fits is meant; the rest is not fed.
  if (needed.length === 1) {
    const port = needed[0] as Port;
    const fitting = rest.filter(([, array]) => fits(port, array));
    const [name, array] = (fitting[0] ?? rest[0]) as [string, NdArray];
    if (fitting.length > 1)
      throw new PareError("shape-mismatch", `Several fields fit input '${port.name}'`, {
        found: fitting.map(([field]) => field).join(", "),
        help: "Name the field after the input",
      });
    pairs.push({ port, name, array });
  } else
    for (const [index, port] of needed.entries()) {
      const [name, array] = rest[index] as [string, NdArray];
      pairs.push({ port, name, array });
    }
  return pairs;
}

interface Plan {
  /** The fixed number of samples per run; undefined when any goes. */
  readonly rows: number | undefined;
  shapeOf(rows: number): number[];
}

function planOf(port: Port, name: string, array: NdArray): Plan {
  if (!convertible(array.dtype, port.dtype)) throw mismatch(port, name, array);
  const sample = array.shape.slice(1);
  const [batchDim, ...rest] = port.shape;
  const rows = typeof batchDim === "number" ? batchDim : undefined;
  if (port.shape.length === 0) return { rows: undefined, shapeOf: (n) => [n, ...sample] };
  const inner = reshaped(rest, sample);
  if (inner) return { rows, shapeOf: (n) => [n, ...inner] };
  // No batch axis: the input is one sample.
  if (port.shape.length === sample.length && shapeFits(port.shape, sample)) return { rows: 1, shapeOf: () => sample };
  throw mismatch(port, name, array);
}

/** The sample's shape as the input wants it: as it is, without or with axes of size 1, or flattened; undefined if it cannot be. */
function reshaped(wanted: Port["shape"], sample: readonly number[]): number[] | undefined {
  if (wanted.length === sample.length && shapeFitsExactly(wanted, sample)) return [...sample];
  const count = elementCount(sample);
  if (wanted.length === 1 && (wanted[0] === count || typeof wanted[0] !== "number")) return [count];
  const dims = sample.filter((dim) => dim !== 1);
  const shape: number[] = [];
  let next = 0;
  for (const dim of wanted) {
    if (dim === 1) shape.push(1);
    else if (next < dims.length && (typeof dim !== "number" || dim === dims[next])) shape.push(dims[next++] as number);
    else if (typeof dim !== "number") shape.push(1);
    else return undefined;
  }
  return next === dims.length ? shape : undefined;
}

function shapeFitsExactly(wanted: Port["shape"], sample: readonly number[]): boolean {
  return wanted.every((dim, axis) => typeof dim !== "number" || dim === sample[axis]);
}

function fits(port: Port, array: NdArray): boolean {
  try {
    planOf(port, "", array);
    return true;
  } catch {
    return false;
  }
}

function mismatch(port: Port, name: string, array: NdArray): PareError {
  const wanted = port.shape.slice(1);
  const sample = array.shape.slice(1);
  const transposed =
    sample.length === 3 && wanted.length === 3 && wanted[0] === sample[2] && wanted[1] === sample[0]
      ? "layout=nchw"
      : sample.length === 3 && wanted.length === 3 && wanted[2] === sample[0] && wanted[0] === sample[1]
        ? "layout=nhwc"
        : undefined;
  return new PareError("shape-mismatch", `Data field '${name}' does not fit model input '${port.name}'`, {
    found: `${array.dtype} samples of shape ${formatShape(sample)}`,
    expected: `${port.dtype} ${formatShape(port.shape)}`,
    help: transposed
      ? `Add ${transposed} to the data's name`
      : "Size, crop and layout of the samples are part of the data's name",
  });
}

function addCompanions(inputs: readonly Port[], feeds: Record<string, NdArray>): void {
  for (const port of inputs) {
    if (feeds[port.name]) continue;
    const companion = COMPANIONS.find(({ name }) => name.test(port.name));
    const tokens = Object.entries(feeds).find(([name, array]) => /ids|tokens?/.test(name) && array.shape.length === 2);
    const model = tokens?.[1] ?? Object.values(feeds).find((array) => array.shape.length === 2);
    if (!companion || !model) continue;
    const width = model.shape[1] ?? 1;
    const data = Float64Array.from({ length: elementCount(model.shape) }, (_, i) => companion.value(i % width));
    feeds[port.name] = convertArray({ dtype: "float64", shape: model.shape, data }, port.dtype);
  }
}

function describeFields(batch: SampleBatch): string {
  return Object.entries(batch.fields)
    .map(([name, array]) => `${name} ${formatShape(array.shape.slice(1))}`)
    .join(", ");
}

/** The first `size` samples of a result: what padding added is dropped. Results without a batch axis stay as they are. */
export function dropPadding(array: NdArray, chunk: FeedChunk): NdArray {
  const first = Object.values(chunk.feeds)[0];
  const fed = first?.shape[0];
  return fed !== undefined && fed !== chunk.size && array.shape[0] === fed ? rowsOf(array, 0, chunk.size) : array;
}
