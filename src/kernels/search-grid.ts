/** The clipping ratios that a search for the scale of least squared error tries; kernels and references share them. */

/** Refinements of the best ratio: s ← Σ q·w / Σ q², the least-squares scale of the codes q chosen with s. */
export const REFITS = 2;

/**
 * Ratios t of the "range" scale, 1 first (so that the search never does worse), then 28 in [lower, upper]. More did not pay:
 * on normal and Laplace noise in blocks of 32, four bits, they come within 0.2 % of the error of a search 16 times as dense.
 */
function ratiosBetween(lower: number, upper: number): number[] {
  const steps = 28;
  return [1, ...Array.from({ length: steps }, (_, i) => lower + ((upper - lower) * (i + 0.5)) / steps)];
}

/** Ratios for channels with `levels` = largest − smallest code. The fewer codes, the more a strong clipping gains. */
export function channelRatios(levels: number): Float32Array {
  return Float32Array.from(ratiosBetween(levels <= 3 ? 0.35 : levels <= 15 ? 0.5 : 0.6, 1));
}

/**
 * Ratios for blocks of `bits` bits. A symmetric scale maps the peak to −2^(b−1): up to 2^(b−1)/(2^(b−1) − 1) the peak moves to
 * −2^(b−1) + 1, which lets the values of the other sign reach their end. With two bits the mirrored scales are tried as well,
 * which give the other sign the longer side. With eight, clipping hardly gains: a narrow range is searched finely.
 */
export function blockRatios(bits: number, symmetric: boolean): Float32Array {
  const half = 2 ** (bits - 1);
  const lower = bits === 2 ? 0.35 : bits === 4 ? 0.5 : 0.9;
  const ratios = ratiosBetween(lower, symmetric ? half / (half - 1) : 1);
  return Float32Array.from(bits === 2 && symmetric ? [...ratios, ...ratios.map((t) => -t)] : ratios);
}
