/** A tensor that is mostly one value (the fill), stored as what is not: an index, the values, and the operators that put them together when an engine loads the file. */
import { type DType, bytesOf, dtypeBits, viewAs } from "../../base/dtype.ts";
import { PareError } from "../../base/error.ts";
import { encodeFloat16 } from "../../base/half.ts";
import { unpackUnsigned } from "../../base/packed.ts";
import { elementCount, stridesOf } from "../../base/shape.ts";
import { toFloat32 } from "../../base/to-float32.ts";
import { MAX_DECODED_BYTES, MAX_FREE_DENSE_BYTES, MAX_SPARSE_RATIO } from "../../onnx/limits.ts";
import { Tensor } from "../tensor.ts";
import { type SparseIndex, decodeIndex } from "./sparse-index.ts";

/** Values as signed codes of 4 or 8 bits, a scale for every `block` of them: v = code·s. */
export interface CodedValues {
  readonly bits: 4 | 8;
  /** int8 (rows, block), or uint8 (⌈rows·block/2⌉), the first code in the low bits. */
  readonly codes: Tensor;
  /** float32 or float16 (rows, 1). */
  readonly scales: Tensor;
}

export interface SparseForm {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly index: SparseIndex;
  /** Codes of the index: uint8, or uint16 of 16-bit gaps. */
  readonly codes: Tensor;
  /** Number of codes. */
  readonly entries: number;
  /** Neighbouring elements that are stored or not together; 1 but for a mask. */
  readonly unit: number;
  /**
   * Values of the stored units in order, `unit` elements each. A mask and nibbles have the fill itself in front; a pattern has
   * a row for each byte of its codes.
   */
  readonly values: Tensor | CodedValues;
  /** The fill's bytes; a mask has them in its values alone. */
  readonly fill: Uint8Array;
  /** Elements stand in the order of transpose(reshape(w, split), perm); default: their own. */
  readonly order?: { readonly split: readonly number[]; readonly perm: readonly number[] } | undefined;
}

/** Elements of the values' tensor. */
export function valueShape(form: Pick<SparseForm, "index" | "unit">, stored: number, codes: number): number[] {
  const { index, unit } = form;
  if (index.kind === "gaps") return [stored];
  if (index.kind === "pattern") return [codes, stored / codes];
  return unit === 1 ? [stored + 1] : [stored + 1, unit];
}

/** The dense tensor, put together when it is read. */
export function denseOf(form: SparseForm, where: string): Tensor {
  return Tensor.lazy(form.dtype, form.shape, () => decodeForm(form, where));
}

/** Elements of the form, as an engine computes them. */
export async function decodeForm(form: SparseForm, where: string): Promise<Uint8Array> {
  const { dtype, shape, unit, index, fill, order } = form;
  const width = dtypeBits(dtype) / 8;
  const elements = elementCount(shape);
  const byteLength = elements * width;
  const codes = viewAs(form.codes.dtype, await form.codes.bytes()) as Uint8Array;
  const values = form.values instanceof Tensor ? await form.values.bytes() : await codedBytes(form.values, dtype);
  const limit = Math.min(
    MAX_DECODED_BYTES,
    Math.max(MAX_FREE_DENSE_BYTES, (codes.byteLength + values.byteLength) * MAX_SPARSE_RATIO),
  );
  if (byteLength > limit) throw damaged(where, `${byteLength} bytes from ${codes.byteLength + values.byteLength}`);
  const stored = storedUnits(form, codes, elements / unit, where);
  const step = unit * width;
  const lead = index.kind === "mask" || index.kind === "nibbles" ? 1 : 0;
  if ((stored.length + lead) * step > values.byteLength)
    throw damaged(where, `${values.byteLength / step - lead} values for ${stored.length} positions`);
  const dense = new Uint8Array(byteLength);
  const background = index.kind === "mask" ? values.subarray(0, step) : fill;
  if (background.some((byte) => byte !== 0))
    for (let at = 0; at < byteLength; at += background.length) dense.set(background, at);
  scatter(dense, values.subarray(lead * step), stored, step);
  return order ? reordered(dense, order, width, "back") : dense;
}

function storedUnits(form: SparseForm, codes: Uint8Array, units: number, where: string): Uint32Array {
  try {
    return decodeIndex(form.index, codes, form.entries, units);
  } catch (error) {
    if (error instanceof RangeError) throw damaged(where, error.message);
    throw error;
  }
}

function damaged(where: string, found: string): PareError {
  return new PareError("bad-model", "A sparse weight whose index does not fit its values", { where, found });
}

function scatter(dense: Uint8Array, values: Uint8Array, stored: Uint32Array, step: number): void {
  if (step === 4 && values.byteOffset % 4 === 0) {
    const [to, from] = [viewAs("uint32", dense) as Uint32Array, viewAs("uint32", values) as Uint32Array];
    for (let i = 0; i < stored.length; i++) to[stored[i] as number] = from[i] as number;
  } else
    for (let i = 0; i < stored.length; i++)
      dense.set(values.subarray(i * step, (i + 1) * step), (stored[i] as number) * step);
}

/** Numbers that coded values hold, padding included. */
export function codedCount({ bits, codes }: CodedValues): number {
  return (codes.byteLength * 8) / bits;
}

async function codedBytes({ bits, codes, scales }: CodedValues, dtype: DType): Promise<Uint8Array> {
  const s = toFloat32(scales.dtype, await scales.bytes());
  const bytes = await codes.bytes();
  const count = codedCount({ bits, codes, scales });
  const numbers =
    bits === 8
      ? (viewAs("int8", bytes) as Int8Array)
      : Int8Array.from(unpackUnsigned(bytes, 4, count), (code) => (code << 28) >> 28);
  const block = Math.floor(count / Math.max(1, s.length));
  const floats = new Float32Array(block * s.length);
  for (let i = 0; i < floats.length; i++) floats[i] = (numbers[i] as number) * (s[Math.floor(i / block)] as number);
  return bytesOf(dtype === "float32" ? floats : Uint16Array.from(floats, (x) => encodeFloat16(x)));
}

/** Moves elements into the order of the form ("there") or from it ("back"). */
export function reordered(
  bytes: Uint8Array,
  { split, perm }: { readonly split: readonly number[]; readonly perm: readonly number[] },
  width: number,
  direction: "there" | "back",
): Uint8Array {
  const strides = stridesOf(split);
  const shape = perm.map((axis) => split[axis] as number);
  const steps = perm.map((axis) => strides[axis] as number);
  const result = new Uint8Array(bytes.length);
  const Word = width === 4 ? Uint32Array : width === 2 ? Uint16Array : width === 8 ? BigUint64Array : Uint8Array;
  const source = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const from = new Word(source.buffer as ArrayBuffer, source.byteOffset, bytes.length / width) as Uint32Array;
  const to = new Word(result.buffer) as Uint32Array;
  const position = shape.map(() => 0);
  const last = shape.length - 1;
  const [run, stride] = [shape[last] ?? 1, steps[last] ?? 1];
  for (let at = 0, outer = 0; at < to.length; ) {
    for (let i = 0, there = outer; i < run; i++, at++, there += stride)
      if (direction === "there") to[at] = from[there] as number;
      else to[there] = from[at] as number;
    for (let axis = last - 1; axis >= 0; axis--) {
      position[axis] = (position[axis] as number) + 1;
      outer += steps[axis] as number;
      if ((position[axis] as number) < (shape[axis] as number)) break;
      outer -= (steps[axis] as number) * (shape[axis] as number);
      position[axis] = 0;
    }
  }
  return result;
}
