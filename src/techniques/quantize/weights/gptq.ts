/** GPTQ: rounds the inputs of a layer one after another, each time moving the error to the inputs that are still to come. */
import { PareError } from "../../../base/error.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { LEAF, type Matrix, type MatrixEngine, part } from "../../../run/matrix-engine.ts";
import { type Grid, type GridSpec, type Rounded, type Weights, gridOf, gridRows, topOf } from "./weight-grid.ts";

export interface GptqOptions extends GridSpec {
  /** Inputs with the largest mean square first; scales are then those of the weights as they were. */
  readonly actOrder: boolean;
  /** Added to the diagonal of XᵀX, relative to its mean. */
  readonly damping: number;
  /** Scales known before; default: found as {@link gridOf} does (without `actOrder`, group by group, when its turn comes). */
  readonly grid?: Grid | undefined;
}

export interface GptqSolution extends Rounded {
  readonly grid: Grid;
  /** What the damping had to be: more than asked for where XᵀX was not positive definite. */
  readonly damping: number;
  /** tr(EᵀHE) for the errors E and the damped H. */
  readonly loss: number;
}

/** A damping that makes any finite XᵀX positive definite, and its smallest step. */
const MOST_DAMPING = 1e3;
const LEAST_DAMPING = 1e-4;

/**
 * min over codes of ‖X(W − Ŵ)‖², greedily: with H = XᵀX + λI = UᵀU (U upper triangular, inputs in the reverse of the order
 * in which they are rounded), input j is rounded after Σ_{i>j} (u_ji/u_jj)·e_i was added to it, e_i = w_i − ŵ_i being the errors
 * of the inputs before it. This is GPTQ's result without the inverse of H: its update by U⁻¹ of the errors of moved weights
 * is the same sum (LDLQ in Chee et al. 2023, "QuIP"). Blocks are halved, so that all but squares of 128 inputs are
 * products: k³/3 operations for U and n·k² for the updates.
 * Frantar et al. 2023 (arXiv 2210.17323).
 */
export async function gptq(
  engine: MatrixEngine,
  kernels: Kernels,
  weights: Weights,
  gram: Float64Array, // (k, k)
  options: GptqOptions,
): Promise<GptqSolution> {
  const { k, n } = weights;
  const order = orderOf(gram, k, options.actOrder);
  const { feedback, importance, damping } = await feedbackOf(engine, gram, order, options.damping);
  const leaf = Math.max(LEAF, options.group);
  // A group that is rounded in pieces keeps the scales of the weights as they were
  const dynamic = !options.actOrder && !options.grid && options.group <= 2 * LEAF;
  const run: Run = {
    engine,
    kernels,
    options,
    order,
    feedback,
    importance,
    dynamic,
    leaf: dynamic ? Math.floor(leaf / options.group) * options.group : leaf,
    w: { rows: k, cols: n, data: inOrder(weights.data, order, n) },
    errors: { rows: k, cols: n, data: new Float32Array(k * n) },
    codes: new Uint8Array(k * n),
    grid: dynamic ? emptyGrid(k, n, options) : (options.grid ?? gridOf(kernels, weights, options)),
    loss: { value: 0 },
  };
  await inHalves(run, 0, k, (low, high, moved) => roundLeaf(run, low, high, moved));
  const place = <T extends Float32Array | Uint8Array>(from: T, into: T): T => {
    for (let row = 0; row < k; row++) into.set(from.subarray(row * n, (row + 1) * n), (order[row] as number) * n);
    return into;
  };
  return {
    codes: place(run.codes, new Uint8Array(k * n)),
    errors: place(run.errors.data, new Float32Array(k * n)),
    grid: run.grid,
    damping,
    loss: run.loss.value,
  };
}

/** One layer on its way; rows stand in the reverse of the order in which they are rounded. */
interface Run extends ErrorFeedback {
  readonly kernels: Kernels;
  readonly options: GptqOptions;
  /** Input behind each row. */
  readonly order: Int32Array;
  readonly importance: Float32Array;
  /** Scales are found group by group, of the weights with the errors before them added. */
  readonly dynamic: boolean;
  readonly codes: Uint8Array;
  readonly grid: Grid;
  readonly loss: { value: number };
}

/** What passing errors on from row to row takes. */
export interface ErrorFeedback {
  readonly engine: MatrixEngine;
  /** U with ones on its diagonal. */
  readonly feedback: Matrix;
  /** Rows that are visited at once. */
  readonly leaf: number;
  readonly w: Matrix;
  readonly errors: Matrix;
}

/**
 * The second half first, then what its errors mean for the first half, then that. `visit` sets the errors of a few rows; `moved` are the
 * errors that rows from `high` on have fed back to rows [low, high).
 */
export async function inHalves(
  run: ErrorFeedback,
  low: number,
  high: number,
  visit: (low: number, high: number, moved: Matrix | undefined) => Promise<void> | void,
  moved?: Matrix,
): Promise<void> {
  const size = high - low;
  if (size <= run.leaf) return visit(low, high, moved);
  const middle = high - Math.ceil(size / run.leaf / 2) * run.leaf;
  await inHalves(run, middle, high, visit, moved && rowsOf(moved, middle - low, size));
  const above = await run.engine.product(
    part(run.feedback, low, middle, middle, high),
    rowsOf(run.errors, middle, high),
    moved && rowsOf(moved, 0, middle - low),
  );
  await inHalves(run, low, middle, visit, above);
}

