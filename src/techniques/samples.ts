/** Samples as the model wants them: the user's data in feeds, or synthetic inputs when there is none. */
import type { Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import { portGrids } from "../run/port-grids.ts";
import { feedChunks } from "../run/feeds.ts";
import type { Feeds, Port } from "../run/session.ts";
import { indexRanges, syntheticFeeds } from "../run/synthetic.ts";
import type { Context } from "./technique.ts";

/** What the model must be fed. */
export function portsOf(model: Model): Port[] {
  const grids = portGrids(model); // their codes are made by the session
  return model.graph.inputs.flatMap((input) => {
    if (input.tensor) return [];
    const dtype = grids.has(input.name) ? "float32" : (input.dtype ?? "undefined");
    return [{ name: input.name, dtype, shape: input.shape ?? [] }];
  });
}

/** At most `limit` samples of the data as feeds, in one batch per run; without data one run of seeded synthetic inputs. */
export async function sampleFeeds(
  model: Model,
  context: Pick<Context, "data" | "seed" | "signal">,
  limit: number,
): Promise<Feeds[]> {
  const ports = portsOf(model);
  if (!context.data) return [syntheticFeeds(ports, { seed: context.seed, ranges: indexRanges(model) })];
  const feeds: Feeds[] = [];
  for await (const chunk of dataFeeds(model, context.data, {
    limit,
    size: limit,
    seed: context.seed,
    signal: context.signal,
  }))
    feeds.push(chunk);
  return feeds;
}

/** The data as a stream of feeds: memory is one batch. The same options give the same samples in the same order. */
export async function* dataFeeds(
  model: Model,
  data: Dataset,
  options: {
    readonly limit: number;
    readonly size: number;
    readonly seed: number;
    readonly signal: AbortSignal | undefined;
  },
): AsyncGenerator<Feeds> {
  const ports = portsOf(model);
  for await (const batch of data.batches(options)) for (const { feeds } of feedChunks(ports, batch)) yield feeds;
}
