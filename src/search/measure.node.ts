/** Measures one model of a sweep against the original: size, task metrics, fidelity, time in turns, memory, error by layer. */
import { throwIfAborted } from "../base/error.ts";
import { pairedDifference } from "../base/statistics.ts";
import type { Dataset } from "../data/dataset.ts";
import { compareModels } from "../evaluate/compare.node.ts";
import { type Evaluation, evaluate } from "../evaluate/evaluate.node.ts";
import { energyOf } from "../evaluate/energy.node.ts";
import { fidelityOf } from "../evaluate/fidelity.ts";
import { integerLines, integerReport } from "../evaluate/integer-report.node.ts";
import { type Latency, latencyOf, latencyRatio } from "../evaluate/latency.ts";
import { layerBytes } from "../evaluate/layer-bytes.ts";
import { peakMemory } from "../evaluate/memory.node.ts";
import { type SizeReport, sizeOf } from "../evaluate/size.node.ts";
import type { Model } from "../ir/model.ts";
import { type FeedChunk, feedChunks } from "../run/feeds.ts";
import { openSession } from "../run/open-session.node.ts";
import type { Feeds, Session, SessionOptions } from "../run/session.ts";
import { indexRanges, syntheticFeeds } from "../run/synthetic.ts";
import type { BytesRecord, EnergyRecord, FidelityRecord, Interval, LatencyRecord, LayerRecord } from "./results.ts";
import type { SweepOptions } from "./sweep.node.ts";
import type { Measured } from "./sweep.ts";

type OnStage = (stage: string, share: number) => void;

/** Samples on which agreement and divergence are taken. */
const FIDELITY_SAMPLES = 256;
/** Without data. */
const SYNTHETIC_SAMPLES = 8;

/** Holds what all models of a sweep are measured against: the original's session, inputs and judged samples. */
export class Measurer {
  readonly #original: Model;
  readonly #options: SweepOptions;
  #reference: { readonly session: Session; readonly feeds: Feeds } | undefined;
  #judged: Evaluation | undefined;

  constructor(original: Model, options: SweepOptions) {
    this.#original = original;
    this.#options = options;
  }

