/** Codes of weights that count levels, fixed or learned, and of those that stay numbers in 16 bits: lazy tensors of one computation. */
import { bytesOf } from "../../../base/dtype.ts";
import { type CodeBits, packCodes } from "../../../base/packed.ts";
import type { Tensor } from "../../../ir/tensor.ts";
import type { Kernels, LevelQuantized, LevelSpec } from "../../../kernels/types.ts";
import { type PartType, SharedParts } from "../../../transform/shared-source.ts";
import { computeWeight } from "../../kernel-host.ts";
import { learnCodebook } from "./codebook.ts";
import type { Levels, NumberFormat } from "./formats.ts";
import { checkHalf, toHalfBytes } from "../half-weights.ts";
import { type Codes, type CodesOptions, type RowLayout, ownFloats, relativeError, scaleBytes } from "./weight-codes.ts";

/** Elements that a codebook is learned from at most, evenly drawn. */
const LEARNED_FROM = 1 << 22;

/** Largest code of int16; −32768 is not used. */
const TOP_INT16 = 32767;

/** A weight as codes of levels; `rows` of it have a scale each, unless the layout has none. */
export function levelCodes(
  kernels: Kernels,
  tensor: Tensor,
  rows: number,
  options: CodesOptions & { readonly format: NumberFormat },
  layout: RowLayout,
): Codes {
  const { format, scale, scaleType } = options;
  const { bits } = format;
  const shared = format.kind === "levels" ? format.levels : undefined;
  const entries = format.kind === "codebook" ? format.entries : 0;
  const rule = scale === "mse" ? "mse" : (shared?.scale ?? "peak");
  return shareCodes(
    [
      { dtype: layout.codesType, shape: layout.codesShape },
      ...(layout.scalesShape ? [{ dtype: scaleType, shape: layout.scalesShape }] : []),
      ...(shared ? [] : [{ dtype: "float32", shape: [entries] } as const]),
    ],
    async (signal, error) => {
      const memoryBytes = tensor.elements * (layout.transpose ? 9 : 5);
      const found = await computeWeight(kernels, tensor.byteLength, memoryBytes, signal, async (host) => {
        const own = await ownFloats(tensor);
        const w = layout.transpose ? await host.transpose(own, ...layout.transpose) : own;
        const levels = shared ?? learned(kernels, w, layout.scalesShape ? rows : undefined, entries);
        const spec: LevelSpec = {
          levels: levels.values,
          borders: levels.borders,
          scaleType,
          scale: layout.scalesShape ? rule : Float32Array.of(1),
        };
        return { quantized: await host.quantizeLevels(w, layout.scalesShape ? rows : 1, spec), levels };
      });
      error.value = relativeError(found.quantized);
      const { codes, scales } = stored(found.quantized, found.levels);
      return [
        packCodes(codes, bits as CodeBits),
        ...(layout.scalesShape ? [scaleBytes(kernels, scales, scaleType)] : []),
        ...(shared ? [] : [bytesOf(found.levels.values)]),
      ];
    },
    ({ tensors }) => ({
      codes: tensors[0] as Tensor,
      scales: layout.scalesShape && tensors[1],
      levels: shared ? undefined : tensors.at(-1),
    }),
  );
}

/** A codebook of the weight divided by the peaks of its rows, whose squares are then what an error costs. */
function learned(
  kernels: Kernels,
  w: Float32Array,
  rows: number | undefined,
  entries: number,
): Pick<Levels, "values" | "borders" | "stored"> {
  const step = Math.ceil(w.length / LEARNED_FROM);
  const inner = w.length / (rows ?? 1);
  const peaks = rows === undefined ? undefined : kernels.maxAbsPerChannel(w, { outer: 1, channels: rows, inner });
  const peakOf = (i: number): number => peaks?.[Math.floor(i / inner)] || 1;
  const drawn =
    step === 1 && !peaks
      ? w
      : Float32Array.from({ length: Math.ceil(w.length / step) }, (_, i) => (w[i * step] as number) / peakOf(i * step));
  const cost = peaks && ((i: number): number => peakOf(i * step) ** 2);
  return { values: learnCodebook({ w: drawn, cost }, entries) };
}

function stored(
  { codes, scales }: LevelQuantized,
  levels: Pick<Levels, "stored">,
): { readonly codes: Uint8Array; readonly scales: Float32Array } {
  return { codes: levels.stored ? codes.map((code) => levels.stored?.[code] as number) : codes, scales };
}

/** int16 codes and a float32 scale per row: s = max|w|/32767. */
export function wideCodes(kernels: Kernels, tensor: Tensor, rows: number, layout: RowLayout): Codes {
  return shareCodes(
    [
      { dtype: "int16", shape: layout.codesShape },
      { dtype: "float32", shape: layout.scalesShape ?? [] },
    ],
    async (_, error) => {
      const own = await ownFloats(tensor);
      const w = layout.transpose ? kernels.transpose(own, ...layout.transpose) : own;
      const inner = w.length / rows;
      const peaks = kernels.maxAbsPerChannel(w, { outer: 1, channels: rows, inner });
      const scales = peaks.map((peak) => peak / TOP_INT16 || 1);
      const codes = new Int16Array(w.length);
      const rounded = new Float32Array(w.length);
      for (let i = 0; i < w.length; i++) {
        const s = scales[Math.floor(i / inner)] as number;
        const code = Math.max(-TOP_INT16, Math.min(TOP_INT16, Math.round((w[i] as number) / s) || 0));
        codes[i] = code;
        rounded[i] = code * s;
      }
      const { squaredDifference, squaredNormA } = kernels.compare(w, rounded);
      error.value = relativeError({ squaredError: squaredDifference, squaredNorm: squaredNormA });
      return [bytesOf(codes), bytesOf(scales)];
    },
    ({ tensors }) => ({ codes: tensors[0] as Tensor, scales: tensors[1] }),
  );
}

/** Elements in 16 bits; what overflows becomes the largest number. */
export function halfCodes(kernels: Kernels, tensor: Tensor, dtype: "float16" | "bfloat16"): Codes {
  return shareCodes(
    [{ dtype, shape: tensor.shape }],
    async (_, error) => {
      const check = await checkHalf(kernels, tensor, dtype === "float16" ? "fp16" : "bf16");
      error.value = check.error;
      return [await toHalfBytes(kernels, tensor, dtype === "float16" ? "fp16" : "bf16")];
    },
    ({ tensors }) => ({ codes: tensors[0] as Tensor, scales: undefined }),
  );
}

/** Parts of one computation as codes; it begins before the saver reads them, which bounds its own memory. */
function shareCodes(
  types: readonly PartType[],
  compute: (signal: AbortSignal | undefined, error: Codes["error"]) => Promise<readonly Uint8Array[]>,
  pick: (parts: SharedParts) => Pick<Codes, "codes" | "scales" | "levels">,
): Codes {
  const error: Codes["error"] = { value: undefined };
  const parts = new SharedParts(types, (signal) => compute(signal, error), { ahead: true });
  return { ...pick(parts), zeroPoints: undefined, error, keep: () => parts.keep() };
}
