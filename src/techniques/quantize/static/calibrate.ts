/** Ranges of activations from samples, in one pass: statistics only, so that memory does not grow with the number of samples. */
import type { Model } from "../../../ir/model.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { asFloat32 } from "../../../run/arrays.ts";
import { GrowingHistogram } from "../../../run/growing-histogram.ts";
import type { NdArray, SessionOptions } from "../../../run/session.ts";
import type { FeedStream } from "../../../run/taps.node.ts";
import { engine } from "../../engine.ts";
import { entropyRange } from "./entropy-range.ts";
import { type Histogram, type Range, leastErrorRange, percentileRange } from "./range-search.ts";

export type Calibration = "min-max" | "average" | "percentile" | "entropy" | "mse";

/** What is known of one value: its ends, the mean ends of the batches, and the histogram if one was asked for. */
export interface Observed {
  readonly ends: Range;
  readonly averageEnds: Range;
  readonly histogram: Histogram | undefined;
}

export interface ObserveOptions extends SessionOptions {
  /** Fill histograms too. */
  readonly histograms: boolean;
  readonly onBatch?: (batch: number) => void;
}

/** Bins from zero to the largest magnitude or, while it grows, to 2.5 times that: 1/3 of an 8-bit step over the full range. */
const BINS = 2048;

/** Statistics of values by name: their ends, and histograms between them that grow as the ends do. */
export async function observe(
  model: Model,
  names: readonly string[],
  stream: FeedStream,
  kernels: Kernels,
  options: ObserveOptions,
): Promise<Map<string, Observed>> {
  const { tap } = await engine();
  const { histograms, onBatch, ...session } = options;
  return tap(model, names, stream, () => rangeReducer(kernels, histograms), {
    ...session,
    onBatch: ({ batch }) => onBatch?.(batch),
  });
}

/** "min-max" covers everything seen, "average" the mean of each batch's ends; the others look at the histogram. */
export function rangeOf(
  { ends, averageEnds, histogram }: Observed,
  calibration: Calibration,
  percentile: number,
): Range {
  if (calibration === "average") return averageEnds;
  if (calibration === "min-max" || !histogram || ends.high <= ends.low) return ends;
  return within(ends, histogramRange(histogram, calibration, percentile));
}

function histogramRange(histogram: Histogram, calibration: Calibration, percentile: number): Range {
  if (calibration === "percentile") return percentileRange(histogram, percentile / 100);
  return calibration === "entropy" ? entropyRange(histogram) : leastErrorRange(histogram);
}

/** The outer bins reach beyond what was seen. */
function within(ends: Range, { low, high }: Range): Range {
  return { low: Math.max(low, Math.min(0, ends.low)), high: Math.min(high, Math.max(0, ends.high)) };
}

function rangeReducer(kernels: Kernels, histograms: boolean): { add(array: NdArray): void; result(): Observed } {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  let lows = 0;
  let highs = 0;
  let batches = 0;
  const histogram = histograms ? new GrowingHistogram(kernels, BINS) : undefined;
  return {
    add(array) {
      const data = asFloat32(array);
      const { min, max, count } = kernels.summarize(data);
      if (count === 0) return;
      low = Math.min(low, min);
      high = Math.max(high, max);
      lows += min;
      highs += max;
      batches++;
      histogram?.add(data, min, max);
    },
    result() {
      const ends = batches === 0 ? { low: 0, high: 0 } : { low, high };
      const averageEnds = batches === 0 ? ends : { low: lows / batches, high: highs / batches };
      return { ends, averageEnds, histogram: histogram?.result() };
    },
  };
}
