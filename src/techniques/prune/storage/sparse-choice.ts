/** The forms in which one tensor can be stored, each with the bytes that it takes, and the choice among them. */
import { bytesOf, dtypeBits } from "../../../base/dtype.ts";
import { Value } from "../../../ir/graph.ts";
import { expansionOf, tableBytes } from "../../../ir/sparse/expansion.ts";
import { type IndexSurvey, marksOf, surveyMarks } from "../../../ir/sparse/sparse-index.ts";
import { setCoordinates, setSparseForm, storedBytes } from "../../../ir/sparse/sparse-storage.ts";
import type { Tensor } from "../../../ir/tensor.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { SharedParts } from "../../../transform/shared-source.ts";
import { type Candidate, candidatesOf } from "./sparse-candidates.ts";
import { type ValueOptions, encodeForm } from "./sparse-encode.ts";

/** Names of the forms, as users say them. */
export const FORMS = ["mask", "gaps", "nibbles", "pattern", "blocks", "coordinates"] as const;
export type FormName = (typeof FORMS)[number];

/** One way to store the tensor. */
export interface FormOption {
  readonly name: FormName;
  /** What a reader of the journal should know. */
  readonly text: string;
  /** In the file: names and operators counted, tables that weights share left out. */
  readonly bytes: number;
  /** Those tables, and their bytes. */
  readonly tables: ReadonlyMap<string, number>;
  readonly parts: SharedParts;
  /** True where every bit of the tensor is kept. */
  readonly isExact: boolean;
  /** ‖ŵ − w‖/‖w‖, once it was computed. */
  readonly error: { readonly value: number | undefined };
  /** Stores an initializer that holds the tensor so. */
  apply(value: Value): void;
}

export interface Examined {
  readonly value: Value;
  readonly tensor: Tensor;
  /** Bytes of the tensor in the file, stored element by element. */
  readonly bytes: number;
  /** Elements that are not the fill. */
  readonly stored: number;
  /** "0", or the code that most elements have. */
  readonly fill: string;
  /** Fewest bytes first. */
  readonly options: readonly FormOption[];
}

/** Reads a tensor and lists the forms it can be stored in. */
export async function examine(kernels: Kernels, value: Value, values: ValueOptions): Promise<Examined> {
  const tensor = value.tensor as Tensor;
  const width = dtypeBits(tensor.dtype) / 8;
  const bytes = await tensor.bytes();
  const fill = fillOf(tensor, bytes);
  const marks = marksOf(bytes, width, fill);
  const survey = surveyMarks(marks);
  const isCoded = values.bits !== undefined && ["float32", "float16"].includes(tensor.dtype);
  const how: ValueOptions = { bits: isCoded ? values.bits : undefined, block: values.block };
  const options = candidatesOf(marks, tensor.shape).map((candidate) =>
    formOption(kernels, value.name, tensor, fill, candidate, how),
  );
  if (!isCoded && fill.every((byte) => byte === 0)) options.push(coordinates(value.name, tensor, survey));
  options.sort((a, b) => a.bytes - b.bytes);
  const dense = storedBytes(new Value(value.name, tensor.dtype, tensor.shape, tensor));
  return { value, tensor, bytes: dense, stored: survey.stored, fill: width === 1 ? String(fill[0]) : "0", options };
}

/** Floats: +0. Bytes: the most frequent one, which is the zero point of codes. */
function fillOf(tensor: Tensor, bytes: Uint8Array): Uint8Array {
  const width = dtypeBits(tensor.dtype) / 8;
  if (width > 1) return new Uint8Array(width);
  const counts = new Uint32Array(256);
  for (const byte of bytes) counts[byte] = (counts[byte] as number) + 1;
  return Uint8Array.of(counts.indexOf(Math.max(...counts)));
}

