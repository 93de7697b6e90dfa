/** Values inside a model, batch by batch: each is reduced at once, so that memory is one batch however many samples there are. */
import { availableParallelism } from "node:os";
import { dtypeBits } from "../base/dtype.ts";
import { PareError, throwIfAborted } from "../base/error.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { rowsOf } from "./arrays.ts";
import { exposeValues } from "./expose.ts";
import { type FeedStream, inputPorts } from "./feed-stream.ts";
import { openSession } from "./open-session.node.ts";
import { lookAhead } from "./prefetch.ts";
import { release } from "./release.node.ts";
import type { Reducer } from "./reducers.ts";
import type { Feeds, NdArray, Session, SessionOptions } from "./session.ts";

export type { FeedStream } from "./feed-stream.ts";
export type { Reducer } from "./reducers.ts";

export interface TapOptions extends SessionOptions {
  /**
   * Bytes of tapped values per run above which {@link tap} feeds a batch in smaller parts, and, where that is not possible
   * or not enough, the values are taken in several passes. Default 96 MiB; the engine computes the next run while one is
   * looked at, so that two are held (of a small model more, which share the bytes of two), and the engine's own memory comes on top.
   */
  readonly groupBytes?: number | undefined;
  /** Called after each batch. `passes` is known from the first batch on. */
  readonly onBatch?:
    | ((progress: { readonly pass: number; readonly passes: number; readonly batch: number }) => void)
    | undefined;
}

const GROUP_BYTES = 96 * 2 ** 20;
/** Bytes that the weights of all lanes together may take, and lanes at most: the one thread that looks at values keeps no more busy. */
const LANE_WEIGHTS = 256 * 2 ** 20;
const MOST_LANES = 8;
/** Guess for an axis whose size is not known before the first run. */
const UNKNOWN_SIZE = 64;

/**
 * Runs the data through the model and hands each batch of each value to its reducer. Values are inputs, initializers'
 * users' outputs, anything that the main graph computes, by name. Declared or inferred shapes make the grouping exact.
 * Returns the results by value name, in the order asked.
 */
export async function tap<T>(
  model: Model,
  names: readonly string[],
  stream: FeedStream,
  reducerFor: (name: string) => Reducer<T>,
  options: TapOptions = {},
): Promise<Map<string, T>> {
  const reducers = new Map(names.map((name) => [name, reducerFor(name)]));
  const parts = inParts(model, names, stream, perRun(options.groupBytes ?? GROUP_BYTES, lanesOf(model, options)));
  const reduce = (name: string, array: NdArray): void => reducers.get(name)?.add(array);
  await visitEach(model, names, parts, reduce, release, options);
  return new Map([...reducers].map(([name, reducer]) => [name, reducer.result()]));
}

/** {@link tap} with a function that sees every batch of every value instead of reducers; batches of one value come in order. */
export async function tapEach(
  model: Model,
  names: readonly string[],
  stream: FeedStream,
  visit: Visit,
  options: TapOptions = {},
): Promise<void> {
  await visitEach(model, names, stream, visit, () => {}, options);
}

type Visit = (name: string, array: NdArray, batch: number) => void | Promise<void>;

/** `done` takes what a run has given, once all of it has been seen. */
async function visitEach(
  model: Model,
  names: readonly string[],
  stream: FeedStream,
  visit: Visit,
  done: (arrays: Iterable<NdArray>) => void,
  options: TapOptions,
): Promise<void> {
  const { groupBytes = GROUP_BYTES, onBatch, ...sessionOptions } = options;
  const values = valuesByName(model);
  for (const name of names)
    if (!values.has(name)) throw new PareError("bad-option", `The model's main graph has no value '${name}'`);
  const most = lanesOf(model, options);
  let groups: string[][] | undefined;
  for (let pass = 0; groups === undefined || pass < groups.length; pass++) {
    throwIfAborted(options.signal);
    const { first, all } = await lookAhead(stream(), most);
    let batch = 0;
    let sessions: Session[] = [];
    /** Runs that the engine works on, in the order of their batches. */
    const running: { readonly results: Promise<Feeds>; readonly look: (results: Feeds) => Promise<void> }[] = [];
    const lookAtOldest = async (): Promise<void> => {
      const oldest = running.shift();
      await oldest?.look(await oldest.results);
    };
    try {
      for await (const feeds of all) {
        groups ??= groupValues(names, values, feeds, perRun(groupBytes, most));
        const [group, at, passes] = [groups[pass] ?? [], batch++, groups.length];
        // The engine refuses a model that computes nothing: inputs are taken as they are fed.
        if (sessions.length === 0 && group.some((name) => values.get(name)?.producer))
          sessions = await openTapped(exposeValues(model, group), first.length, sessionOptions);
        throwIfAborted(options.signal);
        const session = sessions[at % sessions.length];
        const fed = session?.inputs.map((port) => [port.name, feeds[port.name]] as const) ?? [];
        const results = session?.run(definedOnly(fed)) ?? Promise.resolve({});
        results.catch(() => undefined); // it is awaited below; until then it must not count as unhandled
        const look = async (found: Feeds): Promise<void> => {
          for (const name of group) {
            const array = found[name] ?? feeds[name];
            if (array) await visit(name, array, at);
          }
          done(Object.values(found));
          onBatch?.({ pass, passes, batch: at });
        };
        running.push({ results, look });
        // The engine works in its own threads: it computes these runs while an older one is looked at.
        if (running.length > Math.max(1, sessions.length)) await lookAtOldest();
      }
      while (running.length > 0) await lookAtOldest();
    } finally {
      await Promise.all(sessions.map((session) => session.close()));
    }
    groups ??= [];
    if (batch === 0) throw new PareError("bad-data", "There is not one sample to run through the model");
  }
}

