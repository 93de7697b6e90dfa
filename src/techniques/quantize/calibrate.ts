/** Ranges of activations from samples: statistics only, so that memory does not grow with the number of samples. */
import type { Model } from "../../ir/model.ts";
import type { Kernels } from "../../kernels/types.ts";
import { asFloat32 } from "../../run/arrays.ts";
import type { NdArray, SessionOptions } from "../../run/session.ts";
import type { FeedStream } from "../../run/taps.node.ts";
import { engine } from "../engine.ts";
import { type Histogram, type Range, leastErrorRange, percentileRange } from "./range-search.ts";

export type Calibration = "min-max" | "average" | "percentile" | "mse";

export interface CalibrateOptions extends SessionOptions {
  readonly calibration: Calibration;
  /** Share of the samples inside the range for "percentile", in percent. */
  readonly percentile: number;
  readonly onBatch?: (pass: 1 | 2, batch: number) => void;
}

/** Resolution of the histograms: 1/8 of an 8-bit step over the full range. */
const BINS = 2048;

/**
 * Ranges of values by name. "min-max" covers everything seen, "average" the mean of each batch's ends; "percentile" and
 * "mse" look at histograms, which a second pass over the same samples fills between the first pass's ends.
 */
export async function calibrate(
  model: Model,
  names: readonly string[],
  stream: FeedStream,
  kernels: Kernels,
  options: CalibrateOptions,
): Promise<Map<string, Range>> {
  const { tap } = await engine();
  const { calibration, percentile, onBatch, ...session } = options;
  const tapped = (pass: 1 | 2): object => ({
    ...session,
    ...(onBatch ? { onBatch: ({ batch }: { batch: number }) => onBatch(pass, batch) } : {}),
  });
  const ends = await tap(model, names, stream, () => endsReducer(kernels, calibration === "average"), tapped(1));
  if (calibration === "min-max" || calibration === "average") return ends;
  const histograms = await tap(
    model,
    names,
    stream,
    (name) => histogramReducer(kernels, ends.get(name) ?? { low: 0, high: 0 }),
    tapped(2),
  );
  const ranges = new Map<string, Range>();
  for (const [name, histogram] of histograms)
    ranges.set(
      name,
      histogram.high <= histogram.low
        ? { low: histogram.low, high: histogram.high }
        : calibration === "percentile"
          ? percentileRange(histogram, percentile / 100)
          : leastErrorRange(histogram),
    );
  return ranges;
}

function endsReducer(kernels: Kernels, average: boolean): { add(array: NdArray): void; result(): Range } {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  let lows = 0;
  let highs = 0;
  let batches = 0;
  return {
    add(array) {
      const { min, max, count } = kernels.summarize(asFloat32(array));
      if (count === 0) return;
      low = Math.min(low, min);
      high = Math.max(high, max);
      lows += min;
      highs += max;
      batches++;
    },
    result: () =>
      batches === 0 ? { low: 0, high: 0 } : average ? { low: lows / batches, high: highs / batches } : { low, high },
  };
}

function histogramReducer(kernels: Kernels, { low, high }: Range): { add(array: NdArray): void; result(): Histogram } {
  const counts = new Float64Array(BINS);
  return {
    add(array) {
      if (high > low) kernels.histogram(asFloat32(array), low, high, counts);
    },
    result: () => ({ low, high, counts }),
  };
}
