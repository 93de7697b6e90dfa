/** A data set as a stream of feeds for a model: what taps and Gram matrices run through it. */
import type { Model } from "../ir/model.ts";
import { type SampleBatch, feedChunks } from "./feeds.ts";
import type { Feeds, Port } from "./session.ts";

/** Where feeds come from; called once per pass over the data. */
export type FeedStream = () => AsyncIterable<Feeds> | Iterable<Feeds>;

/** Anything that streams batches in the same order each time it is asked: a data set. */
export interface BatchSource {
  batches(options?: {
    readonly size?: number;
    readonly limit?: number | undefined;
    readonly signal?: AbortSignal | undefined;
  }): AsyncIterable<SampleBatch>;
}

/** Inputs that are fed, as the model declares them; inputs with a stored default are left out. */
export function inputPorts(model: Model): Port[] {
  return model.graph.inputs
    .filter((value) => !value.tensor)
    .map((value) => ({ name: value.name, dtype: value.dtype ?? "float32", shape: value.shape ?? [] }));
}

/**
 * Feeds of every batch, again at each call. Fixed-batch models are fed in their size, and what padding repeats is fed too
 * (statistics of ranges do not mind; `size` a multiple of the model's batch avoids it).
 */
export function feedStream(
  model: Model,
  source: BatchSource,
  options: {
    /** Samples per batch; default 32. */
    readonly size?: number | undefined;
    readonly limit?: number | undefined;
    readonly signal?: AbortSignal | undefined;
  } = {},
): () => AsyncIterable<Feeds> {
  const ports = inputPorts(model);
  return async function* stream() {
    const { size = 32, limit, signal } = options;
    for await (const batch of source.batches({ size, limit, signal }))
      for (const { feeds } of feedChunks(ports, batch)) yield feeds;
  };
}
