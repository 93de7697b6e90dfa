/** What forms of weights take as downloaded: packed by brotli, where there is one. */
import { PareError } from "../../../base/error.ts";
import type { Tensor } from "../../../ir/tensor.ts";
import type { Examined, FormOption } from "./sparse-choice.ts";

/** Weights up to this are packed for the journal's sake; packing more would take longer than all the rest. */
const REPORTED_BYTES = 64 * 2 ** 20;
/** 60 MB/s; tensors are compared with each other, so the quality hardly matters. */
const QUALITY = 5;

export interface Packed {
  readonly text: string;
  /** True where the form is to be judged by its bytes as downloaded, and they are more than those of the dense tensor. */
  readonly isWorse: boolean;
}

/** Packs dense tensors and their forms; undefined where only raw bytes count and there are too many of them. */
export async function packingOf(
  all: readonly Examined[],
  measure: "raw" | "brotli",
): Promise<((examined: Examined, option: FormOption) => Promise<Packed>) | undefined> {
  const total = all.reduce((sum, { tensor }) => sum + tensor.byteLength, 0);
  if (measure === "raw" && total > REPORTED_BYTES) return undefined;
  const found = await import("../../../evaluate/download-size.node.ts").catch(() => undefined);
  if (!found && measure === "raw") return undefined;
  if (!found)
    throw new PareError("unsupported", "There is no brotli here to measure bytes with", {
      where: "store-sparse option 'measure'",
      expected: "raw",
    });
  const packed = async (tensors: readonly Tensor[]): Promise<number> => {
    const ranges = await Promise.all(tensors.map((tensor) => tensor.bytes()));
    const { brotliBytes } = await found.downloadSize(
      ranges.map((bytes) => ({
        byteLength: bytes.byteLength,
        read: async (offset, length) => bytes.subarray(offset, offset + length),
      })),
      { quality: QUALITY },
    );
    return brotliBytes;
  };
  return async ({ tensor }, option) => {
    const before = await packed([tensor]);
    const after = await packed(option.parts.tensors);
    return {
      text: `brotli ${before} -> ${after} bytes`,
      isWorse: measure === "brotli" && after >= before,
    };
  };
}
