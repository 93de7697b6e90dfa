/** Judges many variants of one model on the same samples, each in one pass: task metrics where there are labels, fidelity always. */
import { costOf } from "../analyse/cost.ts";
import type { TypedData } from "../base/dtype.ts";
import { PareError, throwIfAborted } from "../base/error.ts";
import { type Interval, pairedDifference } from "../base/statistics.ts";
import type { Dataset } from "../data/dataset.ts";
import { hashOf } from "../data/fingerprint.ts";
import type { Model } from "../ir/model.ts";
import { contentHash } from "../kernels/content-hash.ts";
import { joinRows } from "../run/arrays.ts";
import { type FeedChunk, dropPadding, feedChunks } from "../run/feeds.ts";
import type { Feeds, NdArray, Session, SessionOptions } from "../run/session.ts";
import { indexRanges, syntheticFeeds } from "../run/synthetic.ts";
import { type Collector, chooseOutput, collectorFor, tensorOutputs, withBatchAxis } from "./collect.ts";
import { type OutputFidelity, OutputSums } from "./fidelity.ts";
import { latencyRatio } from "./latency.ts";
import type { ClassRows, Metric, ValueRows } from "./metrics/metric.ts";
import { metricsFor } from "./metrics/table.ts";

/** Samples with or without labels, or runs that somebody else has prepared. */
export type ProbeSource = { readonly data: Dataset } | { readonly feeds: readonly Feeds[] };

export interface ProbeOptions extends SessionOptions {
  /** Samples to judge on; default 256. */
  readonly samples?: number | undefined;
  /** Samples per run; default 32. */
  readonly batch?: number | undefined;
  /** Which samples are taken: the first of the permutation of this seed. */
  readonly seed?: number | undefined;
  /** Task metrics beside accuracy and loss (of values: the mean squared error). */
  readonly metrics?: readonly string[] | undefined;
  /** Output that the labels speak of; default: the first that fits. */
  readonly output?: string | undefined;
}

/** How much worse a variant is; 0: as good as the original, larger: worse. The ends are of a 95 % interval, where there is one. */
export interface Damage {
  readonly value: number;
  readonly low?: number;
  readonly high?: number;
}

/** What is known of one variant. */
export interface ProbeScore {
  /** Task metrics; none without labels. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Worst over the outputs: 10·log10(Σy² / Σ(ŷ−y)²). */
  readonly sqnrDb: number;
  /** Share of rows whose highest score is that of the original. */
  readonly agreement: number | undefined;
  /** By measure: each task metric, `kl` (mean divergence of the scores in nats) and `noise` (1/SQNR as a ratio of powers). */
  readonly damages: Readonly<Record<string, Damage>>;
}

export type OpenSession = (model: Model, options?: SessionOptions) => Promise<Session>;

/** Feeds and expected outputs up to so many bytes are remembered; beyond, samples are read and the original run for each variant. */
const REMEMBERED_BYTES = 512 * 2 ** 20;

type Outputs = Readonly<Record<string, NdArray>>;

/** A thread takes longer to start than a run of so many multiply-accumulates: variants of such models run in the calling thread. */
const SHORT_RUN_MACS = 4e9;

/** Some samples, in the runs that the model needs for them. */
interface Shot {
  readonly chunks: readonly FeedChunk[];
  readonly labels: NdArray | undefined;
  readonly size: number;
}

interface Judged extends Shot {
  /** The original's outputs of each run. */
  readonly expected: readonly Outputs[];
}

/** Judges variants of one model; {@link Probe.open} runs the model itself first. */
export class Probe {
  /** Samples that each variant is judged on. */
  samples = 0;
  /** Hash of the samples and labels themselves. */
  content = "";
  /** What labels there are. */
  readonly task: Dataset["labels"];
  /** Task metrics of the original, by name. */
  baseline: Readonly<Record<string, number>> = {};
  readonly #source: ProbeSource;
  readonly #options: ProbeOptions;
  readonly #open: OpenSession;
  readonly #metrics: readonly Metric[];
  readonly #reference: Session;
  readonly #names: readonly string[];
  #output: string | undefined;
  #rows: ClassRows | ValueRows | undefined;
  #remembered: Judged[] | undefined = [];
  #isShort = false;

  private constructor(reference: Session, source: ProbeSource, options: ProbeOptions, open: OpenSession) {
    this.#reference = reference;
    this.#source = source;
    this.#options = options;
    this.#open = open;
    this.#names = tensorOutputs(reference);
    this.#output = options.output;
    this.task = "data" in source ? source.data.labels : undefined;
    const usual = this.task === "values" ? ["mse"] : ["accuracy", "loss"];
    this.#metrics = this.task ? metricsFor(this.task, [...new Set([...usual, ...(options.metrics ?? [])])]) : [];
  }

