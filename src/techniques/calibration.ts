/** Samples for statistics of activations, from whatever there is: the user's data, text that the model writes, synthetic inputs. */
import type { Model } from "../ir/model.ts";
import type { FeedStream } from "../run/feed-stream.ts";
import type { Feeds } from "../run/session.ts";
import { indexRanges, syntheticFeeds } from "../run/synthetic.ts";
import { decoderOf, tokenFeeds, writeText } from "../run/write-text.ts";
import { elementCount } from "../base/shape.ts";
import { engine } from "./engine.ts";
import { dataFeeds, portsOf } from "./samples.ts";
import type { Context } from "./technique.ts";

export interface Calibration {
  /** The same feeds at each call. */
  readonly stream: FeedStream;
  /** Says where they come from. */
  readonly note: string;
}

export interface CalibrationOptions {
  /** Samples at most. */
  readonly samples: number;
  /** Tokens of a sequence that the model writes. */
  readonly length: number;
  /** Their first token; default: drawn at random. */
  readonly start?: number | undefined;
}

/** Samples of one run, and bytes up to which all of them are remembered between passes. */
const BATCH = 8;
const REMEMBERED_BYTES = 256 * 2 ** 20;

/** The user's samples if there are any; of a decoder, sequences that it writes itself; else synthetic inputs. */
export async function calibrationOf(model: Model, options: CalibrationOptions, context: Context): Promise<Calibration> {
  const { data, seed, signal } = context;
  if (data) {
    const stream = (): AsyncGenerator<Feeds> =>
      dataFeeds(model, data, { limit: options.samples, size: BATCH, seed, signal });
    const count = Math.min(options.samples, data.size);
    return {
      stream: await remembered(
        stream,
        count * data.fields.reduce((sum, { shape }) => sum + 4 * elementCount(shape), 0),
      ),
      note: `Calibrated on ${count} samples of ${data.name}.`,
    };
  }
  const decoder = decoderOf(model);
  if (!decoder) {
    const ranges = indexRanges(model);
    const feeds = Array.from({ length: options.samples }, (_, i) =>
      syntheticFeeds(portsOf(model), { seed: seed + i, ranges }),
    );
    return {
      stream: () => feeds,
      note: `Calibrated on ${options.samples} synthetic inputs (random numbers): name samples with --data for statistics that mean something.`,
    };
  }
  const { openSession } = await engine();
  const { samples: count, length, start } = options;
  context.onProgress({ stage: "writing text to calibrate on", done: 0, total: 1 });
  const session = { threads: context.threads, provider: context.provider };
  const text = await writeText(model, decoder, { count, length, seed, start, signal }, openSession, session);
  const feeds: Feeds[] = [];
  for (let row = 0; row < count; row += BATCH) {
    const rows = Math.min(BATCH, count - row);
    feeds.push(
      tokenFeeds(decoder, text.subarray(row * length, (row + rows) * length), { count: rows, length, used: length }),
    );
  }
  return {
    stream: () => feeds,
    note: `Calibrated on ${count} sequences of ${length} tokens that the model wrote itself (seed ${seed}).`,
  };
}

async function remembered(stream: () => AsyncGenerator<Feeds>, bytes: number): Promise<FeedStream> {
  if (bytes > REMEMBERED_BYTES) return stream;
  const feeds: Feeds[] = [];
  for await (const each of stream()) feeds.push(each);
  return () => feeds;
}
