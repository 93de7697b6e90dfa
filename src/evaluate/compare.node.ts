/** Runs two models side by side on the same inputs and says where the error enters, layer by layer; memory is a few batches. */
import { dtypeBits } from "../base/dtype.ts";
import { PareError, throwIfAborted } from "../base/error.ts";
import { formatShape } from "../base/shape.ts";
import { inferShapes } from "../analyse/shapes.ts";
import type { Dataset } from "../data/dataset.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Value } from "../ir/graph.ts";
import { loadFile } from "../ir/load.node.ts";
import type { Model } from "../ir/model.ts";
import { asNumbers, convertArray } from "../run/arrays.ts";
import { exposeValues } from "../run/expose.ts";
import { dropPadding, type FeedChunk, feedChunks } from "../run/feeds.ts";
import { openSession } from "../run/open-session.node.ts";
import type { Feeds, NdArray, Port, Session, SessionOptions } from "../run/session.ts";
import { indexRanges, syntheticFeeds } from "../run/synthetic.ts";
import { type Comparison, ErrorSums, type ValueComparison, type ValueError } from "./compare.ts";
import { cutLayers, dropUnreadInputs } from "./cut-layers.ts";
import { type ValuePair, matchValues } from "./match-values.ts";

export interface CompareOptions extends SessionOptions {
  /** Real inputs; without them seeded synthetic ones. */
  readonly data?: Dataset | undefined;
  /** Samples to compare on. Default 32. */
  readonly samples?: number | undefined;
  readonly seed?: number | undefined;
  /** Samples in one run. Default 8. */
  readonly batch?: number | undefined;
  /** Also measure what each layer adds when fed the reference's values. Default true. */
  readonly local?: boolean | undefined;
  /** Bytes of inner values of one run that are held at once; more values are compared in several passes. Default 192 MiB. */
  readonly groupBytes?: number | undefined;
  readonly onProgress?:
    | ((progress: { readonly stage: string; readonly done: number; readonly total: number }) => void)
    | undefined;
}

const GROUP_BYTES = 192 * 2 ** 20;
/** Size of an axis that inference could not tell. */
const UNKNOWN_SIZE = 64;

/**
 * Compares every value that both models compute, and their outputs, on the same samples. Models may be files. Values are paired by
 * name, node or place (`matchValues`). `accumulated` runs the whole candidate; `local` cuts it at every pair and feeds the reference's
 * values in. Errors: `shape-mismatch` when the models' inputs differ, `engine`, `bad-data`.
 */
export async function compareModels(
  reference: Model | string,
  candidate: Model | string,
  options: CompareOptions = {},
): Promise<Comparison> {
  const before = await typed(reference);
  const after = await typed(candidate);
  checkPorts(before, after);
  const { data, local = true } = options;
  const samples = Math.min(options.samples ?? 32, data?.size ?? Number.POSITIVE_INFINITY);
  const { pairs, unmatched } = matchValues(before, after);
  const run = new Comparer(before, after, options, samples);
  const resolved = await run.resolve(pairs);
  const sums = new Map<string, { accumulated: ErrorSums; local: ErrorSums | undefined }>();
  const groups = groupPairs(resolved, options.batch ?? 8, options.groupBytes ?? GROUP_BYTES);
  for (const [index, group] of groups.entries())
    await run.group(group, local ? resolved : [], sums, (share) =>
      options.onProgress?.({ stage: "comparing layers", done: index + share, total: groups.length + 1 }),
    );
  const outputs = await run.outputs();
  options.onProgress?.({ stage: "comparing layers", done: groups.length + 1, total: groups.length + 1 });

  const order = new Map<Value, number>();
  for (const node of before.graph.nodes) for (const value of node.outputs) order.set(value, order.size);
  const values = resolved.flatMap((pair): ValueComparison[] => {
    const sum = sums.get(pair.reference.name);
    if (!sum) return [];
    const [first] = pair.chain;
    return [
      {
        index: order.get(pair.reference) ?? 0,
        name: pair.reference.name,
        candidateName: pair.candidate.name,
        node: first?.producer?.name || pair.reference.name,
        op: pair.chain.map((value) => value.producer?.opType ?? "").join("+"),
        matchedBy: pair.fused ? "fused" : pair.by,
        accumulated: sum.accumulated.result,
        local: sum.local?.result,
      },
    ];
  });
  const shown = new Set(values.map(({ name }) => name));
  const folded = pairs
    .filter(({ reference }) => !shown.has(reference.name) && !unmatched.some(({ value }) => value === reference))
    .map(({ reference }) => ({ value: reference, why: "folded into the operators after it" }));
  return {
    samples: run.samplesSeen,
    inputs: data ? "data" : "synthetic",
    values: values.sort((a, b) => a.index - b.index),
    outputs,
    unmatched: [...unmatched, ...folded]
      .filter(({ value }) => !shown.has(value.name))
      .map(({ value, why }) => ({ name: value.name, op: value.producer?.opType ?? "", why })),
  };
}

