/** The clipping ratios that a search for the scale of least squared error tries; kernels and references share them. */

/** Refinements of the best ratio: s ← Σ q·w / Σ q², the least-squares scale of the codes q chosen with s. */
export const REFITS = 2;

/**
 * Ratios t of the "range" scale, 1 first (so that the search never does worse), for `levels` = largest − smallest code.
 * A symmetric scale maps the peak to −(levels + 1)/2, so that t above 1 lets the values of the other sign reach their end.
 * Fewer codes gain from stronger clipping: the lower end falls with the number of codes.
 */
export function clippingRatios(levels: number, upper: number): Float32Array {
  const lower = levels <= 3 ? 0.35 : levels <= 15 ? 0.5 : 0.6;
  const steps = 28;
  const ratios = new Float32Array(steps + 1);
  ratios[0] = 1;
  for (let i = 0; i < steps; i++) ratios[i + 1] = lower + ((upper - lower) * (i + 0.5)) / steps;
  return ratios;
}

/** Ratios for blocks of `bits` bits: up to 2^(b−1)/(2^(b−1) − 1) when symmetric, where the peak maps to the smaller end. */
export function blockRatios(bits: number, symmetric: boolean): Float32Array {
  const half = 2 ** (bits - 1);
  return clippingRatios(2 ** bits - 1, symmetric ? half / (half - 1) : 1);
}
