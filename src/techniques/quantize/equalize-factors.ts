/** By which factor each channel of a family is divided so that 8-bit grids suit its channels: from weights alone, or from samples. */
import { Tensor } from "../../ir/tensor.ts";
import { channelPeaks, eachChannel, type ScaledConstant, type ScaleFamily } from "../../transform/rescale.ts";

/** Factors further apart lead to numbers that float32 sums round off. */
const LARGEST_FACTOR = 2 ** 12;
/** Shares of the way from equal factors to equal ranges that are tried. */
const STRENGTHS = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];

/** What samples say about the channels of a family. */
export interface ChannelStatistics {
  /** max |x| over all values that are quantized. */
  readonly peaks: Float64Array; // (channels)
  /** E[x²] of what the layers read. */
  readonly meanSquares: Float64Array; // (channels)
}

/**
 * s_c = √(r₁/r₂) with r₁ the largest magnitude of the weights that make channel c and r₂ of those that read it, so that both
 * are √(r₁·r₂) afterwards (Nagel et al. 2019, arXiv 1906.04721, equation 11).
 */
export async function factorsFromWeights(family: ScaleFamily): Promise<Float64Array> {
  const made = new Float64Array(family.size);
  const read = new Float64Array(family.size);
  for (const constant of kernels(family)) await channelPeaks(constant, constant.power === 1 ? read : made);
  return made.map((r, c) => bounded(r > 0 && (read[c] ?? 0) > 0 ? Math.sqrt(r / (read[c] as number)) : 1));
}

/**
 * s_c = (p_c/max p)^a, p_c the largest magnitude of channel c in the samples: at a = 1 every channel fills the grid that all
 * share, at a = 0 nothing changes. Without `strength`, a is the one with the least predicted error of the layers that read
 * the channels, relative to what they compute: with W their weights (o, i), Δ = max_i(p_i/s_i)/127 and δ_o = max_i|s_i W_oi|/127,
 *   Σ_oi s_i² W_oi² Δ²/12 + Σ_oi E[x_i²]/s_i² δ_o²/12, over Σ_oi W_oi² E[x_i²].
 * With a limit (a clamp's bound L) no channel is stretched beyond L/`margin`, and those that reach it stay.
 */
export async function factorsFromSamples(
  family: ScaleFamily,
  statistics: ChannelStatistics,
  options: { readonly strength?: number | undefined; readonly margin: number },
): Promise<{ factors: Float64Array; strength: number }> {
  const top = statistics.peaks.reduce((a, b) => Math.max(a, b), 0);
  const limit = Math.min(...family.limits.flatMap(({ low, high }) => [high, -low]).filter((bound) => bound > 0));
  const at = (strength: number): Float64Array =>
    statistics.peaks.map((peak) => {
      if (!(peak > 0) || !(top > 0)) return 1;
      const wanted = (peak / top) ** strength;
      // x/s must stay below the bound with room for what other samples hold
      const least = Number.isFinite(limit) ? Math.min(1, (options.margin * peak) / limit) : 0;
      return bounded(Math.max(wanted, least));
    });
  if (options.strength !== undefined) return { factors: at(options.strength), strength: options.strength };
  const readers = await Promise.all(
    kernels(family)
      .filter(({ power }) => power === 1)
      .map(async (constant) => ({ constant, rows: await rowsOf(constant, family.size) })),
  );
  let best = { factors: at(0), strength: 0 };
  let least = Number.POSITIVE_INFINITY;
  for (const strength of STRENGTHS) {
    const factors = at(strength);
    const error = readers.reduce((sum, { rows }) => sum + predictedError(rows, factors, statistics), 0);
    if (error < least * (1 - 1e-6)) [best, least] = [{ factors, strength }, error];
  }
  return best;
}

function bounded(factor: number): number {
  return Math.min(LARGEST_FACTOR, Math.max(1 / LARGEST_FACTOR, factor));
}

/** Kernels of layers, not biases. */
function kernels(family: ScaleFamily): ScaledConstant[] {
  return family.constants.filter(({ layer, value }) => layer?.inputs[1] === value);
}

/** Of a kernel that reads the channels: for each output, Σ W² and max |W| over what it reads of each channel. */
interface Rows {
  readonly squares: Float64Array; // (outputs, channels)
  readonly peaks: Float64Array; // (outputs, channels)
  readonly outputs: number;
}

async function rowsOf(constant: ScaledConstant, size: number): Promise<Rows> {
  const tensor = constant.value.tensor as Tensor;
  const data = (await tensor.data()) as Float32Array;
  const { shape } = tensor;
  // The output of an element: its index along the other of the first two axes.
  const outputAxis = constant.axis === 0 ? 1 : 0;
  const outputs = shape[outputAxis] ?? 1;
  const inner = shape.slice(outputAxis + 1).reduce((product, dim) => product * dim, 1);
  const squares = new Float64Array(outputs * size);
  const peaks = new Float64Array(outputs * size);
  eachChannel(constant, shape, (at, channel) => {
    const w = Math.abs(data[at] as number);
    const to = (Math.floor(at / inner) % outputs) * size + channel;
    squares[to] = (squares[to] as number) + w * w;
    if (w > (peaks[to] as number)) peaks[to] = w;
  });
  return { squares, peaks, outputs };
}

function predictedError({ squares, peaks, outputs }: Rows, s: Float64Array, statistics: ChannelStatistics): number {
  const size = s.length;
  let top = 0;
  for (let i = 0; i < size; i++) top = Math.max(top, (statistics.peaks[i] as number) / (s[i] as number));
  const activation = (top / 127) ** 2 / 12;
  let [error, signal] = [0, 0];
  for (let o = 0; o < outputs; o++) {
    let step = 0;
    let power = 0;
    for (let i = 0; i < size; i++) {
      const at = o * size + i;
      const square = squares[at] as number;
      if (square === 0) continue;
      const factor = s[i] as number;
      error += factor * factor * square * activation;
      signal += square * (statistics.meanSquares[i] as number);
      step = Math.max(step, factor * (peaks[at] as number));
      power += (statistics.meanSquares[i] as number) / (factor * factor);
    }
    error += (power * (step / 127) ** 2) / 12;
  }
  return signal > 0 ? error / signal : 0;
}