  /** Runs the original on the samples. Errors: `bad-data` without a sample, `engine`, `shape-mismatch`. */
  static async open(
    original: Model,
    source: ProbeSource,
    options: ProbeOptions,
    openSession: OpenSession,
  ): Promise<Probe> {
    const reference = await openSession(original, sessionOptions(options));
    const probe = new Probe(reference, source, options, openSession);
    try {
      await probe.#prepare(original);
    } catch (error) {
      await reference.close();
      throw error;
    }
    return probe;
  }

  /** Opens the variant, runs it on the samples and closes it. */
  async judge(variant: Model): Promise<ProbeScore> {
    const { inProcess = this.#isShort, ...options } = sessionOptions(this.#options);
    const session = await this.#open(variant, { ...options, inProcess });
    try {
      const sums = new Map(this.#names.map((name) => [name, new OutputSums(name)]));
      const judge = new TaskRows(this.task);
      for await (const shot of this.#judged()) {
        const outputs = await this.#run(session, shot);
        for (const [index, chunk] of shot.chunks.entries())
          for (const [name, sum] of sums) {
            const [wanted, got] = [shot.expected[index]?.[name], outputs[index]?.[name]];
            if (wanted && got) sum.add(dropPadding(wanted, chunk), dropPadding(got, chunk));
          }
        judge.add(shot, outputs, this.#output);
      }
      return this.#score(
        [...sums.values()].map((sum) => sum.result()),
        judge.rows,
      );
    } finally {
      await session.close();
    }
  }

  /** Time of one run of the variant over that of the original on one sample, timed in turns. */
  async timeRatio(variant: Model, seconds: number): Promise<number> {
    const { seed, signal } = this.#options;
    const session = await this.#open(variant, sessionOptions(this.#options));
    try {
      const feeds = syntheticFeeds(this.#reference.inputs, { batch: 1, seed, ranges: indexRanges(variant) });
      return (await latencyRatio(this.#reference, session, feeds, { seconds, signal })).ratio.value;
    } finally {
      await session.close();
    }
  }

  async close(): Promise<void> {
    await this.#reference.close();
  }

  async #prepare(original: Model): Promise<void> {
    const hashes: string[] = [];
    const judge = new TaskRows(this.task);
    let bytes = 0;
    for await (const shot of this.#shots()) {
      const expected = await this.#run(this.#reference, shot);
      const fed = [...shot.chunks.flatMap(({ feeds }) => Object.values(feeds)), ...(shot.labels ? [shot.labels] : [])];
      for (const array of fed) hashes.push(await hashOf(array));
      if (this.samples === 0) this.#isShort = macsOf(original, this.#reference, shot.chunks[0]) < SHORT_RUN_MACS;
      bytes += sizeOf(fed) + sizeOf(expected.flatMap((outputs) => Object.values(outputs)));
      if (bytes > REMEMBERED_BYTES) this.#remembered = undefined;
      this.#remembered?.push({ ...shot, expected });
      this.samples += shot.size;
      const [first] = expected;
      if (first && shot.labels) this.#output ??= chooseOutput(first, fedRows(shot.chunks[0]), this.#classes);
      judge.add(shot, expected, this.#output);
    }
    if (this.samples === 0) throw new PareError("bad-data", "There is not one sample to judge on");
    this.content = await contentHash(new TextEncoder().encode(hashes.join()));
    this.#rows = judge.rows;
    if (this.#rows) this.baseline = metricsOf(this.#metrics, this.#rows);
  }

  get #classes(): number | undefined {
    return "data" in this.#source ? this.#source.data.classes?.length : undefined;
  }

  /** The samples, the same at each call. */
  async *#shots(): AsyncGenerator<Shot> {
    const { signal, seed, batch = 32, samples = 256 } = this.#options;
    if ("feeds" in this.#source) {
      for (const feeds of this.#source.feeds) {
        const size = Object.values(feeds)[0]?.shape[0] ?? 1;
        yield { chunks: [{ feeds, size, start: 0 }], labels: undefined, size };
      }
      return;
    }
    for await (const part of this.#source.data.batches({ size: batch, limit: samples, seed, signal }))
      yield { chunks: feedChunks(this.#reference.inputs, part), labels: part.labels, size: part.size };
  }

  async *#judged(): AsyncGenerator<Judged> {
    if (this.#remembered) yield* this.#remembered;
    else for await (const shot of this.#shots()) yield { ...shot, expected: await this.#run(this.#reference, shot) };
  }

  async #run(session: Session, { chunks }: Shot): Promise<Outputs[]> {
    const outputs: Outputs[] = [];
    for (const { feeds } of chunks) {
      throwIfAborted(this.#options.signal);
      outputs.push(await session.run(feeds, this.#names));
    }
    return outputs;
  }

  #score(outputs: readonly OutputFidelity[], rows: ClassRows | ValueRows | undefined): ProbeScore {
    const sqnrDb = Math.min(...outputs.map((output) => output.sqnrDb));
    const classified = outputs.find(({ klNats }) => klNats !== undefined);
    const metrics = rows ? metricsOf(this.#metrics, rows) : {};
    const damages: Record<string, Damage> = {};
    for (const { name, better } of this.#metrics) {
      const [before, after] = [this.baseline[name], metrics[name]];
      if (before === undefined || after === undefined) continue;
      const value = worse(better === "higher" ? before - after : after - before);
      damages[name] = { value, ...spread(name, rows, this.#rows, value) };
    }
    if (classified?.klNats) damages["kl"] = { value: worse(classified.klNats.value), ...ends(classified.klNats) };
    damages["noise"] = { value: worse(10 ** (-sqnrDb / 10)) };
    return { metrics, sqnrDb, agreement: classified?.agreement?.value, damages };
  }
}

/** The labels' side of a pass: what is kept of each judged sample. */
class TaskRows {
  readonly #task: Dataset["labels"];
  #collector: Collector | undefined;

  constructor(task: Dataset["labels"]) {
    this.#task = task;
  }

  add({ chunks, labels, size }: Shot, outputs: readonly Outputs[], name: string | undefined): void {
    if (!labels || !this.#task || name === undefined) return;
    const parts = chunks.flatMap((chunk, index) => {
      const array = outputs[index]?.[name];
      return array ? [withBatchAxis(dropPadding(array, chunk), chunk.size)] : [];
    });
    this.#collector ??= collectorFor(this.#task, name);
    this.#collector.add(joinRows(parts), labels, size);
  }

  get rows(): ClassRows | ValueRows | undefined {
    return this.#collector?.rows();
  }
}

function metricsOf(metrics: readonly Metric[], rows: ClassRows | ValueRows): Record<string, number> {
  return Object.fromEntries(
    metrics.flatMap((metric) => {
      const score = metric.score(rows);
      return score ? [[metric.name, score.value]] : [];
    }),
  );
}

/** Answers that are not numbers are as bad as can be. */
function worse(value: number): number {
  return Number.isNaN(value) ? Number.POSITIVE_INFINITY : value;
}

/** 95 % interval of a paired difference: both models saw the same samples. The tokens of a sample are not independent. */
function spread(
  metric: string,
  after: ClassRows | ValueRows | undefined,
  before: ClassRows | ValueRows | undefined,
  value: number,
): Pick<Damage, "low" | "high"> {
  if (!after || !before) return {};
  const both = [after, before].map((rows) => lossPerSample(metric, rows));
  const [a, b] = both;
  if (!a || !b) return {};
  const found = pairedDifference(a, b);
  return ends({ low: value - (found.value - found.low), high: value + (found.high - found.value) });
}

/** What the metric loses on each sample; undefined where it is no mean over samples. */
function lossPerSample(metric: string, rows: ClassRows | ValueRows): Float64Array | undefined {
  if (rows.task === "values") return metric === "mse" ? rows.squaredErrors : undefined;
  const lost =
    metric === "accuracy"
      ? (row: number): number => (rows.ranks[row] === 0 ? 0 : 1)
      : metric === "loss"
        ? (row: number): number => rows.losses[row] as number
        : undefined;
  if (!lost) return undefined;
  const sums = new Map<number, { sum: number; count: number }>();
  for (const [row, sample] of rows.samples.entries()) {
    const entry = sums.get(sample) ?? { sum: 0, count: 0 };
    sums.set(sample, { sum: entry.sum + lost(row), count: entry.count + 1 });
  }
  return Float64Array.from(sums.values(), ({ sum, count }) => sum / count);
}

/** One sample gives no interval. */
function ends({ low, high }: Pick<Interval, "low" | "high">): Pick<Damage, "low" | "high"> {
  return Number.isFinite(low) && Number.isFinite(high) ? { low, high } : {};
}

function sizeOf(arrays: readonly NdArray[]): number {
  return arrays.reduce(
    (sum, { dtype, data }) => sum + (dtype === "string" ? 64 * data.length : (data as TypedData).byteLength),
    0,
  );
}

/** Multiply-accumulates of a run; sizes of symbolic axes are those that are fed. */
function macsOf(model: Model, { inputs }: Session, chunk: FeedChunk | undefined): number {
  const dims: Record<string, number> = {};
  for (const { name, shape } of inputs)
    for (const [axis, dim] of shape.entries()) {
      const size = chunk?.feeds[name]?.shape[axis];
      if (typeof dim === "string" && size !== undefined) dims[dim] = size;
    }
  return costOf(model, dims).macs;
}

function fedRows(chunk: FeedChunk | undefined): number {
  return Object.values(chunk?.feeds ?? {})[0]?.shape[0] ?? chunk?.size ?? 1;
}

function sessionOptions({ provider, threads, inProcess, signal }: ProbeOptions): SessionOptions {
  return { provider, threads, inProcess, signal };
}
