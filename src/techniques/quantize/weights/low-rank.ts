/** Low-rank compensation: what quantization takes from a weight, given back by two thin factors of the error. */
import { Rng } from "../../../base/rng.ts";
import type { Kernels } from "../../../kernels/types.ts";
import type { Matrix, MatrixEngine } from "../../../run/matrix-engine.ts";

/** A·B, the best known E of that rank. */
export interface Factors {
  readonly a: Matrix; // (k, rank)
  readonly b: Matrix; // (rank, n)
}

/** Steps of subspace iteration: the spectrum of rounding errors is nearly flat, and directions that are still mixed then cost little. */
const STEPS = 6;
/** Added to the diagonal, relative to its mean, until a Gram matrix has a Cholesky factor. */
const RIDGES = [1e-6, 1e-4, 1e-2];

/**
 * min ‖X(E − A·B)‖² over factors of rank r, E = W − Ŵ being (k, n): with XᵀX = UᵀU and Q the r leading left singular vectors of U·E,
 * A = U⁻¹Q and B = QᵀUE; without inputs U = 1. Q is found by subspace iteration, Q ← orth(UE·(UE)ᵀQ), of a drawn start:
 * products, and Cholesky factors of r × r matrices, Q ← Q·R⁻¹ with QᵀQ = RᵀR. That keeps the spans of the leading columns, so that a
 * larger rank holds a smaller one's directions and never leaves more. 4·(STEPS + 1)·k·n·r operations.
 * Yao et al. 2023, ZeroQuant-V2 (LoRC, arXiv 2303.08302); weighted by inputs as in Zhang et al. 2024, LQER (arXiv 2402.02446), with the
 * whole XᵀX in place of its diagonal; Halko et al. 2011 (arXiv 0909.4061).
 */
export async function lowRank(
  engine: MatrixEngine,
  kernels: Kernels,
  error: Matrix, // (k, n)
  rank: number,
  gram?: Matrix, // (k, k)
): Promise<Factors> {
  const [k, n] = [error.rows, error.cols];
  const r = Math.min(rank, k, n);
  const root = gram && (await rootOf(engine, gram));
  const e = root ? await engine.product(root.u, error) : error;
  const across = transposed(kernels, e);
  const rng = new Rng(k * 65537 + n);
  let q = await engine.product(e, { rows: n, cols: r, data: Float32Array.from({ length: n * r }, () => rng.normal()) });
  q = await orthonormal(engine, kernels, q);
  for (let step = 0; step < STEPS; step++)
    q = await orthonormal(engine, kernels, await engine.product(e, await engine.product(across, q)));
  const b = await engine.product(transposed(kernels, q), e);
  const a = root ? await engine.product(root.inverse, q) : q;
  return balanced(a, b);
}

/** U and U⁻¹ of XᵀX = UᵀU. */
async function rootOf(engine: MatrixEngine, gram: Matrix): Promise<{ u: Matrix; inverse: Matrix } | undefined> {
  for (const ridge of RIDGES) {
    const k = gram.rows;
    const data = gram.data.slice();
    for (let i = 0; i < k; i++) data[i * (k + 1)] = (data[i * (k + 1)] as number) + ridge;
    const found = await engine.cholesky({ rows: k, cols: k, data }, true);
    if (found?.inverse) return { u: found.u, inverse: found.inverse };
  }
  return undefined;
}

/** Columns made orthonormal from left to right, twice, since once leaves what single precision lost. */
async function orthonormal(engine: MatrixEngine, kernels: Kernels, y: Matrix): Promise<Matrix> {
  let q = unit(y);
  for (let round = 0; round < 2; round++) {
    const r = q.cols;
    const gram = await engine.product(transposed(kernels, q), q);
    // Directions that E does not have stay small instead of becoming noise
    for (let i = 0; i < r; i++) gram.data[i * (r + 1)] = (gram.data[i * (r + 1)] as number) + 1e-6;
    const found = await engine.cholesky(gram, true);
    if (!found?.inverse) return q;
    q = await engine.product(q, found.inverse);
  }
  return q;
}

/** Columns of length 1; those of nothing stay 0. */
function unit({ rows, cols, data }: Matrix): Matrix {
  const norms = new Float64Array(cols);
  for (let at = 0, c = 0; at < data.length; at++, c = c + 1 === cols ? 0 : c + 1)
    norms[c] = (norms[c] as number) + (data[at] as number) ** 2;
  return { rows, cols, data: data.map((x, at) => x / (Math.sqrt(norms[at % cols] as number) || 1)) };
}

/** The same product, the largest magnitudes of column j of A and of row j of B being equal: room in half precision for both. */
function balanced(a: Matrix, b: Matrix): Factors {
  const r = a.cols;
  const [left, right] = [new Float64Array(r), new Float64Array(r)];
  for (const [at, x] of a.data.entries()) left[at % r] = Math.max(left[at % r] as number, Math.abs(x));
  for (const [at, x] of b.data.entries()) {
    const row = Math.floor(at / b.cols);
    right[row] = Math.max(right[row] as number, Math.abs(x));
  }
  const factor = left.map((size, j) => Math.sqrt((right[j] as number) / size) || 1);
  return {
    a: { ...a, data: a.data.map((x, at) => x * (factor[at % r] as number)) },
    b: { ...b, data: b.data.map((x, at) => x / (factor[Math.floor(at / b.cols)] as number)) },
  };
}

function transposed(kernels: Kernels, { rows, cols, data }: Matrix): Matrix {
  return { rows: cols, cols: rows, data: kernels.transpose(data, rows, cols) };
}