/** Two models made ready to be compared, and the values that both compute. */
export interface PairedModels {
  readonly before: Model;
  readonly after: Model;
  readonly pairs: readonly ResolvedPair[];
}

/** Pairs the values of two models as {@link compareModels} does. The models that are returned are copies. */
export async function pairModels(
  reference: Model | string,
  candidate: Model | string,
  options: CompareOptions = {},
): Promise<PairedModels> {
  const before = await typed(reference);
  const after = await typed(candidate);
  checkPorts(before, after);
  const pairs = await new Comparer(before, after, options, 1).resolve(matchValues(before, after).pairs);
  return { before, after, pairs };
}

export interface ResolvedPair extends ValuePair {
  readonly fused: boolean;
  /** The reference's values from the one that was paired to the one that it stands for: more than one where operators were folded. */
  readonly chain: readonly Value[];
}

/** A copy with types and shapes, so that the caller's model stays as it is. */
async function typed(model: Model | string): Promise<Model> {
  const copy = typeof model === "string" ? await loadFile(model) : cloneModel(model);
  inferShapes(copy);
  return copy;
}

function checkPorts(before: Model, after: Model): void {
  const describe = (model: Model): string =>
    fedInputs(model)
      .map((value) => `${value.name} ${formatShape(value.shape)}`)
      .join(", ");
  if (fedInputs(before).length !== fedInputs(after).length)
    throw new PareError("shape-mismatch", "The models have different inputs and cannot be compared", {
      found: describe(after),
      expected: describe(before),
      help: "Compare a model with one that was made from it",
    });
}

function fedInputs(model: Model): Value[] {
  return model.graph.inputs.filter((value) => !model.graph.initializers.has(value.name));
}

/** Pairs in order, in groups whose values of one run take at most `limit` bytes (three copies of each are held). */
function groupPairs(pairs: readonly ResolvedPair[], rows: number, limit: number): ResolvedPair[][] {
  const groups: ResolvedPair[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const pair of pairs) {
    const { shape, dtype } = pair.reference;
    const size = (shape ?? [null, null]).reduce<number>(
      (product, dim, axis) => product * (typeof dim === "number" ? dim : axis === 0 ? rows : UNKNOWN_SIZE),
      (3 * dtypeBits(dtype ?? "float32")) / 8,
    );
    if (bytes + size > limit) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1)?.push(pair);
    bytes += size;
  }
  return groups;
}

/** The two models, the samples, and the sessions over parts of them. */
class Comparer {
  samplesSeen = 0;
  readonly #before: Model;
  readonly #after: Model;
  readonly #options: CompareOptions;
  readonly #samples: number;
  readonly #session: SessionOptions;

  constructor(before: Model, after: Model, options: CompareOptions, samples: number) {
    this.#before = before;
    this.#after = after;
    this.#options = options;
    this.#samples = samples;
    const { provider, threads, signal, inProcess } = options;
    this.#session = { provider, threads, signal, inProcess };
  }

