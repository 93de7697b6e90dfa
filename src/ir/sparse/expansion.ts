/** The operators that make a sparse form dense. All of them work on constants whose shapes are known, so that an engine computes them once, at load. */
import { dtypeCode } from "../../base/dtype.ts";
import { elementCount } from "../../base/shape.ts";
import type { AttributeInput } from "../attribute.ts";
import { Tensor } from "../tensor.ts";
import { type CodedValues, type SparseForm, codedCount } from "./sparse-form.ts";
import { groupsPerByte, patternsOf } from "./sparse-index.ts";

/** Opset from which all of these operators exist in the form that is written. */
export const EXPANSION_OPSET = 11;

/** One operator. Inputs name tensors of the expansion, shared ones (which begin with "@") or outputs of earlier steps. */
export interface ExpansionStep {
  readonly opType: string;
  readonly inputs: readonly string[];
  readonly output: string;
  readonly attributes: Readonly<Record<string, AttributeInput>>;
}

/** The output of the last step is the weight. */
export interface Expansion {
  readonly steps: readonly ExpansionStep[];
  /** Constants of this weight. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Constants that all weights of a graph share. */
  readonly shared: ReadonlyMap<string, Tensor>;
}

/**
 * mask: w = values[b ⊙ cumsum(b)], b the bits; values[0] is the fill.
 * gaps: scatter(fill, cumsum(gaps), values).
 * nibbles: scatter(fill, cumsum(c > 0 ? c : 15) − 1, values[f ⊙ cumsum(f)]), f = sign(c).
 * pattern: of each row of values, with the fill in front, the elements that the table names for the byte.
 */
export function expansionOf(form: SparseForm): Expansion {
  const e = new Expander();
  e.tensors.set("index", form.codes);
  const elements = elementCount(form.shape);
  let dense: string;
  switch (form.index.kind) {
    case "mask": {
      const units = elements / form.unit;
      const bits = e.table("bits", BITS, e.cast("index", "int32"));
      const all = e.range(e.op("Reshape", [bits, e.flat]), units, 8 * form.codes.elements);
      const b = e.cast(all, "int32");
      dense = e.op("Gather", [e.values(form), e.op("Mul", [b, e.sums(b)])]);
      break;
    }
    case "gaps":
      dense = e.scatter(form, e.sums(e.cast("index", "int32")), e.values(form));
      break;
    case "nibbles": {
      const pairs = e.table("nibbles", NIBBLES, e.cast("index", "int32"));
      const all = e.range(e.op("Reshape", [pairs, e.flat]), form.entries, 2 * form.codes.elements);
      const c = e.cast(all, "int32");
      const steps = e.op("Where", [e.cast(c, "bool"), c, e.share("fifteen", int32(15))]);
      const at = e.op("Sub", [e.sums(steps), e.share("one", int32(1))]);
      const f = e.op("Sign", [c]);
      dense = e.scatter(form, at, e.op("Gather", [e.values(form), e.op("Mul", [f, e.sums(f)])]));
      break;
    }
    default: {
      const { keep, of } = form.index;
      const places = e.cast(e.table(`${keep}of${of}`, patternTable(keep, of), e.cast("index", "int32")), "int32");
      const front = e.constantOfShape(form, e.vector("rows", [form.codes.elements, 1]));
      const row = e.op("Concat", [front, e.values(form)], { axis: 1 });
      const all = e.op("GatherElements", [row, places], { axis: 1 });
      const flat = e.op("Reshape", [all, e.flat]);
      dense = e.range(flat, elements, form.codes.elements * groupsPerByte(keep, of) * of);
    }
  }
  if (form.order) {
    const { split, perm } = form.order;
    const back = perm.map((_, axis) => perm.indexOf(axis));
    dense = e.op("Reshape", [
      dense,
      e.vector(
        "split",
        perm.map((axis) => split[axis] as number),
      ),
    ]);
    dense = e.op("Transpose", [dense], { perm: back });
  }
  e.op("Reshape", [dense, e.vector("shape", form.shape)]);
  return e;
}

class Expander implements Expansion {
  readonly steps: ExpansionStep[] = [];
  readonly tensors: Map<string, Tensor> = new Map();
  readonly shared: Map<string, Tensor> = new Map();

  op(opType: string, inputs: readonly string[], attributes: ExpansionStep["attributes"] = {}): string {
    const output = String(this.steps.length + 1);
    this.steps.push({ opType, inputs, output, attributes });
    return output;
  }

  share(name: string, tensor: Tensor): string {
    this.shared.set(`@${name}`, tensor);
    return `@${name}`;
  }

