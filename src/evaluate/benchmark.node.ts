/** The benchmark of one model: latency, throughput, memory and energy on this machine. */
import type { Model } from "../ir/model.ts";
import { openSession } from "../run/open-session.node.ts";
import type { Feeds, Provider, SessionOptions } from "../run/session.ts";
import { indexRanges, syntheticFeeds } from "../run/synthetic.ts";
import { type Energy, energyOf } from "./energy.node.ts";
import { type Latency, type LatencyOptions, type LatencyRatio, latencyOf, latencyRatio } from "./latency.ts";
import { type Machine, machineInfo } from "./machine.node.ts";
import { peakMemory } from "./memory.node.ts";

export interface BenchmarkOptions extends LatencyOptions {
  readonly provider?: Provider | undefined;
  /** Threads of the engine; default 0: its own choice. */
  readonly threads?: number | undefined;
  /** Samples per run; default 1. A fixed batch of the model wins. */
  readonly batch?: number | undefined;
  /** Sizes of other symbolic dimensions. */
  readonly dims?: Readonly<Record<string, number>> | undefined;
  readonly seed?: number | undefined;
  /** Measure peak memory in a fresh process; default true. */
  readonly memory?: boolean | undefined;
}

/** What `benchmark --json` prints: seconds, samples per second, bytes, joules. */
export interface Benchmark {
  readonly latency: Latency;
  readonly throughput: number;
  readonly peakMemoryBytes: number | undefined;
  readonly energy: Energy;
  readonly threads: number;
  readonly batch: number;
  readonly provider: Provider;
  readonly machine: Machine;
}

/** Benchmarks a model on synthetic inputs. */
export async function benchmark(model: Model, options: BenchmarkOptions = {}): Promise<Benchmark> {
  const { provider = "cpu", threads = 0, batch, dims, signal } = options;
  const session = await openSession(model, { provider, threads, signal });
  try {
    const feeds = feedsFor(model, session.inputs, options);
    const samples = batchOf(feeds);
    const latency = await latencyOf(session, feeds, options);
    const energy = await energyOf(model, session, feeds, { batch: samples, dims, signal });
    const memory =
      options.memory === false ? undefined : await peakMemory(model, { provider, threads, batch, dims, signal });
    return {
      latency,
      throughput: samples / latency.mean,
      peakMemoryBytes: memory?.peakMemoryBytes,
      energy,
      threads,
      batch: samples,
      provider,
      machine: machineInfo(),
    };
  } finally {
    await session.close();
  }
}

/** Time of `candidate` relative to `reference`, measured in turns on the same synthetic inputs. */
export async function benchmarkRatio(
  reference: Model,
  candidate: Model,
  options: BenchmarkOptions & { readonly rounds?: number | undefined } = {},
): Promise<LatencyRatio> {
  const { provider, threads, signal } = options;
  const sessionOptions: SessionOptions = { provider, threads, signal };
  const a = await openSession(reference, sessionOptions);
  try {
    const b = await openSession(candidate, sessionOptions);
    try {
      return await latencyRatio(a, b, feedsFor(reference, a.inputs, options), options);
    } finally {
      await b.close();
    }
  } finally {
    await a.close();
  }
}

function feedsFor(model: Model, inputs: Parameters<typeof syntheticFeeds>[0], options: BenchmarkOptions): Feeds {
  const { seed, batch, dims } = options;
  return syntheticFeeds(inputs, { seed, batch, dims, ranges: indexRanges(model) });
}

function batchOf(feeds: Feeds): number {
  return Object.values(feeds)[0]?.shape[0] ?? 1;
}
