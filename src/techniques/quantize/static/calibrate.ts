/** Ranges of activations from samples: statistics only, so that memory does not grow with the number of samples. */
import type { Model } from "../../../ir/model.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { asFloat32 } from "../../../run/arrays.ts";
import type { NdArray, SessionOptions } from "../../../run/session.ts";
import type { FeedStream } from "../../../run/taps.node.ts";
import { engine } from "../../engine.ts";
import { type Histogram, type Range, leastErrorRange, percentileRange } from "./range-search.ts";

export type Calibration = "min-max" | "average" | "percentile" | "mse";

/** What is known of one value: its ends, the mean ends of the batches, and the histogram if there was a second pass. */
export interface Observed {
  readonly ends: Range;
  readonly averageEnds: Range;
  readonly histogram: Histogram | undefined;
}

export interface ObserveOptions extends SessionOptions {
  /** Fill histograms in a second pass over the same samples. */
  readonly histograms: boolean;
  readonly onBatch?: (pass: 1 | 2, batch: number) => void;
}

/** Resolution of the histograms: 1/8 of an 8-bit step over the full range. */
const BINS = 2048;

/** Statistics of values by name: their ends in a first pass, histograms between them in a second. */
export async function observe(
  model: Model,
  names: readonly string[],
  stream: FeedStream,
  kernels: Kernels,
  options: ObserveOptions,
): Promise<Map<string, Observed>> {
  const { tap } = await engine();
  const { histograms: wanted, onBatch, ...session } = options;
  const tapped = (pass: 1 | 2): object => ({
    ...session,
    ...(onBatch ? { onBatch: ({ batch }: { batch: number }) => onBatch(pass, batch) } : {}),
  });
  const ends = await tap(model, names, stream, () => endsReducer(kernels), tapped(1));
  const nothing = { low: 0, high: 0 };
  const histograms = wanted
    ? await tap(model, names, stream, (name) => histogramReducer(kernels, ends.get(name)?.ends ?? nothing), tapped(2))
    : new Map<string, Histogram>();
  return new Map(
    names.map((name) => [
      name,
      { ...(ends.get(name) ?? { ends: nothing, averageEnds: nothing }), histogram: histograms.get(name) },
    ]),
  );
}

/** "min-max" covers everything seen, "average" the mean of each batch's ends; the others look at the histogram. */
export function rangeOf(
  { ends, averageEnds, histogram }: Observed,
  calibration: Calibration,
  percentile: number,
): Range {
  if (calibration === "average") return averageEnds;
  if (calibration === "min-max" || !histogram || histogram.high <= histogram.low) return ends;
  return calibration === "percentile" ? percentileRange(histogram, percentile / 100) : leastErrorRange(histogram);
}

function endsReducer(kernels: Kernels): {
  add(array: NdArray): void;
  result(): Pick<Observed, "ends" | "averageEnds">;
} {
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
    result() {
      const ends = batches === 0 ? { low: 0, high: 0 } : { low, high };
      const averageEnds = batches === 0 ? ends : { low: lows / batches, high: highs / batches };
      return { ends, averageEnds };
    },
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
