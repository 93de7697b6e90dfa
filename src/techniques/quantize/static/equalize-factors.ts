/** By which factor each channel of a family is divided so that 8-bit grids suit its channels: from weights alone, or from samples. */
import type { Value } from "../../../ir/graph.ts";
import type { Tensor } from "../../../ir/tensor.ts";
import { channelPeaks, eachChannel, type ScaledConstant, type ScaleFamily } from "../../../transform/rescale.ts";

/** Factors further apart lead to numbers that float32 sums round off. */
const LARGEST_FACTOR = 2 ** 12;
/** Shares of the way from equal factors to equal ranges that are tried. */
const STRENGTHS = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];

/** What samples say about the channels of one value. */
export interface ChannelStatistics {
  /** max |x|. */
  readonly peaks: Float64Array; // (channels)
  /** E[x²]. */
  readonly meanSquares: Float64Array; // (channels)
}

/** Values of a family that get a grid, with what samples say about them. */
export type FamilyStatistics = ReadonlyMap<Value, ChannelStatistics>;

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
 * s_c = min(1, m·r_c)^a with the margin m, r_c the largest magnitude of channel c relative to the largest of all, over the values that get a grid: at
 * a = 1 channels fill the grids that they share, at a = 0 nothing changes. Without `strength`, a is the one with the least
 * predicted error of the layers that read the channels, relative to what they compute: with W the weights (o, i),
 * Δ_v = max_i(p_vi/s_i)/127 for each value v on the way to the layer and δ_o = max_i|s_i W_oi|/127,
 *   Σ_oi s_i² W_oi² Σ_v Δ_v²/12 + Σ_oi E[x_i²]/s_i² δ_o²/12, over Σ_oi W_oi² E[x_i²].
 * Channels are stretched to 1/`margin` of the largest only: what other samples hold beyond those seen would be cut off. With a
 * limit (a clamp's bound L) none is stretched beyond L/`margin`, and those that reach it stay.
 */
export async function factorsFromSamples(
  family: ScaleFamily,
  statistics: FamilyStatistics,
  options: { readonly strength?: number | undefined; readonly margin: number },
): Promise<{ factors: Float64Array; strength: number }> {
  const shares = new Float64Array(family.size);
  const peaks = new Float64Array(family.size);
  for (const seen of statistics.values()) {
    const top = seen.peaks.reduce((a, b) => Math.max(a, b), 0);
    for (const [c, peak] of seen.peaks.entries()) {
      peaks[c] = Math.max(peaks[c] as number, peak);
      if (top > 0) shares[c] = Math.max(shares[c] as number, peak / top);
    }
  }
  const limit = Math.min(...family.limits.flatMap(({ low, high }) => [high, -low]).filter((bound) => bound > 0));
  const at = (strength: number): Float64Array =>
    shares.map((share, c) => {
      if (!(share > 0)) return 1;
      // x/s must stay below the bound with room for what other samples hold
      const least = Number.isFinite(limit) ? Math.min(1, (options.margin * (peaks[c] as number)) / limit) : 0;
      return bounded(Math.max(Math.min(1, options.margin * share) ** strength, least));
    });
  if (options.strength !== undefined) return { factors: at(options.strength), strength: options.strength };
  const readers: Reader[] = [];
  for (const constant of kernels(family)) {
    const input = constant.layer?.inputs[0];
    const read = input && statistics.get(input);
    if (constant.power === 1 && read)
      readers.push({ ...(await rowsOf(constant, family.size)), read, noisy: upstream(input, statistics) });
  }
  let best = { factors: at(0), strength: 0 };
  let least = Number.POSITIVE_INFINITY;
  for (const strength of STRENGTHS) {
    const factors = at(strength);
    const error = readers.reduce((sum, reader) => sum + predictedError(reader, factors), 0);
    if (error < least * (1 - 1e-6)) [best, least] = [{ factors, strength }, error];
  }
  return best;
}

/** Values with a grid on the way from the layers before to this one, itself included: their errors all arrive here. */
function upstream(value: Value, statistics: FamilyStatistics): ChannelStatistics[] {
  const found: ChannelStatistics[] = [];
  const seen = new Set<Value>();
  const stack = [value];
  for (let at = stack.pop(); at; at = stack.pop()) {
    if (seen.has(at)) continue;
    seen.add(at);
    const own = statistics.get(at);
    if (own) found.push(own);
    const { producer } = at;
    // A layer makes its channels anew
    if (producer && !producer.inputs[1]?.tensor) for (const input of producer.inputs) if (input) stack.push(input);
  }
  return found;
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

/** A kernel with what it reads and whose errors come with it. */
interface Reader extends Rows {
  readonly read: ChannelStatistics;
  readonly noisy: readonly ChannelStatistics[];
}

function predictedError({ squares, peaks, outputs, read, noisy }: Reader, s: Float64Array): number {
  const size = s.length;
  let activation = 0;
  for (const value of noisy) {
    let top = 0;
    for (let i = 0; i < size; i++) top = Math.max(top, (value.peaks[i] as number) / (s[i] as number));
    activation += (top / 127) ** 2 / 12;
  }
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
      signal += square * (read.meanSquares[i] as number);
      step = Math.max(step, factor * (peaks[at] as number));
      power += (read.meanSquares[i] as number) / (factor * factor);
    }
    error += (power * (step / 127) ** 2) / 12;
  }
  return signal > 0 ? error / signal : 0;
}
