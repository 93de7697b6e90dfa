/** Encodes a tensor in a sparse form: parts are computed together when they are read, values as they are or in few bits. */
import { bytesOf, dtypeBits } from "../../../base/dtype.ts";
import { packBits } from "../../../base/packed.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import { Tensor } from "../../../ir/tensor.ts";
import { type SparseForm, reordered, valueShape } from "../../../ir/sparse/sparse-form.ts";
import { encodeIndex, marksOf, unitMarks } from "../../../ir/sparse/sparse-index.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { type PartType, SharedParts } from "../../../transform/shared-source.ts";
import type { Candidate } from "./sparse-candidates.ts";

/** How values are stored: bit by bit, or as symmetric codes with a half-precision scale for each block of neighbours. */
export interface ValueOptions {
  readonly bits: 4 | 8 | undefined;
  readonly block: number;
}

export interface EncodedForm {
  readonly form: SparseForm;
  readonly parts: SharedParts;
  /** ‖ŵ − w‖/‖w‖, once it was computed; 0 where values are exact. */
  readonly error: { value: number | undefined };
}

/** The form of the tensor; nothing is computed yet. */
export function encodeForm(
  kernels: Kernels,
  tensor: Tensor,
  fill: Uint8Array,
  candidate: Candidate,
  { bits, block }: ValueOptions,
): EncodedForm {
  const { index, unit, order, entries, codes, stored } = candidate;
  const { dtype, shape } = tensor;
  const width = dtypeBits(dtype) / 8;
  const shaped = valueShape(candidate, stored, codes);
  const count = shaped.reduce((product, size) => product * size, 1);
  // Whole blocks, and of a mask on blocks of elements whole units
  const rows = Math.ceil(count / block / unit) * unit;
  const error: { value: number | undefined } = { value: bits ? undefined : 0 };
  const valueParts: PartType[] = bits
    ? [
        bits === 8
          ? { dtype: "int8", shape: [rows, block] }
          : { dtype: "uint8", shape: [Math.ceil((rows * block) / 2)] },
        { dtype: "float16", shape: [rows, 1] },
      ]
    : [{ dtype, shape: shaped }];
  const parts = new SharedParts(
    [{ dtype: index.kind === "gaps" && index.bits === 16 ? "uint16" : "uint8", shape: [codes] }, ...valueParts],
    async () => {
      const own = await tensor.bytes();
      const bytes = order ? reordered(own, order, width, "there") : own;
      const encoded = encodeIndex(index, unitMarks(marksOf(bytes, width, fill), unit));
      const lead = index.kind === "mask" || index.kind === "nibbles" ? 1 : 0;
      const values = gathered(bytes, encoded.stored, unit * width, lead, fill);
      if (!bits) return [bytesOf(encoded.codes), values];
      const floats = new Float32Array(rows * block);
      floats.set(toFloat32(dtype, values, count));
      const spec = bits === 8 ? { low: -127, high: 127 } : { low: -8, high: 7 };
      const layout = { outer: 1, channels: rows, inner: block };
      const coded = kernels.quantizeChannels(floats, layout, { ...spec, scale: "mse", scaleType: "float16" });
      error.value = coded.squaredNorm > 0 ? Math.sqrt(coded.squaredError / coded.squaredNorm) : 0;
      const scales = bytesOf(kernels.toFloat16(coded.scales, true).bits);
      return [bytesOf(encoded.codes), bits === 8 ? bytesOf(coded.codes) : packBits(coded.codes, 4), scales];
    },
  );
  const [codesOf, first, scales] = parts.tensors as [Tensor, Tensor, Tensor | undefined];
  const values = bits && scales ? { bits, codes: first, scales } : first;
  return { form: { dtype, shape, index, codes: codesOf, entries, unit, values, fill, order }, parts, error };
}

/** Units in a row, behind `lead` of the fill; those beyond the end hold the fill. */
function gathered(bytes: Uint8Array, units: Uint32Array, step: number, lead: number, fill: Uint8Array): Uint8Array {
  const values = new Uint8Array((units.length + lead) * step);
  const put = (at: number): void => {
    for (let i = 0; i < step; i += fill.length) values.set(fill, at + i);
  };
  for (let i = 0; i < lead; i++) put(i * step);
  const [end, from] = [bytes.length / step, lead * step];
  if (step === 4 && fill.length === 4 && bytes.byteOffset % 4 === 0) {
    const source = new Uint32Array(bytes.buffer, bytes.byteOffset, end);
    const to = new Uint32Array(values.buffer, from);
    const padding = new Uint32Array(fill.slice().buffer)[0] as number;
    for (let i = 0; i < units.length; i++)
      to[i] = (units[i] as number) < end ? (source[units[i] as number] as number) : padding;
    return values;
  }
  for (let i = 0; i < units.length; i++) {
    const unit = units[i] as number;
    if (unit < end) values.set(bytes.subarray(unit * step, (unit + 1) * step), from + i * step);
    else put(from + i * step);
  }
  return values;
}