async function roundLeaf(run: Run, low: number, high: number, before?: Matrix): Promise<void> {
  if (!run.dynamic) return roundRows(run, low, high, before);
  const { group } = run.options;
  const n = run.w.cols;
  for (let end = high; end > low; end -= group) {
    const start = Math.max(low, end - group);
    let moved = before && rowsOf(before, start - low, end - low);
    if (end < high)
      moved = await run.engine.product(part(run.feedback, start, end, end, high), rowsOf(run.errors, end, high), moved);
    const rows = run.w.data.subarray(start * n, end * n);
    // Rows stand in reverse
    const now = new Float32Array(rows.length);
    for (let row = 0; row < end - start; row++)
      for (let o = 0, from = row * n, to = (end - start - 1 - row) * n; o < n; o++)
        now[to + o] = (rows[from + o] as number) + (moved?.data[from + o] ?? 0);
    const found = gridOf(run.kernels, { k: end - start, n, data: now }, run.options);
    const at = Math.floor((run.order[end - 1] as number) / group) * n;
    run.grid.scales.set(found.scales, at);
    run.grid.zeroPoints.set(found.zeroPoints, at);
    roundRows(run, start, end, moved);
  }
}

/** A view of whole rows. */
function rowsOf(x: Matrix, from: number, to: number): Matrix {
  return part(x, from, to, 0, x.cols);
}

function roundRows(run: Run, low: number, high: number, moved?: Matrix): void {
  const n = run.w.cols;
  const groups = run.order.slice(low, high).map((input) => Math.floor(input / run.options.group));
  const { loss } = run.kernels.roundWithFeedback({
    w: rowsOf(run.w, low, high).data,
    base: moved?.data ?? new Float32Array((high - low) * n),
    count: high - low,
    n,
    feedback: part(run.feedback, low, high, low, high).data,
    importance: run.importance.subarray(low, high),
    top: topOf(run.options.bits),
    ...gridRows(run.grid, groups, n),
    into: { codes: run.codes.subarray(low * n, high * n), errors: rowsOf(run.errors, low, high).data },
  });
  run.loss.value += loss;
}

function emptyGrid(k: number, n: number, { group }: GridSpec): Grid {
  const size = Math.ceil(k / group) * n;
  return { scales: new Float32Array(size), zeroPoints: new Float32Array(size) };
}

/** The input behind each row: rows are rounded from the last to the first. */
export function orderOf(gram: Float64Array, k: number, actOrder: boolean): Int32Array {
  const order = Int32Array.from({ length: k }, (_, row) => k - 1 - row);
  const square = (input: number): number => gram[input * (k + 1)] as number;
  return actOrder ? order.sort((a, b) => square(a) - square(b) || b - a) : order;
}

export function inOrder(data: Float32Array, order: Int32Array, n: number): Float32Array {
  const result = new Float32Array(data.length);
  for (const [row, input] of order.entries()) result.set(data.subarray(input * n, (input + 1) * n), row * n);
  return result;
}

/** The factor behind error feedback: u_ij/u_ii, and u_jj², which is 1/[H⁻¹]_jj once the rows below j are fixed. */
export async function feedbackOf(
  engine: MatrixEngine,
  gram: Float64Array,
  order: Int32Array,
  asked: number,
): Promise<{ feedback: Matrix; importance: Float32Array; damping: number }> {
  const { u, damping } = await factor(engine, gram, order, asked);
  const k = order.length;
  const importance = new Float32Array(k);
  for (let j = 0; j < k; j++) {
    const diagonal = u.data[j * k + j] as number;
    importance[j] = diagonal * diagonal;
    const row = u.data.subarray(j * k + j, (j + 1) * k);
    for (let i = 0; i < row.length; i++) row[i] = (row[i] as number) / diagonal;
  }
  return { feedback: u, importance, damping };
}

/** U of the permuted XᵀX + λ·mean(diag)·I, with ten times the damping for every failure. */
async function factor(
  engine: MatrixEngine,
  gram: Float64Array,
  order: Int32Array,
  asked: number,
): Promise<{ u: Matrix; damping: number }> {
  const k = order.length;
  let trace = 0;
  for (let i = 0; i < k; i++) trace += gram[i * (k + 1)] as number;
  const mean = trace / k;
  for (
    let damping = asked;
    Number.isFinite(mean) && damping <= MOST_DAMPING;
    damping = Math.max(LEAST_DAMPING, damping * 10)
  ) {
    // Divided by the mean: single precision then has room, and an input that is always zero gets the damping alone.
    // Only the upper triangle is read.
    const data = new Float32Array(k * k);
    const scale = mean > 0 ? 1 / mean : 0;
    for (let row = 0; row < k; row++) {
      const from = (order[row] as number) * k;
      for (let col = row; col < k; col++) data[row * k + col] = (gram[from + (order[col] as number)] as number) * scale;
      data[row * (k + 1)] = (data[row * (k + 1)] as number) + (mean > 0 ? damping : 1);
    }
    const found = await engine.cholesky({ rows: k, cols: k, data });
    if (found) return { u: found.u, damping };
  }
  throw new PareError("bad-data", "The inputs of a layer have no finite second moments", {
    help: "Look for NaN or infinite activations with 'pare compare', or calibrate on other samples",
  });
}
