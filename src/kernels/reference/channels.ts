/** Per-channel quantization to bytes in plain TypeScript: the oracle of the SIMD kernel. */
import { CHANNEL_TILE, channelCodes } from "../channel-grid.ts";
import type { AxisLayout, ChannelQuantized, ChannelSpec, ChannelSummary } from "../types.ts";
import { rangeScale, roundClamped, storedScale } from "../scalar.ts";
import { finiteRange, replaceNotFinite } from "./arithmetic.ts";
import { balanceCodes } from "./balance.ts";
import { bestScale } from "./blocks.ts";

export function quantizeChannels(w: Float32Array, layout: AxisLayout, spec: ChannelSpec = {}): ChannelQuantized {
  const { low, high, symmetric, search, half, middle, levels, ratios, balance } = channelCodes(spec);
  const codes = low < 0 ? new Int8Array(w.length) : new Uint8Array(w.length);
  const scales = new Float32Array(layout.channels);
  const zeroPoints = new Int32Array(layout.channels);
  const error = { squaredError: 0, squaredNorm: 0, maxError: 0, notFinite: 0 };
  for (let channel = 0; channel < layout.channels; channel++) {
    const indices = channelIndices(layout, channel);
    const values = new Float32Array(indices.length);
    for (let i = 0; i < values.length; i++) values[i] = w[indices[i] as number] as number;
    const range = finiteRange(values);
    replaceNotFinite(values, range);
    error.notFinite += range.notFinite;

    // s = max|w|/levels, or (max − min)/levels with z = low − min/s
    const peak = Math.max(range.high, -range.low);
    const plain = symmetric ? Math.fround(peak / levels) : rangeScale(range.low, range.high, levels);
    let s = storedScale(plain, half);
    const z = symmetric ? middle : roundClamped(Math.fround(low - Math.fround(range.low / s)), low, high);
    if (search) s = bestScale(values, plain, s, low - z, high - z, ratios, half);
    scales[channel] = s;
    zeroPoints[channel] = z;
    const integers = values.map((x) => roundClamped(Math.fround(x / s), low - z, high - z));
    for (let from = 0; balance > 0 && from < values.length; from += CHANNEL_TILE) {
      const [piece, rounded] = [values, integers].map((all) => all.subarray(from, from + CHANNEL_TILE));
      balanceCodes(piece as Float32Array, rounded as Float32Array, s, low - z, high - z, balance);
    }
    for (let i = 0; i < values.length; i++) {
      const x = values[i] as number;
      const q = integers[i] as number;
      codes[indices[i] as number] = q + z;
      const e = Math.fround(Math.fround(q * s) - x);
      error.squaredError += e * e;
      error.squaredNorm += x * x;
      error.maxError = Math.max(error.maxError, Math.abs(e));
    }
  }
  return { codes, scales, zeroPoints, ...error };
}

/** ŵ = (code − z)·s. */
export function dequantizeChannels(q: ChannelQuantized, layout: AxisLayout): Float32Array {
  const w = new Float32Array(q.codes.length);
  for (let channel = 0; channel < layout.channels; channel++)
    for (const i of channelIndices(layout, channel))
      w[i] = ((q.codes[i] as number) - (q.zeroPoints[channel] as number)) * (q.scales[channel] as number);
  return w;
}

/** Minimum, maximum, sum and sum of squares of each channel's finite elements. */
export function summarizeChannels(x: Float32Array, layout: AxisLayout): ChannelSummary {
  const { channels } = layout;
  const min = new Float32Array(channels).fill(Infinity);
  const max = new Float32Array(channels).fill(-Infinity);
  const sum = new Float64Array(channels);
  const sumSquares = new Float64Array(channels);
  for (let channel = 0; channel < channels; channel++)
    for (const i of channelIndices(layout, channel)) {
      const value = x[i] as number;
      if (!Number.isFinite(value)) continue;
      min[channel] = Math.min(min[channel] as number, value);
      max[channel] = Math.max(max[channel] as number, value);
      sum[channel] = (sum[channel] as number) + value;
      sumSquares[channel] = (sumSquares[channel] as number) + value * value;
    }
  return { min, max, sum, sumSquares };
}

/** max |x| per channel, over finite elements; 0 where there is none. */
export function maxAbsPerChannel(x: Float32Array, layout: AxisLayout): Float32Array {
  const { min, max } = summarizeChannels(x, layout);
  return min.map((low, channel) => (low === Infinity ? 0 : Math.max(-low, max[channel] as number)));
}

/** Where the elements of a channel lie, in order. */
function channelIndices({ outer, channels, inner }: AxisLayout, channel: number): Uint32Array {
  const indices = new Uint32Array(outer * inner);
  let at = 0;
  for (let o = 0; o < outer; o++) for (let i = 0; i < inner; i++) indices[at++] = (o * channels + channel) * inner + i;
  return indices;
}
