/** Fits a data set to a model: which field feeds which input, checked before anything runs. */
import { type DType, type TypedData } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { float32ToFloat16 } from "../base/half.ts";
import { type Dim, elementCount, formatShape } from "../base/shape.ts";
import type { Feeds, NdArray, Port } from "../run/session.ts";
import type { Batch, Dataset, Field } from "./dataset.ts";

export interface Binding {
  /** Field that feeds each model input. */
  readonly fieldOf: Readonly<Record<string, string>>;
  /** Samples per batch that the model insists on; undefined when its batch is free. */
  readonly fixedBatch: number | undefined;
  /** The batch as the model's inputs. */
  feeds(batch: Batch): Feeds;
}

export interface BindOptions {
  /** Inputs that the data does not feed: given as they are, or all zeros (states of recurrent networks). */
  readonly constants?: Readonly<Record<string, NdArray | "zeros">>;
}

/**
 * Matches fields to inputs by name; one input and one field left over are matched to each other. Floats convert to half and
 * integers to the width that the model wants; anything else that does not fit is `shape-mismatch`, naming model and data.
 */
export function bindInputs(
  dataset: Pick<Dataset, "name" | "fields">,
  inputs: readonly Port[],
  options: BindOptions = {},
): Binding {
  const constants = options.constants ?? {};
  const fed = inputs.filter((input) => constants[input.name] === undefined);
  const pairs = new Map<Port, Field>();
  for (const input of fed) {
    const field = dataset.fields.find((each) => each.name === input.name);
    if (field) pairs.set(input, field);
  }
  const inputsLeft = fed.filter((input) => !pairs.has(input));
  const fieldsLeft = dataset.fields.filter((field) => ![...pairs.values()].includes(field));
  const [input, field] = [inputsLeft[0], fieldsLeft[0]];
  if (input && field && inputsLeft.length === 1 && fieldsLeft.length === 1) pairs.set(input, field);
  else if (inputsLeft.length > 0)
    throw new PareError("shape-mismatch", "The data set does not feed every input of the model", {
      where: dataset.name,
      found: `fields ${dataset.fields.map(describeField).join(", ")}`,
      expected: `inputs ${inputs.map((each) => `${each.name} ${each.dtype} ${formatShape(each.shape)}`).join(", ")}`,
      help: "Name the fields like the inputs, in a .yaml file with inputs: {model input: field}",
    });
  for (const [port, each] of pairs) checkFit(dataset.name, port, each);
  const batches = [...pairs.keys()].map((port) => port.shape[0]).filter((dim) => typeof dim === "number");

  return {
    fieldOf: Object.fromEntries([...pairs].map(([port, each]) => [port.name, each.name])),
    fixedBatch: batches[0],
    feeds(batch) {
      const feeds: Record<string, NdArray> = {};
      for (const [port, each] of pairs) feeds[port.name] = convert(batch.fields[each.name] as NdArray, port.dtype);
      for (const port of inputs) {
        const constant = constants[port.name];
        if (constant === "zeros") feeds[port.name] = zeros(port, batch.size);
        else if (constant) feeds[port.name] = constant;
      }
      return feeds;
    },
  };
}

function describeField(field: Field): string {
  return `${field.name} ${field.dtype} ${formatShape(["n", ...field.shape])}`;
}

function checkFit(name: string, port: Port, field: Field): void {
  const wanted: readonly Dim[] = port.shape.slice(1);
  const fits =
    port.shape.length === 0
      ? true
      : wanted.length === field.shape.length &&
        wanted.every((dim, axis) => typeof dim !== "number" || dim < 0 || dim === field.shape[axis]);
  if (!fits)
    throw new PareError("shape-mismatch", `Samples do not fit the model's input '${port.name}'`, {
      where: name,
      found: `'${field.name}' of shape ${formatShape(["n", ...field.shape])}`,
      expected: formatShape(port.shape),
      help: "Change the data name: size=, crop=, pad=, layout=nchw|nhwc|flat, shape= or length=, as its reader offers",
    });
  if (port.dtype === field.dtype || kindOf(port.dtype) === kindOf(field.dtype)) return;
  throw new PareError("shape-mismatch", `Samples have another element type than the model's input '${port.name}'`, {
    where: name,
    found: `'${field.name}' of ${field.dtype}`,
    expected: port.dtype,
    help: "Readers with dtype= can give integers; insert a Cast in the model otherwise",
  });
}

/** Element types that convert into each other: float16, float32 and float64; the plain integers. */
function kindOf(dtype: DType): string {
  if (/^float(16|32|64)$/.test(dtype)) return "float";
  return /^u?int(8|16|32|64)$/.test(dtype) ? "integer" : dtype;
}

const ARRAYS = {
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
} as const;

/** The array in another element type of the same kind; the same array when the type already fits. */
export function convert(array: NdArray, dtype: DType): NdArray {
  if (array.dtype === dtype) return array;
  const data = array.data as TypedData;
  if (dtype === "float16" && data instanceof Float32Array) return { ...array, dtype, data: float32ToFloat16(data) };
  if (dtype === "int64" || dtype === "uint64") {
    const Type = dtype === "int64" ? BigInt64Array : BigUint64Array;
    return { ...array, dtype, data: Type.from(data as ArrayLike<number>, BigInt) };
  }
  const Type = dtype === "float32" ? Float32Array : dtype in ARRAYS ? ARRAYS[dtype as keyof typeof ARRAYS] : undefined;
  if (!Type || array.dtype === "float16")
    throw new PareError("unsupported", `Values of ${array.dtype} do not convert to ${dtype}`);
  return { ...array, dtype, data: Type.from(data as ArrayLike<number | bigint>, Number) };
}

function zeros(port: Port, batch: number): NdArray {
  const shape = port.shape.map((dim) => (typeof dim === "number" ? dim : batch));
  const empty: NdArray = { dtype: "float32", shape, data: new Float32Array(elementCount(shape)) };
  return convert(empty, port.dtype);
}
