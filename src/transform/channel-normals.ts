/** What normalizations say about the channels of activations, without a single sample: mean and variance of each. */
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { clampBounds } from "./clamps.ts";
import { constantTensor } from "./constants.ts";

/** Mean and variance of each channel (axis 1) of a value. */
export interface ChannelNormal {
  readonly mean: Float64Array; // (channels)
  readonly variance: Float64Array; // (channels)
}

/**
 * BatchNormalization makes channel c normal with mean β_c and variance γ_c²; behind a rectifier or a clamp it is a clipped normal,
 * behind a sum its moments are sums (as if the terms were independent), and averages over positions keep the mean. By the names
 * of the values; what normalization gives is listed under its input's name too, since folding leaves one of the two. Values of
 * which that says nothing are left out. Paper: Nagel et al. 2019 (arXiv 1906.04721), section 4.2 and appendix C.
 */
export function channelNormals(model: Model): Map<string, ChannelNormal> {
  const known = new Map<string, ChannelNormal>();
  const of = (value: Value | undefined): ChannelNormal | undefined => value && known.get(value.name);
  for (const node of model.graph.nodes) {
    const [output] = node.outputs;
    if (!output || node.domain !== "") continue;
    const bounds = clampBounds(model, node);
    const input = of(node.inputs[0]);
    let found: ChannelNormal | undefined;
    if (node.opType === "BatchNormalization") {
      const [gamma, beta] = [node.inputs[1], node.inputs[2]].map((value) =>
        constantTensor(model, value)?.peekNumbers(),
      );
      if (gamma && beta) found = { mean: Float64Array.from(beta), variance: Float64Array.from(gamma, (g) => g * g) };
      if (found && node.inputs[0]) known.set(node.inputs[0].name, found);
    } else if (typeof bounds === "object" && input) found = clippedNormal(input, bounds.low, bounds.high);
    else if (node.opType === "Add") {
      const other = of(node.inputs[1]);
      if (input && other && input.mean.length === other.mean.length)
        found = { mean: plus(input.mean, other.mean), variance: plus(input.variance, other.variance) };
    } else if (/^(Global)?AveragePool$|^Flatten$|^Identity$/.test(node.opType) && input) {
      const size = output.shape?.[1];
      if (size === undefined || size === null || size === input.mean.length) found = input;
    }
    if (found) known.set(output.name, found);
  }
  return known;
}

function plus(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((x, c) => x + (b[c] as number));
}

/**
 * Moments of min(max(x, l), h) for normal x, with α = (l − μ)/σ, β = (h − μ)/σ and Z = Φ(β) − Φ(α):
 *   E = μ Z + σ (φ(α) − φ(β)) + l Φ(α) + h (1 − Φ(β)),
 *   E[·²] = (μ² + σ²) Z + σ ((μ + l) φ(α) − (μ + h) φ(β)) + l² Φ(α) + h² (1 − Φ(β)).
 */
export function clippedNormal({ mean, variance }: ChannelNormal, low: number, high: number): ChannelNormal {
  const clipped = { mean: new Float64Array(mean.length), variance: new Float64Array(mean.length) };
  for (const [c, mu] of mean.entries()) {
    const sigma = Math.sqrt(variance[c] as number);
    if (sigma === 0) {
      clipped.mean[c] = Math.min(high, Math.max(low, mu));
      continue;
    }
    const side = (bound: number): { density: number; below: number } => {
      const z = (bound - mu) / sigma;
      return {
        density: Number.isFinite(z) ? Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI) : 0,
        below: normalBelow(z),
      };
    };
    const [a, b] = [side(low), side(high)];
    const inside = b.below - a.below;
    // An infinite bound has no mass of its own
    const [l, h] = [Number.isFinite(low) ? low : 0, Number.isFinite(high) ? high : 0];
    const [atLow, atHigh] = [a.below, 1 - b.below];
    const first = mu * inside + sigma * (a.density - b.density) + l * atLow + h * atHigh;
    const second =
      (mu * mu + sigma * sigma) * inside +
      sigma * ((mu + l) * a.density - (mu + h) * b.density) +
      l * l * atLow +
      h * h * atHigh;
    clipped.mean[c] = first;
    clipped.variance[c] = Math.max(0, second - first * first);
  }
  return clipped;
}

/** Φ(z) to 1e-7 (Abramowitz and Stegun 1964, 26.2.17). */
function normalBelow(z: number): number {
  if (z === Number.POSITIVE_INFINITY) return 1;
  if (z === Number.NEGATIVE_INFINITY) return 0;
  const t = 1 / (1 + 0.231_641_9 * Math.abs(z));
  const sum =
    t * (0.319_381_53 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
  const above = (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * sum;
  return z > 0 ? 1 - above : above;
}
