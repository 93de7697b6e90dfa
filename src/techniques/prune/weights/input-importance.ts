/** Goes through a model's layers level by level and tells, for each, what is known of its inputs: of the pruned layers before it, where levels have passes of their own. */
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import type { Model } from "../../../ir/model.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { MatrixEngine } from "../../../run/matrix-engine.ts";
import type { WeightSite } from "../../../transform/weight-sites.ts";
import { type CalibrationOptions, calibrationOf } from "../../calibration.ts";
import { engine } from "../../engine.ts";
import { PassCounter, momentsOf } from "../../quantize/weights/calibration-passes.ts";
import type { Context } from "../../technique.ts";
import { layerDepths } from "../../tune/frontier.ts";
import { type MatrixLayout, type Pattern, matrixOf } from "./mask-rules.ts";
import type { InputScore } from "./scores.ts";
import { sparseGpt } from "./sparsegpt.ts";

export interface InputOptions extends CalibrationOptions {
  /** Passes of the samples through the model at most. */
  readonly passes: number;
  /** Added to the diagonal of XᵀX, relative to its mean. */
  readonly damping: number;
}

/** A damping that makes any finite XᵀX positive definite, and its smallest step. */
const MOST_DAMPING = 1e3;
const LEAST_DAMPING = 1e-4;

/** A layer and XᵀX of each of its groups. */
export interface CountedSite {
  readonly site: WeightSite;
  readonly layout: MatrixLayout;
  readonly moments: readonly Float64Array[]; // groups × (k, k)
}

/** Calls `visit` for each site, level by level; what it changes is seen by later passes. */
export async function eachCounted(
  model: Model,
  kernels: Kernels,
  sites: readonly WeightSite[],
  options: InputOptions,
  context: Context,
  visit: (counted: CountedSite, matrices: MatrixEngine) => Promise<void>,
): Promise<void> {
  if (sites.length === 0) return;
  const { threads, provider, signal, journal } = context;
  const session = { threads, provider, signal };
  const { openSession } = await engine();
  const calibration = await calibrationOf(model, options, context);
  journal.note(calibration.note);
  const depths = layerDepths(model);
  const layers = sites.map((site) => {
    const { uses } = site;
    for (const { node } of uses) node.name ||= node.outputs[0]?.name ?? node.opType;
    const layout = matrixOf(site) as MatrixLayout;
    const level = Math.max(0, ...uses.map(({ node }) => (node.outputs[0] && depths.get(node.outputs[0])) ?? 0));
    return { site, layout, uses, groups: layout.groups, k: layout.k, level };
  });
  const { samples, passes } = options;
  const counter = new PassCounter(model, calibration, layers, { samples, passes, scales: false, session });
  const matrices = await MatrixEngine.open(openSession, kernels, session);
  try {
    let done = 0;
    for (const pass of counter.passes) {
      throwIfAborted(signal);
      const grams = await counter.next();
      for (const layer of pass) {
        const { site, layout } = layer;
        throwIfAborted(signal);
        context.onProgress({ stage: "prune-weights", done: done++, total: layers.length });
        await visit({ site, layout, moments: momentsOf(layer, grams) }, matrices);
      }
    }
  } finally {
    await matrices.close();
  }
}

/** d_j of each group, as `inputScores` reads it. */
export async function inputFactors(
  kind: InputScore,
  { layout, moments }: CountedSite,
  matrices: MatrixEngine,
  damping: number,
): Promise<Float32Array[]> {
  const { k } = layout;
  if (kind !== "obs") return moments.map((h) => Float32Array.from({ length: k }, (_, j) => h[j * (k + 1)] as number));
  return Promise.all(moments.map((h) => inverseDiagonal(matrices, h, k, damping)));
}

/** 1/[H⁻¹]_jj of the damped XᵀX, in the units of XᵀX, with ten times the damping where it is not positive definite: with H = UᵀU, [H⁻¹]_jj = Σ_i [U⁻¹]_ji². */
async function inverseDiagonal(
  matrices: MatrixEngine,
  gram: Float64Array,
  k: number,
  damping: number,
): Promise<Float32Array> {
  let trace = 0;
  for (let j = 0; j < k; j++) trace += gram[j * (k + 1)] as number;
  const mean = trace / k || 1;
  for (
    let added = damping;
    Number.isFinite(mean) && added <= MOST_DAMPING;
    added = Math.max(LEAST_DAMPING, added * 10)
  ) {
    const data = Float32Array.from(gram, (x, at) => x / mean + (at % (k + 1) === 0 ? added : 0));
    const found = await matrices.cholesky({ rows: k, cols: k, data }, true);
    if (!found?.inverse) continue;
    const v = found.inverse.data;
    return Float32Array.from({ length: k }, (_, j) => {
      let sum = 0;
      for (let i = j; i < k; i++) sum += (v[j * k + i] as number) ** 2;
      return mean / sum;
    });
  }
  throw new PareError("bad-data", "The inputs of a layer have no finite second moments", {
    help: "Look for NaN or infinite activations with 'pare compare', or calibrate on other samples",
  });
}

/** The pruned weight, in its stored order. */
export async function sparseGptWeights(
  { site, layout, moments }: CountedSite,
  matrices: MatrixEngine,
  kernels: Kernels,
  options: { readonly ratio: number; readonly pattern: Pattern; readonly damping: number },
): Promise<{ data: Float32Array; damping: number }> {
  const { k, n, rowsFirst } = layout;
  const all = toFloat32(site.tensor.dtype, await site.tensor.bytes());
  const data = new Float32Array(all.length);
  const { pattern } = options;
  // Rows of the matrix are inputs
  const turned: Pattern =
    pattern.kind === "block" && rowsFirst ? { kind: "block", rows: pattern.cols, cols: pattern.rows } : pattern;
  let damping = 0;
  for (const [group, gram] of moments.entries()) {
    const own = all.subarray(group * k * n, (group + 1) * k * n);
    const weights = { k, n, data: rowsFirst ? kernels.transpose(own, n, k) : own };
    const found = await sparseGpt(matrices, kernels, weights, gram, { ...options, pattern: turned });
    data.set(rowsFirst ? kernels.transpose(found.data, k, n) : found.data, group * k * n);
    damping = Math.max(damping, found.damping);
  }
  return { data, damping };
}

/** ‖X(Ŵ − W)‖/‖XW‖ over the samples. */
export async function outputErrorOf(
  { layout, moments }: CountedSite,
  matrices: MatrixEngine,
  kernels: Kernels,
  before: Float32Array,
  after: Float32Array,
): Promise<number> {
  const { k, n, rowsFirst } = layout;
  let [error, energy] = [0, 0];
  for (const [group, gram] of moments.entries()) {
    const g = { rows: k, cols: k, data: Float32Array.from(gram) };
    const own = (x: Float32Array): Float32Array => {
      const part = x.subarray(group * k * n, (group + 1) * k * n);
      return rowsFirst ? kernels.transpose(part, n, k) : part;
    };
    const [w, v] = [own(before), own(after)];
    const difference = w.map((x, i) => x - (v[i] as number));
    const norm = async (x: Float32Array): Promise<number> =>
      Math.max(0, kernels.compare((await matrices.product(g, { rows: k, cols: n, data: x })).data, x).dot);
    error += await norm(difference);
    energy += await norm(w);
  }
  return energy > 0 ? Math.sqrt(error / energy) : 0;
}