  /** The original itself. `subject` is its file where it has one, so that its bytes are those on the disk. */
  async baseline(subject: Model | string, onStage: OnStage): Promise<Measured> {
    onStage("counting bytes", 0);
    const size = sizeRecord(await sizeOf(subject, { signal: this.#options.signal }));
    onStage("evaluating the original", 0.1);
    const { session } = await this.#sessionOfOriginal();
    const judged = await this.#judge(session, (share) => onStage("evaluating the original", 0.1 + 0.5 * share));
    this.#judged = judged;
    onStage("timing the original", 0.6);
    const run = await this.#run(this.#original, session);
    const names = this.#original.graph.nodes.flatMap((node) => node.outputs.map(({ name }) => name));
    return {
      ...size,
      ...(judged ? { metrics: judged.metrics } : {}),
      fidelity: { sqnrDb: Number.POSITIVE_INFINITY, cosine: 1, agreement: 1, kl: 0 },
      ...run,
      ...(await this.#memory(subject, onStage)),
      layers: originalLayers(this.#original, names),
    };
  }

  /** A model as it was saved at `file`. */
  async measure(model: Model, file: string, onStage: OnStage): Promise<Measured> {
    const { data, evaluation, seed, layerSamples = 8, signal } = this.#options;
    onStage("counting bytes", 0);
    const size = sizeRecord(await sizeOf(file, { signal }));
    const session = await openSession(model, this.#session());
    let measured: Pick<Measured, "metrics" | "differences" | "fidelity" | "latency" | "throughput" | "energy">;
    try {
      onStage("evaluating", 0.1);
      const judged = await this.#judge(session, (share) => onStage("evaluating", 0.1 + 0.4 * share));
      const differences = judged && (await this.#differences(judged));
      const fidelity = await this.#fidelity(session);
      onStage("timing", 0.55);
      const run = await this.#run(model, session);
      measured = { ...(judged ? { metrics: judged.metrics } : {}), differences, fidelity, ...run };
    } finally {
      await session.close();
    }
    const notes = await this.#whySlow(model, measured.latency?.ratio);
    const memory = await this.#memory(file, onStage);
    onStage("comparing layers", 0.9);
    const comparison =
      layerSamples > 0
        ? await compareModels(this.#original, model, {
            ...this.#session(),
            data: evaluation ?? data,
            seed,
            samples: layerSamples,
          })
        : undefined;
    throwIfAborted(signal);
    const layers = comparison ? layersOf(this.#original, model, comparison.values) : [];
    return { ...size, ...measured, ...memory, ...(notes.length > 0 ? { notes } : {}), layers };
  }

  async close(): Promise<void> {
    await this.#reference?.session.close();
    this.#reference = undefined;
  }

  #session(): SessionOptions {
    const { provider, threads, inProcess, signal } = this.#options;
    return { provider, threads, inProcess, signal };
  }

  #timing(): { readonly seconds: number; readonly batch: number } {
    return { seconds: this.#options.benchmarkSeconds ?? 1, batch: this.#options.batch ?? 1 };
  }

  async #sessionOfOriginal(): Promise<{ readonly session: Session; readonly feeds: Feeds }> {
    if (!this.#reference) {
      const session = await openSession(this.#original, this.#session());
      const { batch } = this.#timing();
      const feeds = syntheticFeeds(session.inputs, {
        batch,
        seed: this.#options.seed,
        ranges: indexRanges(this.#original),
      });
      this.#reference = { session, feeds };
    }
    return this.#reference;
  }

  async #judge(session: Session, onShare: (share: number) => void): Promise<Evaluation | undefined> {
    const { evaluation, samples, signal } = this.#options;
    if (!evaluation?.labels) return undefined;
    return evaluate(session, evaluation, {
      limit: samples,
      signal,
      onProgress: ({ done, total }) => onShare(done / total),
    });
  }

  /** Paired differences of accuracy and loss: both models saw the same samples. A resumed baseline is judged again for them. */
  async #differences(judged: Evaluation): Promise<Record<string, Interval> | undefined> {
    this.#judged ??= await this.#judge((await this.#sessionOfOriginal()).session, () => undefined);
    const before = this.#judged?.rows;
    const after = judged.rows;
    if (before?.task !== "classes" || after.task !== "classes" || before.ranks.length !== after.ranks.length)
      return undefined;
    const hits = (ranks: Int32Array): Float64Array => Float64Array.from(ranks, (rank) => (rank === 0 ? 1 : 0));
    const differences = {
      accuracy: pairedDifference(hits(after.ranks), hits(before.ranks)),
      loss: pairedDifference(after.losses, before.losses),
    };
    // A model that is infinitely sure of something wrong has no finite loss to compare.
    return Object.fromEntries(Object.entries(differences).filter(([, { value }]) => Number.isFinite(value)));
  }

  /** Outputs against the original's, on held-out samples, else on those for calibration, else on synthetic ones. */
  async #fidelity(session: Session): Promise<FidelityRecord> {
    const { data, evaluation, seed = 1, signal } = this.#options;
    const reference = await this.#sessionOfOriginal();
    const samples = evaluation ?? data;
    const { inputs } = reference.session;
    const chunks = samples ? chunksOf(inputs, samples) : syntheticChunks(inputs, this.#original, seed);
    const kind = samples ? "data" : "synthetic";
    const found = await fidelityOf(reference.session, session, chunks, { inputs: kind, signal });
    const { sqnrDb, cosine, agreement, klNats } = found;
    return { sqnrDb, cosine, agreement: agreement?.value, kl: klNats?.value, samples: found.samples };
  }

  /** Time in turns with the original, and energy. */
  async #run(model: Model, session: Session): Promise<Pick<Measured, "latency" | "throughput" | "energy">> {
    const { seconds, batch } = this.#timing();
    const { signal } = this.#options;
    const reference = await this.#sessionOfOriginal();
    const energy = await this.#energy(model, session, reference.feeds);
    if (seconds <= 0) return energy;
    let latency: LatencyRecord;
    if (session === reference.session) {
      const alone = await latencyOf(session, reference.feeds, { seconds, signal });
      latency = { ...withoutRuns(alone), ratio: SAME_TIME };
    } else {
      const both = await latencyRatio(reference.session, session, reference.feeds, { seconds: seconds * 2, signal });
      latency = { ...withoutRuns(both.candidate), ratio: both.ratio };
    }
    return { ...energy, latency, throughput: batch / latency.p50 };
  }

  /** What makes a model with integer arithmetic slower than the original; nothing where it is not. */
  async #whySlow(model: Model, ratio: Interval | undefined): Promise<readonly string[]> {
    if (!ratio || ratio.low <= 1) return [];
    const { feeds } = await this.#sessionOfOriginal();
    const report = await integerReport(this.#original, model, feeds, { ...this.#session(), ratio });
    return report ? integerLines(report) : [];
  }

  /** From the processor's counters or estimated; nothing where the operations of the model cannot be counted. */
  async #energy(model: Model, session: Session, feeds: Feeds): Promise<{ readonly energy?: EnergyRecord }> {
    const { batch } = this.#timing();
    const energy = await energyOf(model, session, feeds, { batch, signal: this.#options.signal });
    return energy.joules > 0 ? { energy } : {};
  }

  async #memory(subject: Model | string, onStage: OnStage): Promise<Pick<Measured, "peakMemoryBytes">> {
    const { memory = true, provider, threads, batch, signal } = this.#options;
    if (!memory) return {};
    onStage("measuring memory", 0.8);
    return { peakMemoryBytes: (await peakMemory(subject, { provider, threads, batch, signal })).peakMemoryBytes };
  }
}

async function* chunksOf(inputs: Session["inputs"], samples: Dataset): AsyncGenerator<FeedChunk> {
  for await (const batch of samples.batches({ size: 32, limit: FIDELITY_SAMPLES })) yield* feedChunks(inputs, batch);
}

/** One sample per run: of a symbolic axis only the model knows whether it is the batch. */
function* syntheticChunks(inputs: Session["inputs"], model: Model, seed: number): Generator<FeedChunk> {
  const ranges = indexRanges(model);
  for (let start = 0; start < SYNTHETIC_SAMPLES; start++)
    yield { feeds: syntheticFeeds(inputs, { seed: seed + start, ranges }), size: 1, start };
}

const SAME_TIME: Interval = { value: 1, low: 1, high: 1 };

function withoutRuns({ p50, p90, p99, mean }: Latency): LatencyRecord {
  return { p50, p90, p99, mean };
}

function sizeRecord(
  size: SizeReport,
): Pick<Measured, "parameters" | "nonzero" | "macs" | "bops"> & { bytes: BytesRecord } {
  const { bytes, gzipBytes, brotliBytes, brotliQuality, sampled, parameters, nonzero, macs, bops } = size;
  return {
    bytes: { file: bytes, gzip: gzipBytes, brotli: brotliBytes, brotliQuality, estimated: sampled < 1 },
    parameters,
    nonzero,
    macs,
    bops,
  };
}

/** Layers of the original that have weights. */
function originalLayers(original: Model, names: readonly string[]): LayerRecord[] {
  return [...layerBytes(original, names)].flatMap(([name, { bytes, node }]) =>
    bytes > 0 ? [{ name: node?.name || name, op: node?.opType ?? "", bytes, bytesBefore: bytes }] : [],
  );
}

/** Compared values that have weights before or after, with their bytes and errors. */
function layersOf(
  original: Model,
  model: Model,
  values: Awaited<ReturnType<typeof compareModels>>["values"],
): LayerRecord[] {
  const before = layerBytes(
    original,
    values.map(({ name }) => name),
  );
  const after = layerBytes(
    model,
    values.map(({ candidateName }) => candidateName),
  );
  return values.flatMap((value): LayerRecord[] => {
    const old = before.get(value.name);
    const bytesBefore = old?.bytes ?? 0;
    const bytes = after.get(value.candidateName)?.bytes ?? 0;
    if (bytesBefore === 0 && bytes === 0) return [];
    return [
      {
        name: old?.node?.name || value.node,
        op: old?.node?.opType ?? value.op,
        bytes,
        bytesBefore,
        error: value.accumulated.relativeError,
        localError: value.local?.relativeError,
      },
    ];
  });
}
