/** Fidelity of two models on data or on synthetic inputs: opens both, runs both, closes both. */
import type { Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import { type FeedChunk, feedChunks } from "../run/feeds.ts";
import { openSession } from "../run/open-session.node.ts";
import type { Port, SessionOptions } from "../run/session.ts";
import { indexRanges, syntheticFeeds } from "../run/synthetic.ts";
import { type Fidelity, fidelityOf } from "./fidelity.ts";
import { portTranslation } from "./port-translation.ts";

export interface FidelityOptions extends SessionOptions {
  /** Samples to compare on; without it, synthetic inputs. */
  readonly data?: Dataset | undefined;
  /** Number of samples; default 64, of synthetic inputs 8. */
  readonly samples?: number | undefined;
  /** Samples per run; default 16. */
  readonly batch?: number | undefined;
  readonly seed?: number | undefined;
  /** Sizes of symbolic axes of synthetic inputs. */
  readonly dims?: Readonly<Record<string, number>> | undefined;
}

/** Compares `candidate` with `reference` on the same inputs. */
export async function fidelity(reference: Model, candidate: Model, options: FidelityOptions = {}): Promise<Fidelity> {
  const { data, samples, batch, seed, dims, ...sessionOptions } = options;
  const a = await openSession(reference, sessionOptions);
  try {
    const b = await openSession(candidate, sessionOptions);
    try {
      const chunks = data
        ? chunksOf(a.inputs, data, samples ?? 64, batch ?? 16)
        : syntheticChunks(a.inputs, samples ?? 8, { seed: seed ?? 1, dims, ranges: indexRanges(reference) });
      return await fidelityOf(
        a,
        b,
        chunks,
        { inputs: data ? "data" : "synthetic", signal: options.signal },
        portTranslation(reference, candidate),
      );
    } finally {
      await b.close();
    }
  } finally {
    await a.close();
  }
}

async function* chunksOf(
  inputs: readonly Port[],
  data: Dataset,
  limit: number,
  size: number,
): AsyncGenerator<FeedChunk> {
  for await (const batch of data.batches({ size, limit })) yield* feedChunks(inputs, batch);
}

/** Seeded synthetic inputs, one sample per run. */
function* syntheticChunks(
  inputs: readonly Port[],
  samples: number,
  options: {
    readonly seed: number;
    readonly dims: Readonly<Record<string, number>> | undefined;
    readonly ranges: Readonly<Record<string, number>>;
  },
): Generator<FeedChunk> {
  for (let start = 0; start < samples; start++)
    yield { feeds: syntheticFeeds(inputs, { ...options, seed: options.seed + start }), size: 1, start };
}