/**
 * Runs that may be under way at once. Copying values out of the engine takes as long as computing them and one thread; sessions of one
 * thread each, on different batches, overlap that where one session of several threads waits for it. Each holds the weights.
 */
function lanesOf(
  model: Model,
  { provider = "cpu", threads, inProcess, profilePrefix, optimizedPath }: TapOptions,
): number {
  const alone = provider !== "cpu" || inProcess || profilePrefix !== undefined || optimizedPath !== undefined;
  if (alone) return 1;
  const affordable = Math.floor(LANE_WEIGHTS / Math.max(1, model.initializerBytes));
  return Math.max(1, Math.min(threadsOf(threads), MOST_LANES, affordable));
}

/** Threads of the engine: as many as cores where none are named. */
function threadsOf(threads: number | undefined): number {
  return threads || availableParallelism();
}

/** Bytes of tapped values per run where `lanes` runs are under way and one is looked at: together as many as of two lone ones. */
function perRun(groupBytes: number, lanes: number): number {
  return (2 * groupBytes) / (lanes + 1);
}

/** One session for each of `lanes`, which share the threads; a lone one has them all. */
function openTapped(exposed: Model, lanes: number, options: SessionOptions): Promise<Session[]> {
  const own = lanes > 1 ? { ...options, threads: Math.floor(threadsOf(options.threads) / lanes) } : options;
  return Promise.all(Array.from({ length: lanes }, () => openSession(exposed, own)));
}

/** The stream in runs whose tapped values fit the limit: a batch is cut along its first axis if the model takes any size. */
function inParts(model: Model, names: readonly string[], stream: FeedStream, limit: number): FeedStream {
  const ports = inputPorts(model);
  if (ports.some((port) => typeof port.shape[0] === "number" || port.shape.length === 0)) return stream;
  const values = valuesByName(model);
  const perRow = names.reduce((sum, name) => sum + bytesPerBatch(values.get(name), 1), 0);
  const rows = Math.max(1, Math.floor(limit / Math.max(1, perRow)));
  return async function* parts() {
    for await (const feeds of stream()) {
      const sizes = new Set(Object.values(feeds).map((array) => array.shape[0] ?? 0));
      const [size = 0] = sizes;
      if (size <= rows || sizes.size !== 1) yield feeds;
      else
        for (let from = 0; from < size; from += rows) {
          const part = Object.entries(feeds).map(
            ([name, array]) => [name, rowsOf(array, from, Math.min(size, from + rows))] as const,
          );
          yield Object.fromEntries(part);
        }
    }
  };
}

function definedOnly(entries: readonly (readonly [string, NdArray | undefined])[]): Feeds {
  const feeds: Record<string, NdArray> = {};
  for (const [name, array] of entries) if (array) feeds[name] = array;
  return feeds;
}

function valuesByName(model: Model): Map<string, Value> {
  return new Map([...model.graph.values()].map((value) => [value.name, value]));
}

/** Puts values into groups whose arrays fit `limit` bytes for a batch like `feeds`; one that is larger is alone. */
function groupValues(
  names: readonly string[],
  values: ReadonlyMap<string, Value>,
  feeds: Feeds,
  limit: number,
): string[][] {
  const rows = Object.values(feeds)[0]?.shape[0] ?? 1;
  const groups: string[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const name of names) {
    const size = bytesPerBatch(values.get(name), rows);
    if (bytes + size > limit) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1)?.push(name);
    bytes += size;
  }
  return groups;
}

/** Estimated bytes of a value in one batch of `rows` samples. */
function bytesPerBatch(value: Value | undefined, rows: number): number {
  const bytes = Math.max(1, dtypeBits(value?.dtype ?? "float32") / 8);
  const shape = value?.shape ?? [null, null, null];
  return shape.reduce<number>(
    (product, dim, axis) => product * (typeof dim === "number" ? dim : axis === 0 ? rows : UNKNOWN_SIZE),
    bytes,
  );
}
