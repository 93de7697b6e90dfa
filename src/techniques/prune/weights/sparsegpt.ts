/** SparseGPT: removes the weights of a layer that its outputs miss least, block after block of inputs, and lets the inputs that are still to come make up for them. */
import { magnitudeThreshold } from "../../../kernels/magnitude.ts";
import type { Kernels } from "../../../kernels/types.ts";
import type { MatrixEngine } from "../../../run/matrix-engine.ts";
import { type ErrorFeedback, feedbackOf, inHalves, inOrder, orderOf } from "../../quantize/weights/gptq.ts";
import type { Weights } from "../../quantize/weights/weight-grid.ts";
import { type Pattern, blockSums, expandBlocks } from "./mask-rules.ts";

export interface SparseGptOptions {
  /** Share of each block of inputs that goes; a pattern of groups has its own. */
  readonly ratio: number;
  /** Blocks count inputs in rows and outputs in columns here. */
  readonly pattern: Pattern;
  /** Added to the diagonal of XᵀX, relative to its mean. */
  readonly damping: number;
}

export interface SparseGptSolution {
  readonly data: Float32Array; // (k, n)
  /** What the damping had to be. */
  readonly damping: number;
}

/** Inputs whose mask is chosen at once, as in the paper, and rows between which errors move one by one. */
const MASK_ROWS = 128;
const STEP_ROWS = 16;

/**
 * min over masks and weights of ‖X(W − Ŵ)‖², greedily: inputs are treated one after another; what is removed of input j (its
 * weights, with all that was moved to them) costs x_j²/[H⁻¹]_jj, H = XᵀX + λI over the inputs that are not treated yet, and
 * is made up for by those, as in Optimal Brain Surgeon. With H = UᵀU, inputs in reverse order, 1/[H⁻¹]_jj = u_jj² and
 * x_j = w_j + Σ_{i>j} (u_ji/u_jj)·e_i, e_i = w_i − ŵ_i: the recursion of GPTQ. Masks are chosen for 128 inputs of all outputs
 * together, of n:m patterns for each group when its turn comes.
 * Frantar and Alistarh 2023 (arXiv 2301.00774); Hassibi and Stork 1992.
 */
export async function sparseGpt(
  engine: MatrixEngine,
  kernels: Kernels,
  weights: Weights,
  gram: Float64Array, // (k, k)
  { ratio, pattern, damping: asked }: SparseGptOptions,
): Promise<SparseGptSolution> {
  const { k, n } = weights;
  const order = orderOf(gram, k, false);
  const { feedback, importance, damping } = await feedbackOf(engine, gram, order, asked);
  const unit = pattern.kind === "group" ? pattern.of : pattern.kind === "block" ? pattern.rows : 1;
  const matrix = (data: Float32Array): ErrorFeedback["w"] => ({ rows: k, cols: n, data });
  const run: ErrorFeedback = {
    engine,
    feedback,
    leaf: Math.ceil(MASK_ROWS / unit) * unit,
    w: matrix(inOrder(weights.data, order, n)),
    errors: matrix(new Float32Array(k * n)),
  };
  // What was moved to the rows that are at hand
  const moved = new Float32Array(k * n);
  const take = (low: number, high: number, from: { readonly data: Float32Array } | undefined): void => {
    if (from) moved.set(from.data, low * n);
    else moved.fill(0, low * n, high * n);
  };
  const result = new Float32Array(k * n);
  const mask = new Uint8Array(k * n);
  const small: ErrorFeedback = { ...run, leaf: Math.ceil(STEP_ROWS / unit) * unit };
  await inHalves(run, 0, k, async (low, high, before) => {
    if (pattern.kind !== "group") {
      take(low, high, before);
      const scores = scoresOf(run.w, moved, importance, low, high);
      mask.set(await leafMask(kernels, scores, n, ratio, pattern), low * n);
    }
    const step = (from: number, to: number, own: { readonly data: Float32Array } | undefined): void => {
      take(from, to, own);
      for (let end = to; end > from; end -= unit) {
        if (pattern.kind === "group") {
          const scores = scoresOf(run.w, moved, importance, end - unit, end);
          const layout = { outer: 1, channels: unit, inner: n };
          mask.set(kernels.groupMask(scores, layout, pattern.keep, unit), (end - unit) * n);
        }
        for (let row = end - 1; row >= Math.max(from, end - unit); row--) settle(run, moved, mask, result, from, row);
      }
    };
    await inHalves(small, low, high, step, before);
  });
  const data = new Float32Array(k * n);
  for (let row = 0; row < k; row++) data.set(result.subarray(row * n, (row + 1) * n), (order[row] as number) * n);
  return { data, damping };
}

/** x²/[H⁻¹]_jj of rows [low, high). */
function scoresOf(
  w: ErrorFeedback["w"],
  moved: Float32Array,
  importance: Float32Array,
  low: number,
  high: number,
): Float32Array {
  const n = w.cols;
  const scores = new Float32Array((high - low) * n);
  for (let row = low, to = 0; row < high; row++) {
    const d = importance[row] as number;
    for (let at = row * n; at < (row + 1) * n; at++) {
      const x = (w.data[at] as number) + (moved[at] as number);
      scores[to++] = x * x * d;
    }
  }
  return scores;
}

async function leafMask(
  kernels: Kernels,
  scores: Float32Array,
  n: number,
  ratio: number,
  pattern: Pattern,
): Promise<Uint8Array> {
  const units = pattern.kind === "block" ? blockSums(scores, n, pattern) : scores;
  const keep = units.length - Math.round(ratio * units.length);
  const { threshold, ties } = await magnitudeThreshold(kernels, () => [units], keep);
  const { mask } = kernels.magnitudeMask(units, threshold, ties);
  return pattern.kind === "block" ? expandBlocks(mask, scores.length, n, pattern) : mask;
}

/** Fixes a row, and moves its errors to the rows of its step that are still to come. */
function settle(
  { w, errors, feedback }: ErrorFeedback,
  moved: Float32Array,
  mask: Uint8Array,
  result: Float32Array,
  low: number,
  row: number,
): void {
  const n = w.cols;
  const start = row * n;
  for (let at = start; at < start + n; at++) {
    const own = w.data[at] as number;
    const value = mask[at] === 0 ? 0 : own + (moved[at] as number);
    result[at] = value;
    errors.data[at] = own - value;
  }
  for (let other = low; other < row; other++) {
    const f = feedback.data[other * feedback.cols + row] as number;
    for (let i = 0, to = other * n; i < n; i++, to++)
      moved[to] = (moved[to] as number) + f * (errors.data[start + i] as number);
  }
}
