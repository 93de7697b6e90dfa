/** Ranges of activations from samples, in one pass: statistics only, so that memory does not grow with the number of samples. */
import { PareError } from "../../../base/error.ts";
import type { Model } from "../../../ir/model.ts";
import type { Kernels } from "../../../kernels/types.ts";
import { withExtents } from "../../../run/extents.ts";
import { asFloat32 } from "../../../run/arrays.ts";
import { GrowingHistogram } from "../../../run/growing-histogram.ts";
import type { SessionOptions } from "../../../run/session.ts";
import type { FeedStream, Reducer } from "../../../run/taps.node.ts";
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
  const { histograms, ...rest } = options;
  const found = histograms ? new Map<string, Observed>() : await observeEnds(model, names, stream, rest);
  const left = names.filter((name) => !found.has(name));
  if (left.length === 0) return found;
  const { tap } = await engine();
  const { onBatch } = rest;
  const tapped = await tap(model, left, stream, () => rangeReducer(kernels, histograms), {
    ...rest,
    onBatch: ({ batch }) => onBatch?.(batch),
  });
  return new Map(names.map((name) => [name, found.get(name) ?? (tapped.get(name) as Observed)]));
}

/** Ends alone, found inside the engine; values that it cannot reduce, or that are not finite somewhere, are left out. */
async function observeEnds(
  model: Model,
  names: readonly string[],
  stream: FeedStream,
  { onBatch, ...session }: Omit<ObserveOptions, "histograms">,
): Promise<Map<string, Observed>> {
  const { model: reduced, extents } = withExtents(model, names);
  const { tap } = await engine();
  const lowest = new Set([...extents.values()].map(({ low }) => low));
  const wanted = [...extents.values()].flatMap(({ low, high }) => [low, high]);
  const found = new Map<string, Observed>();
  const ends = await tap(reduced, wanted, stream, (name) => batchReducer(lowest.has(name) ? Math.min : Math.max), {
    ...session,
    onBatch: ({ batch }) => onBatch?.(batch),
  }).catch((error: unknown) => {
    // The engine refuses to reduce a value that is empty
    if (error instanceof PareError && error.code === "engine") return undefined;
    throw error;
  });
  for (const [name, { low, high }] of ends ? extents : []) {
    const [lows, highs] = [ends?.get(low) ?? [], ends?.get(high) ?? []];
    if (![...lows, ...highs].every(Number.isFinite)) continue;
    const both = new BatchEnds();
    for (const [batch, least] of lows.entries()) both.add(least, highs[batch] as number);
    found.set(name, { ...both.result(), histogram: undefined });
  }
  return found;
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

/** Every batch's numbers reduced to one; not finite where one of them is not. */
function batchReducer(pick: (...values: number[]) => number): Reducer<number[]> {
  const found: number[] = [];
  return {
    add(array) {
      found.push(asFloat32(array).reduce((a, b) => pick(a, b), pick()));
    },
    result: () => found,
  };
}

/** Ends over batches, and the mean of their ends. */
class BatchEnds {
  #ends: Range = { low: Number.POSITIVE_INFINITY, high: Number.NEGATIVE_INFINITY };
  #sums: Range = { low: 0, high: 0 };
  #batches = 0;

  add(low: number, high: number): void {
    this.#ends = { low: Math.min(this.#ends.low, low), high: Math.max(this.#ends.high, high) };
    this.#sums = { low: this.#sums.low + low, high: this.#sums.high + high };
    this.#batches++;
  }

  result(): { readonly ends: Range; readonly averageEnds: Range } {
    if (this.#batches === 0) return { ends: this.#sums, averageEnds: this.#sums };
    const averageEnds = { low: this.#sums.low / this.#batches, high: this.#sums.high / this.#batches };
    return { ends: this.#ends, averageEnds };
  }
}

function rangeReducer(kernels: Kernels, histograms: boolean): Reducer<Observed> {
  const ends = new BatchEnds();
  const histogram = histograms ? new GrowingHistogram(kernels, BINS) : undefined;
  return {
    add(array) {
      const data = asFloat32(array);
      const { min, max } = kernels.extent(data) ?? kernels.summarize(data);
      if (min > max) return; // not one is finite
      ends.add(min, max);
      histogram?.add(data, min, max);
    },
    result: () => ({ ...ends.result(), histogram: histogram?.result() }),
  };
}
