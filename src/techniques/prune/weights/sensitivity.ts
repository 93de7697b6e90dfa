/** Shares by sensitivity: each layer is pruned alone, what that does to the model's outputs is measured, and the sum of it is minimized. */
import { throwIfAborted } from "../../../base/error.ts";
import { lowerHull } from "../../../base/lower-hull.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import { Probe } from "../../../evaluate/probe.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Model } from "../../../ir/model.ts";
import { Tensor } from "../../../ir/tensor.ts";
import { loadKernels } from "../../../kernels/kernels.ts";
import { magnitudeThreshold } from "../../../kernels/magnitude.ts";
import type { WeightSite } from "../../../transform/weight-sites.ts";
import type { CalibrationOptions } from "../../calibration.ts";
import { engine } from "../../engine.ts";
import { sourceOf } from "../../probe-source.ts";
import type { Context } from "../../technique.ts";

/** Shares at which a layer's error is measured. */
const SHARES = [0.3, 0.5, 0.7, 0.85, 0.95, 1];
/** Samples that outputs are compared on: each is run once for every layer and share. */
const MOST_SAMPLES = 16;

/** A piece of a layer's convex error curve: so many weights at so much error each. */
interface Piece {
  readonly site: WeightSite;
  readonly weights: number;
  readonly slope: number;
}

/**
 * min Σ_l e_l(r_l) with Σ r_l·N_l = ratio·N, e_l being the squared error of the outputs, relative to their square, when layer l alone
 * loses its share r_l of smallest weights: the pieces of the lower convex hulls of the curves are taken, least error per weight
 * first.
 */
export async function sensitiveShares(
  model: Model,
  sites: readonly WeightSite[],
  options: CalibrationOptions & { readonly ratio: number },
  context: Context,
): Promise<Map<WeightSite, number>> {
  // Weights of other types and inside of subgraphs lose the common share
  const measured = sites.filter(({ graph, tensor }) => graph === model.graph && tensor.dtype === "float32");
  const pieces: Piece[] = [];
  for (const [site, errors] of await errorCurves(model, measured, options, context))
    pieces.push(...hullPieces(site, errors));
  pieces.sort((a, b) => a.slope - b.slope);
  let left = options.ratio * measured.reduce((sum, { tensor }) => sum + tensor.elements, 0);
  const gone = new Map<WeightSite, number>(measured.map((site) => [site, 0]));
  for (const { site, weights } of pieces) {
    const taken = Math.min(left, weights);
    gone.set(site, (gone.get(site) as number) + taken);
    left -= taken;
  }
  const shares = new Map([...gone].map(([site, weights]) => [site, weights / site.tensor.elements]));
  const text = [...shares].map(([{ value }, share]) => `${value.name} ${(100 * share).toFixed(0)} %`);
  context.journal.note(`Shares by sensitivity: ${text.join(", ")}.`);
  return shares;
}

/** Slopes of the lower convex hull of (0, 0), (share·N, error) …: they rise. */
export function hullPieces(site: WeightSite, errors: readonly number[]): Piece[] {
  const points = [
    { x: 0, y: 0 },
    ...SHARES.map((share, i) => ({ x: share * site.tensor.elements, y: errors[i] as number })),
  ];
  const hull = lowerHull(points);
  return hull.slice(1).map(({ x, y }, i) => {
    const before = hull[i] as { x: number; y: number };
    return { site, weights: x - before.x, slope: (y - before.y) / (x - before.x) };
  });
}

async function errorCurves(
  model: Model,
  sites: readonly WeightSite[],
  options: CalibrationOptions,
  context: Context,
): Promise<Map<WeightSite, number[]>> {
  const { seed, signal, threads, provider } = context;
  const { openSession } = await engine();
  const kernels = await loadKernels();
  const samples = Math.min(options.samples, MOST_SAMPLES);
  const { source, on } = await sourceOf(model, { ...options, samples }, context);
  const probe = await Probe.open(model, source, { seed, provider, threads, signal, samples }, openSession);
  const curves = new Map<WeightSite, number[]>();
  try {
    for (const [done, site] of sites.entries()) {
      const errors: number[] = [];
      const weights = toFloat32(site.tensor.dtype, await site.tensor.bytes());
      for (const share of SHARES) {
        throwIfAborted(signal);
        context.onProgress({ stage: "prune-weights: sensitivity", done, total: sites.length });
        const copy = cloneModel(model);
        const value = copy.graph.initializers.get(site.value.name);
        const keep = weights.length - Math.round(share * weights.length);
        const { threshold, ties } = await magnitudeThreshold(kernels, () => [weights], keep);
        const masked = kernels.applyMask(weights, kernels.magnitudeMask(weights, threshold, ties).mask);
        if (value) value.tensor = Tensor.float32(site.tensor.shape, masked);
        const { damages } = await probe.judge(copy);
        errors.push(damages["noise"]?.value ?? 0);
      }
      curves.set(site, errors);
    }
  } finally {
    await probe.close();
  }
  context.journal.note(`Sensitivity: noise of the outputs on ${on}.`);
  return curves;
}
