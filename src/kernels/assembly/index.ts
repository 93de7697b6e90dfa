/** SIMD kernels, compiled by AssemblyScript. Every export has a plain TypeScript reference in ../reference. */
export { balanceBytes } from "./balance";
export { dequantizeBlocks, quantizeBlocks, quantizeBytes } from "./blocks";
export { quantizeColumns } from "./columns";
export { quantizeLevels } from "./levels";
export { addRefit, gridEffects, mergeRange, replaceNotFinite, searchErrors } from "./scale";
export { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from "./convert";
export { compare, countNonZero, extent, histogram, summarize, summarizeChannels } from "./reduce";
export { applyMask, countMagnitudes, groupMask, magnitudeMask } from "./prune";
export { addProduct, choleskyUpper, invertUpper, roundWithFeedback } from "./solve";
export { transposeBytes, transposeFloats } from "./transpose";