function formOption(
  kernels: Kernels,
  name: string,
  tensor: Tensor,
  fill: Uint8Array,
  candidate: Candidate,
  values: ValueOptions,
): FormOption {
  const { form, parts, error } = encodeForm(kernels, tensor, fill, candidate, values);
  const scratch = new Value(name, tensor.dtype, tensor.shape, tensor);
  setSparseForm(scratch, form);
  return {
    name: candidate.unit > 1 ? "blocks" : candidate.index.kind,
    text: textOf(candidate, values),
    bytes: storedBytes(scratch),
    tables: tableBytes(expansionOf(form)),
    parts,
    isExact: values.bits === undefined,
    error,
    apply: (value) => setSparseForm(value, form),
  };
}

function textOf({ index, unit, order }: Candidate, { bits }: ValueOptions): string {
  const values = bits ? `int${bits} values` : "values";
  if (unit > 1) {
    const [, rows = 1, , cols = 1] = order?.split ?? [];
    const block = order === undefined ? `runs of ${unit}` : `blocks of ${rows}x${order.split.length === 4 ? cols : 1}`;
    return `a bit for each of the ${block}, and ${values}`;
  }
  switch (index.kind) {
    case "mask":
      return `bit mask and ${values}`;
    case "gaps":
      return `distances of ${index.bits} bits and ${values}`;
    case "nibbles":
      return `distances of 4 bits and ${values}`;
    default:
      return `${index.keep}:${index.of} patterns and ${values}`;
  }
}

/** Linear positions in 64 bits: no operators, so small tensors may be best off with it. */
function coordinates(name: string, tensor: Tensor, { stored }: IndexSurvey): FormOption {
  const width = dtypeBits(tensor.dtype) / 8;
  const parts = new SharedParts(
    [
      { dtype: "int64", shape: [stored] },
      { dtype: tensor.dtype, shape: [stored] },
    ],
    async () => {
      const bytes = await tensor.bytes();
      const marks = marksOf(bytes, width, new Uint8Array(width));
      const positions = new BigInt64Array(stored);
      const values = new Uint8Array(stored * width);
      for (let i = 0, to = 0; i < marks.length; i++) {
        if (marks[i] === 0) continue;
        positions[to] = BigInt(i);
        values.set(bytes.subarray(i * width, (i + 1) * width), to++ * width);
      }
      return [bytesOf(positions), values];
    },
  );
  const [positions, values] = parts.tensors as [Tensor, Tensor];
  const apply = (value: Value): void => setCoordinates(value, positions, values);
  const scratch = new Value(name, tensor.dtype, tensor.shape, tensor);
  apply(scratch);
  return {
    name: "coordinates",
    text: "coordinates (sparse_initializer)",
    bytes: storedBytes(scratch),
    tables: new Map(),
    parts,
    isExact: true,
    error: { value: 0 },
    apply,
  };
}

/** The form of each tensor with the fewest bytes; tables are used where all the tensors that use them win more than they take. */
export function choose(
  all: readonly Examined[],
  isAllowed: (option: FormOption) => boolean,
  gain: number,
): Map<Examined, FormOption> {
  const dear = new Set<string>();
  for (;;) {
    const chosen = new Map<Examined, FormOption>();
    const won = new Map<string, { saved: number; bytes: number }>();
    for (const examined of all) {
      const limit = (1 - gain) * examined.bytes;
      const usable = examined.options.filter(
        (option) =>
          option.bytes <= limit && isAllowed(option) && [...option.tables.keys()].every((name) => !dear.has(name)),
      );
      const best = usable[0];
      if (!best) continue;
      chosen.set(examined, best);
      for (const [name, bytes] of best.tables) {
        const without = usable.find(({ tables }) => !tables.has(name))?.bytes ?? examined.bytes;
        const known = won.get(name) ?? { saved: 0, bytes };
        won.set(name, { saved: known.saved + without - best.bytes, bytes });
      }
    }
    const worst = [...won].filter(([, { saved, bytes }]) => saved <= bytes).sort((a, b) => a[1].saved - b[1].saved)[0];
    if (!worst) return chosen;
    dear.add(worst[0]);
  }
}
