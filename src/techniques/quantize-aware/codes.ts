/** The integers and scales that trained weights stand for: what their simulation computes, outside of the engine. */
import type { Tensor } from "../../ir/tensor.ts";
import { TTQ_LEVELS } from "../../ops/gradients/simulated.ts";
import type { WeightGrid } from "./simulate.ts";

/** ŵ = value(code)·scale, one scale per output channel. */
export interface WeightCodes {
  /** −2^(bits−1) .. 2^(bits−1) − 1; of one bit 0 and 1. */
  readonly codes: Int8Array;
  /** The integer that a code means, by code + 2^(bits−1) (by the code itself at one bit); undefined: the code itself. */
  readonly values: Int8Array | undefined;
  /** Largest magnitude among the integers. */
  readonly largest: number;
  readonly scales: Float32Array; // (channels)
}

/** To the nearest integer, ties to even, as the engine rounds. */
export function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  if (rest !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

/** The codes of a weight whose training has ended. */
export async function weightCodes(grid: WeightGrid): Promise<WeightCodes> {
  const { layer, rule, low, high, perChannel } = grid;
  const tensor = layer.weight.tensor as Tensor;
  const data = (await tensor.data()) as Float32Array;
  const channels = tensor.shape[layer.axis] ?? 1;
  const inner = tensor.shape.slice(layer.axis + 1).reduce((product, size) => product * size, 1);
  const channelOf = (i: number): number => Math.floor(i / inner) % channels;
  const groupOf = perChannel ? channelOf : () => 0;
  const groups = perChannel ? channels : 1;
  const learned = await Promise.all(grid.learned.map(async ({ tensor }) => (await tensor?.data()) as Float32Array));
  const wide = (scales: Float32Array): Float32Array =>
    Float32Array.from({ length: channels }, (_, c) => scales[perChannel ? c : 0] ?? 0);
  const means = (keep: (value: number, group: number) => boolean): Float32Array => {
    const [sums, counts] = [new Float64Array(groups), new Float64Array(groups)];
    for (const [i, value] of data.entries()) {
      const group = groupOf(i);
      if (!keep(value, group)) continue;
      sums[group] = (sums[group] ?? 0) + Math.abs(value);
      counts[group] = (counts[group] ?? 0) + 1;
    }
    return Float32Array.from(sums, (sum, group) => sum / Math.max(1, counts[group] ?? 0));
  };
  switch (rule) {
    case "uniform": {
      const scales = learned[0] as Float32Array;
      const codes = Int8Array.from(data, (value, i) => {
        const code = roundHalfEven(Math.fround(value / (scales[groupOf(i)] ?? 1)));
        return Math.max(low, Math.min(high, code));
      });
      return { codes, values: undefined, largest: Math.max(-low, high), scales: wide(scales) };
    }
    case "binary":
    case "mean-binary": {
      const scales = learned[0] ?? means(() => true);
      const codes = Int8Array.from(data, (value) => (value < 0 ? 0 : 1));
      return { codes, values: Int8Array.of(-1, 1), largest: 1, scales: wide(scales) };
    }
    case "mean-ternary": {
      const thresholds = means(() => true).map((mean) => Math.fround(Math.fround(0.7) * mean));
      const beyond = (value: number, group: number): boolean => Math.abs(value) > (thresholds[group] ?? 0);
      const codes = Int8Array.from(data, (value, i) => (beyond(value, groupOf(i)) ? Math.sign(value) : 0));
      return { codes, values: undefined, largest: 1, scales: wide(means(beyond)) };
    }
    case "trained-ternary": {
      const [p, n] = learned.map((each) => each[0] ?? 0) as [number, number];
      const largest = data.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const threshold = Math.fround(Math.fround(0.05) * largest);
      const step = Math.fround(Math.fround(1 / TTQ_LEVELS) * Math.max(p, n));
      const levels = (value: number): number => roundHalfEven(Math.fround(value / step));
      const codes = Int8Array.from(data, (value) => (value > threshold ? 1 : value < -threshold ? -1 : 0));
      const values = Int8Array.of(0, -levels(n), 0, levels(p)); // of codes −2, −1, 0, 1
      return { codes, values, largest: TTQ_LEVELS, scales: new Float32Array(channels).fill(step) };
    }
  }
}
