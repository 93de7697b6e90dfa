/** Every kernel in plain TypeScript, behind the kernels' own interface: the oracle of tests and the baseline of benchmarks. */
import { PareError } from "../../base/error.ts";
import type { BlockQuantizer, BlockSpec, Kernels } from "../types.ts";
import { dequantizeBlocks, quantizeBlocks, quantizeBlocksTransposed, transpose } from "./blocks.ts";
import { dequantizeChannels, maxAbsPerChannel, quantizeChannels, summarizeChannels } from "./channels.ts";
import { quantizeLevels } from "./levels.ts";
import { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from "./convert.ts";
import { applyMask, countMagnitudes, groupMask, magnitudeMask } from "./prune.ts";
import { compare, countNonZero, extent, gridEffects, histogram, histogramAbs, summarize } from "./reduce.ts";
import { addProduct, choleskyUpper, invertUpper, roundWithFeedback } from "./solve.ts";

export const plainKernels: Kernels = {
  scratch: (bytes) => new Uint8Array(bytes),
  quantizeBlocks,
  quantizeBlocksTransposed,
  blockQuantizer,
  dequantizeBlocks,
  quantizeChannels,
  dequantizeChannels,
  quantizeLevels,
  toFloat16,
  toBfloat16,
  fromFloat16,
  fromBfloat16,
  extent,
  summarize,
  summarizeChannels,
  maxAbsPerChannel,
  histogram,
  histogramAbs,
  countNonZero,
  compare,
  gridEffects,
  countMagnitudes,
  magnitudeMask,
  groupMask,
  applyMask,
  addProduct,
  choleskyUpper,
  invertUpper,
  roundWithFeedback,
  transpose,
};

function blockQuantizer(
  { rows, cols, transpose: transposed = false }: { rows: number; cols: number; transpose?: boolean },
  spec: BlockSpec,
): BlockQuantizer {
  const w = new Float32Array(rows * cols);
  let filled = 0;
  return {
    push(piece) {
      w.set(piece, filled);
      filled += piece.length;
    },
    pull(count, read) {
      const piece = w.subarray(filled, filled + count * cols);
      read(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength), 0);
      filled += piece.length;
    },
    finish() {
      if (filled !== w.length)
        throw new PareError("internal", "Not every row was pushed", { found: `${filled} of ${w.length} elements` });
      return transposed ? quantizeBlocksTransposed(w, rows, cols, spec) : quantizeBlocks(w, rows, cols, spec);
    },
  };
}
