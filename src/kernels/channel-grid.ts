/** Codes, zero points and scales of per-channel quantization: what kernels and references decide alike. */
import { channelRatios } from "./search-grid.ts";
import type { ChannelSpec } from "./types.ts";

/** A {@link ChannelSpec} with its defaults filled in. */
export interface ChannelCodes {
  readonly low: number;
  readonly high: number;
  readonly symmetric: boolean;
  readonly search: boolean;
  readonly half: boolean;
  /** The zero point of every symmetric channel: the middle code. */
  readonly middle: number;
  /** What the largest magnitude (symmetric) or the whole range (asymmetric) is divided by. */
  readonly levels: number;
  readonly ratios: Float32Array;
  /** Elements of a kernel whose errors shall cancel; 0: round to nearest. */
  readonly balance: number;
}

/** Elements of a channel that are encoded, and balanced, at a time; a multiple of the 256 that the search sums at once. */
export const CHANNEL_TILE = 65536;

export function channelCodes(spec: ChannelSpec): ChannelCodes {
  const { low = -127, high = 127, symmetric = true } = spec;
  const middle = (low + high + 1) >> 1;
  return {
    low,
    high,
    symmetric,
    search: spec.scale === "mse",
    half: spec.scaleType === "float16",
    middle,
    levels: symmetric ? Math.min(high - middle, middle - low) : high - low,
    ratios: channelRatios(high - low),
    balance: spec.balance ?? 0,
  };
}