  /** The shape of a list. */
  get flat(): string {
    return this.share("flat", Tensor.int64([-1]));
  }

  vector(name: string, values: readonly number[]): string {
    this.tensors.set(name, Tensor.int64(values));
    return name;
  }

  cast(input: string, to: "int32" | "bool" | "float32" | SparseForm["dtype"]): string {
    return this.op("Cast", [input], { to: dtypeCode(to) });
  }

  table(name: string, tensor: Tensor, indices: string): string {
    return this.op("Gather", [this.share(name, tensor), indices]);
  }

  /** Inclusive sums along the first axis. */
  sums(input: string): string {
    return this.op("CumSum", [input, this.share("zero", Tensor.int64([0], []))]);
  }

  /** The first `count` of `there` elements. */
  range(input: string, count: number, there: number): string {
    if (count === there) return input;
    return this.op("Slice", [input, this.share("start", Tensor.int64([0])), this.vector(`end${input}`, [count])]);
  }

  constantOfShape(form: SparseForm, shape: string): string {
    return this.op("ConstantOfShape", [shape], { value: Tensor.of(form.dtype, [1], form.fill) });
  }

  scatter(form: SparseForm, at: string, values: string): string {
    const empty = this.constantOfShape(form, this.vector("size", [elementCount(form.shape)]));
    return this.op("ScatterElements", [empty, at, values]);
  }

  values(form: SparseForm): string {
    const { values, index, unit, codes } = form;
    if (values instanceof Tensor) {
      this.tensors.set("values", values);
      return "values";
    }
    const flat = this.#codedValues(values, form.dtype);
    const there = codedCount(values);
    if (index.kind === "gaps") return this.range(flat, form.entries, there);
    if (index.kind !== "pattern")
      return unit === 1 ? flat : this.op("Reshape", [flat, this.vector("units", [-1, unit])]);
    const row = groupsPerByte(index.keep, index.of) * index.keep;
    const own = this.range(flat, codes.elements * row, there);
    return this.op("Reshape", [own, this.vector("units", [-1, row])]);
  }

  #codedValues({ bits, codes, scales }: CodedValues, dtype: SparseForm["dtype"]): string {
    this.tensors.set("codes", codes);
    this.tensors.set("scales", scales);
    let numbers = "codes";
    if (bits === 4) {
      const pairs = this.table("signed4", SIGNED_NIBBLES, this.cast("codes", "int32"));
      numbers = this.op("Reshape", [pairs, this.vector("blocks", [scales.elements, -1])]);
    }
    const s = scales.dtype === "float32" ? "scales" : this.cast("scales", "float32");
    let values = this.op("Mul", [this.cast(numbers, "float32"), s]);
    if (dtype !== "float32") values = this.cast(values, dtype);
    return this.op("Reshape", [values, this.flat]);
  }
}

function int32(value: number): Tensor {
  return Tensor.of("int32", [], Int32Array.of(value));
}

/** (256, 8/bits) int8: the fields of each byte, low bits first. */
function fieldTable(bits: 1 | 4, signed = false): Tensor {
  const perByte = 8 / bits;
  const table = new Int8Array(256 * perByte);
  for (let byte = 0; byte < 256; byte++)
    for (let i = 0; i < perByte; i++) {
      const field = (byte >> (bits * i)) & (2 ** bits - 1);
      table[byte * perByte + i] = signed ? (field << (32 - bits)) >> (32 - bits) : field;
    }
  return Tensor.of("int8", [256, perByte], table);
}

const BITS = fieldTable(1);
const NIBBLES = fieldTable(4);
const SIGNED_NIBBLES = fieldTable(4, true);

/** (patterns^groups, groups·of) int8: for each element of the groups of a byte its place in the row of values, 1-based; 0: the fill. */
function patternTable(keep: number, of: number): Tensor {
  const patterns = patternsOf(keep, of);
  const perByte = groupsPerByte(keep, of);
  const rows = patterns.length ** perByte;
  const table = new Int8Array(rows * perByte * of);
  for (let row = 0; row < rows; row++)
    for (let group = 0, rest = row; group < perByte; group++, rest = Math.floor(rest / patterns.length))
      for (const [place, position] of (patterns[rest % patterns.length] as number[]).entries())
        table[(row * perByte + group) * of + position] = 1 + group * keep + place;
  return Tensor.of("int8", [rows, perByte * of], table);
}

/** Bytes of the constants that an index needs once in a file; those of a few elements are not counted. */
export function tableBytes({ shared }: Expansion): Map<string, number> {
  return new Map(
    [...shared].filter(([, { elements }]) => elements > 8).map(([name, { byteLength }]) => [name, byteLength]),
  );
}