  /** Runs of the reference's inputs, from the data set or synthetic. */
  async *#chunks(limit = this.#samples): AsyncGenerator<FeedChunk> {
    const { data, seed, batch = 8, signal } = this.#options;
    const ports: Port[] = fedInputs(this.#before).map((value) => ({
      name: value.name,
      dtype: value.dtype ?? "float32",
      shape: value.shape ?? [],
    }));
    if (data) {
      for await (const part of data.batches({ size: Math.min(batch, limit), limit, seed, signal }))
        yield* feedChunks(ports, part);
      return;
    }
    // One sample per run: of a symbolic axis only the model knows whether it is the batch.
    const ranges = indexRanges(this.#before);
    for (let start = 0; start < limit; start++)
      yield { feeds: syntheticFeeds(ports, { seed: (seed ?? 1) + start, ranges }), size: 1, start };
  }

  /** The reference's feeds as a session over (part of) either model wants them: same order, its names and types. */
  #feedsFor(session: Session, feeds: Feeds, owner: Model): Feeds {
    const names = fedInputs(this.#before).map((value) => value.name);
    const own = fedInputs(owner).map((value) => value.name);
    const out: Record<string, NdArray> = {};
    for (const port of session.inputs) {
      const array = feeds[port.name] ?? feeds[names[own.indexOf(port.name)] ?? ""];
      if (array) out[port.name] = convertArray(array, port.dtype);
    }
    return out;
  }

  /** Decides, on the first sample, which of its alternatives each candidate's value stands for. */
  async resolve(pairs: readonly ValuePair[]): Promise<ResolvedPair[]> {
    const open = pairs.filter(({ alternatives }) => alternatives.length > 0);
    const plain = (pair: ValuePair): ResolvedPair => ({
      ...pair,
      fused: false,
      chain: [pair.reference],
    });
    if (open.length === 0) return pairs.map(plain);
    const names = new Set(open.flatMap((pair) => [pair.reference, ...pair.alternatives]).map((value) => value.name));
    const before = await openSession(dropUnreadInputs(exposeValues(this.#before, [...names])), this.#session);
    try {
      const after = await openSession(
        dropUnreadInputs(
          exposeValues(
            this.#after,
            open.map(({ candidate }) => candidate.name),
          ),
        ),
        this.#session,
      );
      try {
        for await (const { feeds } of this.#chunks(1)) {
          const wanted = await before.run(this.#feedsFor(before, feeds, this.#before));
          const found = await after.run(this.#feedsFor(after, feeds, this.#after));
          return pairs.map((pair) => closest(pair, wanted, found));
        }
      } finally {
        await after.close();
      }
    } finally {
      await before.close();
    }
    return pairs.map(plain);
  }

  /** Adds the errors of one group of pairs over all samples. The candidate is cut at `cuts`, of other groups too, for local errors. */
  async group(
    pairs: readonly ResolvedPair[],
    cuts: readonly ResolvedPair[],
    sums: Map<string, { accumulated: ErrorSums; local: ErrorSums | undefined }>,
    onShare: (share: number) => void,
  ): Promise<void> {
    const opened: Session[] = [];
    const open = async (model: Model): Promise<Session> => {
      const session = await openSession(dropUnreadInputs(model), this.#session);
      opened.push(session);
      return session;
    };
    try {
      const targets = pairs.map(({ candidate }) => candidate.name);
      const after = await open(exposeValues(this.#after, targets));
      const cut = cuts.length > 0 ? await this.#cut(cuts, targets, open) : undefined;
      const needed = new Set([...pairs.map(({ reference }) => reference.name), ...(cut?.fed.keys() ?? [])]);
      const before = await open(exposeValues(this.#before, [...needed]));
      let seen = 0;
      for await (const chunk of this.#chunks()) {
        throwIfAborted(this.#options.signal);
        const wanted = await before.run(this.#feedsFor(before, chunk.feeds, this.#before));
        const found = await after.run(this.#feedsFor(after, chunk.feeds, this.#after));
        const alone = cut && (await cut.session.run(this.#cutFeeds(cut, chunk.feeds, wanted)));
        for (const pair of pairs) {
          const y = wanted[pair.reference.name];
          const z = found[pair.candidate.name];
          if (!y || !z || !sameSize(y, z)) continue;
          const sum = sums.get(pair.reference.name) ?? {
            accumulated: new ErrorSums(),
            local: alone && new ErrorSums(),
          };
          sums.set(pair.reference.name, sum);
          const truth = asNumbers(dropPadding(y, chunk));
          sum.accumulated.add(truth, asNumbers(dropPadding(z, chunk)));
          const own = alone?.[pair.candidate.name];
          if (own && sum.local && sameSize(y, own)) sum.local.add(truth, asNumbers(dropPadding(own, chunk)));
        }
        seen += chunk.size;
        onShare(seen / this.#samples);
      }
      this.samplesSeen = seen;
    } finally {
      for (const session of opened) await session.close();
    }
  }

  /** The candidate cut at every pair; undefined where the engine refuses the cut model (then only accumulated errors are known). */
  async #cut(
    cuts: readonly ResolvedPair[],
    targets: readonly string[],
    open: (model: Model) => Promise<Session>,
  ): Promise<Cut | undefined> {
    const referenceOf = new Map(cuts.map((pair) => [pair.candidate.name, pair.reference.name]));
    const { model, inputs } = cutLayers(this.#after, [...referenceOf.keys()], targets);
    try {
      const session = await open(model);
      const fed = new Map<string, string>();
      for (const [value, input] of inputs) fed.set(referenceOf.get(value) ?? value, input);
      return { session, fed };
    } catch (error) {
      if (error instanceof PareError && error.code === "engine") return undefined;
      throw error;
    }
  }

  #cutFeeds(cut: Cut, feeds: Feeds, wanted: Readonly<Record<string, NdArray>>): Feeds {
    const out: Record<string, NdArray> = { ...this.#feedsFor(cut.session, feeds, this.#after) };
    const ports = new Map(cut.session.inputs.map((port) => [port.name, port]));
    for (const [name, input] of cut.fed) {
      const array = wanted[name];
      const port = ports.get(input);
      if (array && port) out[input] = convertArray(array, port.dtype);
    }
    return out;
  }

  /** Errors of the models' outputs, in order. */
  async outputs(): Promise<(ValueError & { readonly name: string })[]> {
    const before = await openSession(this.#before, this.#session);
    try {
      const after = await openSession(this.#after, this.#session);
      try {
        const sums = before.outputs.map(() => new ErrorSums());
        let seen = 0;
        for await (const chunk of this.#chunks()) {
          throwIfAborted(this.#options.signal);
          const wanted = await before.run(this.#feedsFor(before, chunk.feeds, this.#before));
          const found = await after.run(this.#feedsFor(after, chunk.feeds, this.#after));
          for (const [index, port] of before.outputs.entries()) {
            const y = wanted[port.name];
            const z = found[port.name] ?? found[after.outputs[index]?.name ?? ""];
            if (y && z && y.dtype !== "string" && sameSize(y, z))
              sums[index]?.add(asNumbers(dropPadding(y, chunk)), asNumbers(dropPadding(z, chunk)));
          }
          seen += chunk.size;
        }
        this.samplesSeen = seen;
        return before.outputs.map(({ name }, index) => ({ name, ...(sums[index] as ErrorSums).result }));
      } finally {
        await after.close();
      }
    } finally {
      await before.close();
    }
  }
}

interface Cut {
  readonly session: Session;
  /** Input of the cut model by the name of the reference's value that is fed to it. */
  readonly fed: ReadonlyMap<string, string>;
}

function sameSize(a: NdArray, b: NdArray): boolean {
  return (
    a.data.length > 0 && a.shape.length === b.shape.length && a.shape.every((size, axis) => size === b.shape[axis])
  );
}

/** The alternative nearest to the candidate's value; the name wins a tie. */
function closest(
  pair: ValuePair,
  wanted: Readonly<Record<string, NdArray>>,
  found: Readonly<Record<string, NdArray>>,
): ResolvedPair {
  const z = found[pair.candidate.name];
  let best: { value: Value; error: number } | undefined;
  for (const value of pair.alternatives.length > 0 && z ? [pair.reference, ...pair.alternatives] : []) {
    const y = wanted[value.name];
    if (!y || !z || !sameSize(y, z)) continue;
    const sums = new ErrorSums();
    sums.add(asNumbers(y), asNumbers(z));
    if (!best || sums.relativeError < best.error) best = { value, error: sums.relativeError };
  }
  const value = best?.value ?? pair.reference;
  const steps = [pair.reference, ...pair.alternatives];
  const chain = steps.slice(0, steps.indexOf(value) + 1);
  return { ...pair, reference: value, fused: chain.length > 1, chain };
}
