/** A source over arrays in memory with samples along axis 0: what npz:, audio: and library callers have. */
import type { TypedData } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { elementCount, formatShape } from "../base/shape.ts";
import type { NdArray } from "../run/session.ts";
import { numberedClasses } from "./classes.ts";
import type { Buffers, Dataset, Source } from "./dataset.ts";
import { indexedDataset } from "./indexed.ts";
import { NameOptions } from "./options.ts";

export interface ArraySet {
  /** One array per field, samples along axis 0. */
  readonly fields: Readonly<Record<string, NdArray>>;
  /** Integers for classes and tokens, anything else for values. */
  readonly labels?: NdArray | undefined;
  /** Kind of labels; default: integers are classes, floats are values. */
  readonly kind?: Dataset["labels"];
  readonly classes?: readonly string[] | undefined;
}

/** A data set over arrays in memory. Throws `bad-data` when their lengths differ or a label is out of range. */
export function datasetOf(arrays: ArraySet, name = "memory:"): Dataset {
  return indexedDataset(
    arraySource(arrays, name),
    { scheme: "memory", path: "", options: {} },
    new NameOptions(name, {}),
  );
}

export function arraySource(arrays: ArraySet, where: string): Source {
  const entries = Object.entries(arrays.fields);
  const size = entries[0]?.[1].shape[0] ?? 0;
  for (const [name, array] of [...entries, ...(arrays.labels ? [["labels", arrays.labels] as const] : [])]) {
    if (array.shape[0] !== size)
      throw new PareError("bad-data", `Array '${name}' has another number of samples`, {
        where,
        found: `${formatShape(array.shape)}`,
        expected: `${size} along axis 0, as in '${entries[0]?.[0]}'`,
      });
    if (array.dtype === "string")
      throw new PareError("bad-data", `Array '${name}' holds strings`, { where, expected: "numbers" });
  }
  const kind = arrays.labels && (arrays.kind ?? (arrays.labels.dtype.startsWith("float") ? "values" : "classes"));
  const labels = arrays.labels && kind && numericLabels(arrays.labels.data as TypedData, kind, arrays.classes, where);
  const fields = entries.map(([name, array]) => ({ name, dtype: array.dtype, shape: array.shape.slice(1) }));
  const labelShape = squeezed(arrays.labels?.shape ?? []);
  const labelStride = elementCount(labelShape);
  return {
    size,
    fields,
    labels: kind,
    labelShape,
    classes: kind === "classes" ? (arrays.classes ?? numbered(labels as Int32Array, where)) : undefined,
    fill(indices: ArrayLike<number>, into: Buffers) {
      for (const field of fields)
        copyRows(
          arrays.fields[field.name]?.data as TypedData,
          into.fields[field.name] as TypedData,
          elementCount(field.shape),
          indices,
        );
      if (labels && into.labels) copyRows(labels, into.labels, labelStride, indices);
    },
  };
}

/** Shape of one label: (n) and (n, 1) are one number per sample. */
function squeezed(shape: readonly number[]): readonly number[] {
  return shape.length === 2 && shape[1] === 1 ? [] : shape.slice(1);
}

function copyRows(from: TypedData, to: TypedData, stride: number, indices: ArrayLike<number>): void {
  for (let k = 0; k < indices.length; k++) {
    const start = (indices[k] as number) * stride;
    to.set(from.subarray(start, start + stride) as never, k * stride);
  }
}

function numericLabels(
  data: TypedData,
  kind: NonNullable<Dataset["labels"]>,
  classes: readonly string[] | undefined,
  where: string,
): Int32Array | Float32Array {
  if (kind === "values") return Float32Array.from(data as ArrayLike<number | bigint>, Number);
  const most = kind === "classes" && classes ? classes.length - 1 : 2 ** 31 - 1;
  return Int32Array.from(data as ArrayLike<number | bigint>, (each, i) => {
    const label = Number(each);
    if (Number.isInteger(label) && (kind === "tokens" ? label >= -100 : label >= 0) && label <= most) return label;
    throw new PareError("bad-data", `Label of sample ${i} is out of range`, {
      where,
      found: String(label),
      expected: classes ? `0 to ${most}` : "an integer of 0 or more",
    });
  });
}

function numbered(labels: Int32Array, where: string): string[] {
  return numberedClasses(labels.reduce((best, label) => Math.max(best, label), 0) + 1, where);
}

/** y = (x − zero) · scale as float32. */
export function dequantized(data: TypedData, scale: number, zero: number): Float32Array {
  return Float32Array.from(data as ArrayLike<number | bigint>, (x) => (Number(x) - zero) * scale);
}
