/** Tries a half-precision model on the engine: which nodes it refuses, whether outputs stay finite, how large values get. */
import { PareError, messageOf } from "../../base/error.ts";
import type { Node } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { convertArray } from "../../run/arrays.ts";
import { nodeOfMessage } from "../../run/engine-error.ts";
import type { Feeds, Session } from "../../run/session.ts";
import { engine } from "../engine.ts";
import { sampleFeeds } from "../samples.ts";
import type { Context } from "../technique.ts";

/** Samples that ranges and finiteness are judged on. */
const SAMPLES = 8;
/** Models with more weight bytes than this are not run for a look at their ranges. */
const LARGEST_PROBED_BYTES = 2 ** 30;
/** Largest magnitude that a value may have in float16, tried one after the other: the first has a margin of two. */
const LIMITS = [32752, 4096, 512];

export interface RangeIslands {
  /** Largest magnitude among the values that a node reads or writes. */
  readonly nodes: ReadonlyMap<Node, number>;
  /** Limits worth trying, largest first; empty when nothing was measured. */
  readonly limits: readonly number[];
}

/** Measures the values of the main graph in float32. */
export async function measureIslands(model: Model, context: Context): Promise<RangeIslands> {
  const nodes = new Map<Node, number>();
  if (model.initializerBytes > LARGEST_PROBED_BYTES) {
    context.journal.note("Ranges were not measured: the model is larger than 1 GiB.");
    return { nodes, limits: [] };
  }
  try {
    const { tap } = await engine();
    const feeds = await sampleFeeds(model, context, SAMPLES);
    const values = model.graph.nodes.flatMap((node) => node.outputs).filter((value) => value.dtype === "float32");
    const largest = await tap(
      model,
      values.map((value) => value.name),
      () => feeds,
      () => {
        let most = 0;
        return {
          add({ data }) {
            if (!(data instanceof Float32Array)) return;
            for (const element of data)
              if (Math.abs(element) > most && Number.isFinite(element)) most = Math.abs(element);
          },
          result: () => most,
        };
      },
      { threads: context.threads, signal: context.signal },
    );
    for (const value of values)
      for (const node of [value.producer, ...value.uses.map((use) => use.node)])
        if (node) nodes.set(node, Math.max(nodes.get(node) ?? 0, largest.get(value.name) ?? 0));
    return { nodes, limits: LIMITS };
  } catch (error) {
    if (error instanceof PareError && error.code === "aborted") throw error;
    context.journal.note(`Ranges were not measured: ${messageOf(error)}`);
    return { nodes, limits: [] };
  }
}

export type Outcome =
  | { readonly kind: "good" }
  | { readonly kind: "refused"; readonly node: string | undefined; readonly error: unknown }
  | { readonly kind: "not-finite" };

/** Opens the converted model and runs it beside the original. */
export async function probe(original: Model, converted: Model, context: Context): Promise<Outcome> {
  const { openSession } = await engine();
  let session: Session;
  try {
    session = await openSession(converted, { threads: context.threads, signal: context.signal });
  } catch (error) {
    if (error instanceof PareError && error.code === "aborted") throw error;
    const cause = error instanceof PareError ? error.cause : error;
    return { kind: "refused", node: nodeOfMessage(messageOf(cause ?? error)).node, error };
  }
  let reference: Session | undefined;
  try {
    reference = await openSession(original, { threads: context.threads, signal: context.signal });
    for (const feeds of await sampleFeeds(original, context, SAMPLES)) {
      let expected: Record<string, { data: unknown }>;
      try {
        expected = await reference.run(feeds);
      } catch {
        return { kind: "good" }; // the samples do not fit the original either: nothing to compare
      }
      const got = await session.run(halfFeeds(feeds, session));
      for (const [name, { data }] of Object.entries(expected))
        if (isFiniteArray(data) && !isFiniteArray(got[name]?.data)) return { kind: "not-finite" };
    }
    return { kind: "good" };
  } finally {
    await session.close();
    await reference?.close();
  }
}

function isFiniteArray(data: unknown): boolean {
  if (!(data instanceof Float32Array))
    return !(data instanceof Uint16Array) || data.every((bits) => (bits & 0x7c00) !== 0x7c00);
  return data.every((element) => Number.isFinite(element));
}

/** Feeds in the dtypes that the converted model declares. */
function halfFeeds(feeds: Feeds, session: Session): Feeds {
  const dtypes = new Map(session.inputs.map((port) => [port.name, port.dtype]));
  return Object.fromEntries(
    Object.entries(feeds).map(([name, array]) => {
      const wanted = dtypes.get(name);
      return [name, wanted && wanted !== array.dtype ? convertArray(array, wanted) : array];
    }),
  );
}
