/** Time of one run: quantiles after warm-up within a time budget, and the ratio of two models timed in turns. */
import { PareError, throwIfAborted } from "../base/error.ts";
import { type Interval, bootstrapInterval, mean, quantile, quantiles } from "../base/statistics.ts";
import type { Feeds, Session } from "../run/session.ts";

/** Seconds of one run. */
export interface Latency {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly mean: number;
  /** Runs behind the quantiles. */
  readonly runs: number;
}

export interface LatencyOptions {
  /** Time to spend on the timed runs; default 2. */
  readonly seconds?: number | undefined;
  /** At least so many runs, whatever the time; default 10. */
  readonly minRuns?: number | undefined;
  /** At most so many; default 2000. */
  readonly maxRuns?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: { readonly done: number; readonly total: number }) => void) | undefined;
}

/** Warm-up ends after so many runs and so many seconds: caches, thread pools and the engine's memory plan have settled. */
const WARM_RUNS = 3;
const WARM_SECONDS = 0.15;
/** Runs between looks at the clock and the signal take about this long. */
const BLOCK_SECONDS = 0.1;

/** Times a session on fixed feeds. */
export async function latencyOf(session: Session, feeds: Feeds, options: LatencyOptions = {}): Promise<Latency> {
  const { seconds: budget = 2, minRuns = 10, maxRuns = 2000 } = options;
  const estimate = await warmUp(session, feeds, options.signal);
  const times: number[] = [];
  let spent = 0;
  while ((spent < budget || times.length < minRuns) && times.length < maxRuns) {
    throwIfAborted(options.signal);
    const left = Math.max(minRuns - times.length, Math.ceil((budget - spent) / estimate));
    const count = Math.max(1, Math.min(left, maxRuns - times.length, Math.round(BLOCK_SECONDS / estimate)));
    for (const time of await session.time(feeds, count)) {
      times.push(time);
      spent += time;
    }
    options.onProgress?.({ done: Math.min(spent, budget), total: budget });
  }
  return summary(times);
}

/** Runs until things have settled and returns the seconds of one run. */
async function warmUp(session: Session, feeds: Feeds, signal: AbortSignal | undefined): Promise<number> {
  const times: number[] = [];
  let spent = 0;
  while (times.length < WARM_RUNS || (spent < WARM_SECONDS && times.length < 100)) {
    throwIfAborted(signal);
    const [time = 0] = await session.time(feeds, 1);
    times.push(time);
    spent += time;
  }
  return Math.max(quantile(times.slice(-5), 0.5), 1e-7);
}

function summary(times: readonly number[]): Latency {
  const [p50, p90, p99] = quantiles(times, [0.5, 0.9, 0.99]) as [number, number, number];
  return { p50, p90, p99, mean: mean(times), runs: times.length };
}

export interface LatencyRatio {
  /** Time of `candidate` over time of `reference`: below 1 is faster. Median over rounds, bootstrap interval. */
  readonly ratio: Interval;
  readonly rounds: number;
  readonly reference: Latency;
  readonly candidate: Latency;
}

export interface LatencyRatioOptions extends LatencyOptions {
  /** Rounds in which both models are timed, in turning order; default 15. */
  readonly rounds?: number | undefined;
}

/**
 * Times two sessions in turns (A B, B A, A B, …) in one process, so that what disturbs the machine disturbs both. Each
 * round gives one ratio of medians; the first run of each turn is not counted, the other model having used the caches.
 */
export async function latencyRatio(
  reference: Session,
  candidate: Session,
  feeds: Feeds,
  options: LatencyRatioOptions = {},
): Promise<LatencyRatio> {
  const { rounds = 15, seconds = 3 } = options;
  if (rounds < 2) throw new PareError("bad-option", "A ratio needs at least 2 rounds", { found: String(rounds) });
  const own = feedsFor(candidate, feeds);
  const sides = [
    { session: reference, feeds, times: [] as number[], estimate: await warmUp(reference, feeds, options.signal) },
    { session: candidate, feeds: own, times: [] as number[], estimate: await warmUp(candidate, own, options.signal) },
  ] as const;
  const [a, b] = sides;
  const ratios: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const medians = new Map<unknown, number>();
    for (const side of round % 2 === 0 ? sides : [b, a]) {
      throwIfAborted(options.signal);
      const count = Math.max(2, Math.min(200, Math.round(seconds / 2 / rounds / side.estimate)));
      const times = (await side.session.time(side.feeds, count + 1)).subarray(1);
      side.times.push(...times);
      medians.set(side, quantile(times, 0.5));
    }
    ratios.push((medians.get(b) as number) / (medians.get(a) as number));
    options.onProgress?.({ done: round + 1, total: rounds });
  }
  const median = (indices: Uint32Array): number =>
    quantile(
      Float64Array.from(indices, (index) => ratios[index] as number),
      0.5,
    );
  return {
    ratio: bootstrapInterval(ratios.length, median),
    rounds,
    reference: summary(a.times),
    candidate: summary(b.times),
  };
}

/** The same arrays under the candidate's input names, which are the reference's or stand in the same order. */
function feedsFor(session: Session, feeds: Feeds): Feeds {
  if (session.inputs.every((port) => feeds[port.name])) return feeds;
  const arrays = Object.values(feeds);
  if (arrays.length !== session.inputs.length)
    throw new PareError("shape-mismatch", "The models do not take the same inputs", {
      found: session.inputs.map((port) => port.name).join(", "),
      expected: Object.keys(feeds).join(", "),
    });
  return Object.fromEntries(session.inputs.map((port, index) => [port.name, arrays[index] as Feeds[string]]));
}
