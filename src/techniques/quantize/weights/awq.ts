/** AWQ: scales inputs so that those that carry large activations are rounded more finely, and clips scales by what the outputs lose. */
import { decodeFloat16, encodeFloat16 } from "../../../base/half.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { type Matrix, type MatrixEngine, part } from "../../../run/matrix-engine.ts";
import { type Grid, type GridSpec, type Weights, gridOf, roundToGrid } from "./weight-grid.ts";

/** Exponents tried: 0 to 1 in twentieths, as in the paper's code. */
const EXPONENTS = 20;
/** Clipping ratios tried: 1, 0.95, … 0.35 (the paper's code stops at 0.5; 2 bits want less). */
const RATIOS = Array.from({ length: 14 }, (_, i) => 1 - 0.05 * i);
/** Size of an input, relative to the largest, below which its scale does not fall any more. */
const SMALLEST = 1e-4;

export interface AwqScales {
  readonly exponent: number;
  /** What the weights of each input are multiplied with, and the input divided by. */
  readonly scales: Float32Array; // (k)
}

/** XᵀX in single precision, its diagonal having mean 1. */
export function normalizedGram(gram: Float64Array, k: number): Matrix {
  let trace = 0;
  for (let i = 0; i < k; i++) trace += gram[i * (k + 1)] as number;
  const factor = trace > 0 ? k / trace : 1;
  return { rows: k, cols: k, data: Float32Array.from(gram, (x) => x * factor) };
}

/** tr(EᵀGE): the squared error of a layer's outputs, E being (k, n). */
export async function outputError(
  engine: MatrixEngine,
  kernels: Kernels,
  gram: Matrix,
  errors: Float32Array,
): Promise<number> {
  const n = errors.length / gram.rows;
  const product = await engine.product(gram, { rows: gram.rows, cols: n, data: errors });
  return Math.max(0, kernels.compare(product.data, errors).dot);
}

/**
 * s_c = m_c^α, m_c the root mean square of input c (the paper takes the mean magnitude, which XᵀX does not know), scaled so that
 * √(max s·min s) = 1; α is the one with the least squared error of the outputs of all layers that read the input.
 * Lin et al. 2023 (arXiv 2306.00978).
 */
export async function awqScales(
  engine: MatrixEngine,
  kernels: Kernels,
  layers: readonly { readonly weights: Weights; readonly spec: GridSpec }[],
  gram: Matrix,
): Promise<AwqScales> {
  const k = gram.rows;
  const sizes = Float64Array.from({ length: k }, (_, i) => Math.sqrt(Math.max(0, gram.data[i * (k + 1)] as number)));
  const largest = sizes.reduce((a, b) => Math.max(a, b), 0) || 1;
  let best: AwqScales = { exponent: 0, scales: new Float32Array(k).fill(1) };
  let least = Number.POSITIVE_INFINITY;
  for (let step = 0; step <= EXPONENTS; step++) {
    const exponent = step / EXPONENTS;
    const powers = sizes.map((size) => Math.max(size / largest, SMALLEST) ** exponent);
    const middle = Math.sqrt(powers.reduce((a, b) => Math.max(a, b), 0) * powers.reduce((a, b) => Math.min(a, b), 1));
    const scales = Float32Array.from(powers, (power) => power / middle);
    let error = 0;
    for (const { weights, spec } of layers) {
      const scaled = scaleInputs(weights, scales);
      const { errors } = roundToGrid(kernels, scaled, gridOf(kernels, scaled, spec), spec);
      error += await outputError(engine, kernels, gram, unscale(errors, scales));
    }
    if (error < least) [least, best] = [error, { exponent, scales }];
  }
  return best;
}

/** Weights with row c multiplied by scale c. */
export function scaleInputs({ k, n, data }: Weights, scales: ArrayLike<number>): Weights {
  const scaled = new Float32Array(data.length);
  for (let c = 0, at = 0; c < k; c++)
    for (const end = at + n, s = scales[c] as number; at < end; at++) scaled[at] = (data[at] as number) * s;
  return { k, n, data: scaled };
}

/** Errors of scaled weights as errors of the plain ones. */
export function unscale(errors: Float32Array, scales: Float32Array): Float32Array {
  const k = scales.length;
  return scaleInputs(
    { k, n: errors.length / k, data: errors },
    scales.map((s) => 1 / s),
  ).data;
}

/** The second moments of inputs divided by scales. */
export function scaledGram(gram: Matrix, scales: Float32Array): Matrix {
  const k = gram.rows;
  const data = new Float32Array(k * k);
  for (let i = 0; i < k; i++)
    for (let j = 0; j < k; j++)
      data[i * k + j] = (gram.data[i * k + j] as number) / ((scales[i] as number) * (scales[j] as number));
  return { rows: k, cols: k, data };
}

/**
 * For every group of every output the clipping ratio of its scale with the least e_gᵀG_gg·e_g: the squared error of the
 * outputs as far as the group itself makes it, as AWQ clips.
 */
export async function clippedGrid(
  engine: MatrixEngine,
  kernels: Kernels,
  weights: Weights,
  gram: Matrix,
  spec: GridSpec,
): Promise<Grid> {
  const { k, n } = weights;
  const { group, scaleType } = spec;
  const groups = Math.ceil(k / group);
  const plain = gridOf(kernels, weights, { ...spec, scale: "range" });
  const blocks = Array.from({ length: groups }, (_, g) => {
    const [from, to] = [g * group, Math.min(k, (g + 1) * group)];
    return { from, to, gram: part(gram, from, to, from, to) };
  });
  const scales = plain.scales.slice();
  const least = new Float32Array(groups * n).fill(Number.POSITIVE_INFINITY);
  for (const ratio of RATIOS) {
    const candidate: Grid = {
      scales: plain.scales.map((s) =>
        scaleType === "float16" ? decodeFloat16(encodeFloat16(s * ratio, true)) : s * ratio,
      ),
      zeroPoints: plain.zeroPoints,
    };
    const { errors } = roundToGrid(kernels, weights, candidate, spec);
    for (const [g, block] of blocks.entries()) {
      const own = errors.subarray(block.from * n, block.to * n);
      const { data } = await engine.product(block.gram, { rows: block.to - block.from, cols: n, data: own });
      const cost = new Float64Array(n);
      for (let at = 0, o = 0; at < own.length; at++, o = o + 1 === n ? 0 : o + 1)
        cost[o] = (cost[o] as number) + (own[at] as number) * (data[at] as number);
      for (let o = 0, at = g * n; o < n; o++, at++)
        if ((cost[o] as number) < (least[at] as number) && candidate.scales[at] !== 0)
          [least[at], scales[at]] = [cost[o] as number, candidate.scales[at] as number];
    }
  }
  return { scales, zeroPoints: plain.zeroPoints };
}
