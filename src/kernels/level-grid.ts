/** What kernels and references of quantization to levels decide alike: borders between levels, and the ratios a search tries. */
import type { LevelSpec } from "./types.ts";

/** Clipping ratios tried beside 1. */
const STEPS = 28;

/** Refinements of the best scale by least squares, at most. */
export const LEVEL_REFITS = 4;

/**
 * Where the codes of a "mean" scale are chosen: at 1.4·mean|w|, so that ±1 begins at 0.7·mean|w|, as Li et al. 2016 do in "Ternary
 * Weight Networks" (arXiv 1605.04711); signs do not depend on it.
 */
export const MEAN_FACTOR = 1.4;

/** An element goes to the level behind border i where it is larger: midpoints of neighbours. */
export function bordersOf(levels: Float32Array): Float32Array {
  return Float32Array.from({ length: Math.max(0, levels.length - 1) }, (_, i) =>
    Math.fround(((levels[i] as number) + (levels[i + 1] as number)) / 2),
  );
}

/** Ratios t of the scale that puts the largest magnitude on the outermost level; few levels gain from a strong clipping. */
export function levelRatios(count: number): Float32Array {
  const lower = count <= 4 ? 0.1 : count <= 16 ? 0.4 : 0.7;
  return Float32Array.from([1, ...Array.from({ length: STEPS }, (_, i) => lower + ((1 - lower) * (i + 0.5)) / STEPS)]);
}

/** max |level|. */
export function outermost(levels: Float32Array): number {
  return levels.reduce((most, level) => Math.max(most, Math.abs(level)), 0);
}

/** How the scale of a row is found, as the kernels number it; a given scale is 0. */
export const LEVEL_RULES: Readonly<Record<Exclude<LevelSpec["scale"], Float32Array>, number>> = {
  peak: 1,
  mse: 2,
  mean: 3,
};
