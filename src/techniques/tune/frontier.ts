/** How far a model has been computed for the calibration samples: a cut through its graph whose values are remembered. */
import { inferShapes } from "../../analyse/shapes.ts";
import { dtypeBits } from "../../base/dtype.ts";
import { Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { specOf } from "../../ops/registry.ts";
import type { FeedStream } from "../../run/feed-stream.ts";
import type { Feeds, NdArray } from "../../run/session.ts";
import { cloneModel } from "../../ir/clone.ts";

/** Memory of the values of a cut; where they would take more, the cut stays where it is. */
const REMEMBERED_BYTES = 256 * 2 ** 20;

/** A run of the model's part behind the cut. */
export interface FrontierRun {
  /** The model, with the values of the cut as inputs. */
  readonly model: Model;
  readonly stream: FeedStream;
  /** Values to be fetched in every batch, and where to bring them; the cut moves when the run is over. */
  readonly fetch: readonly string[];
  fetched(arrays: Readonly<Record<string, NdArray>>, feeds: Feeds): void;
  advance(): void;
}

/**
 * Linear layers on the longest way to each value, its own producer included: a value of depth d depends on no layer of a
 * greater depth.
 */
export function layerDepths(model: Model): Map<Value, number> {
  const depth = new Map<Value, number>();
  for (const node of model.graph.nodes) {
    const linear = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits?.linear !== undefined;
    const before = Math.max(0, ...node.inputs.map((input) => (input && depth.get(input)) ?? 0));
    for (const output of node.outputs) depth.set(output, before + (linear ? 1 : 0));
  }
  return depth;
}

/** Remembers a cut in front of the layers that may still change, so that fitting all layers costs few passes, not one each. */
export class Frontier {
  readonly #stream: FeedStream;
  readonly #samples: number;
  #cut: readonly string[] | undefined;
  #batches: Feeds[] = [];

  constructor(stream: FeedStream, samples: number) {
    this.#stream = stream;
    this.#samples = samples;
  }

  /**
   * Prepares a run in which layers of depth `level` are looked at and may change afterwards. `later` are values that later
   * runs ask for. The names of the model's values must be the same in every run.
   */
  run(model: Model, level: number, later: ReadonlySet<string>): FrontierRun {
    const part = cloneModel(model);
    inferShapes(part);
    const next = cutBefore(part, level, later);
    const bytes = next?.reduce((sum, value) => sum + bytesOf(value, this.#samples), 0) ?? Number.POSITIVE_INFINITY;
    const moves = next !== undefined && bytes <= REMEMBERED_BYTES;
    const old = new Set(this.#cut ?? part.graph.inputs.filter(({ tensor }) => !tensor).map(({ name }) => name));
    if (this.#cut) feedValues(part, old);
    const names = moves ? next.map(({ name }) => name) : [];
    const collected: Feeds[] = [];
    const remembered = this.#batches;
    return {
      model: part,
      stream: this.#cut ? () => remembered : this.#stream,
      fetch: names.filter((name) => !old.has(name)),
      fetched: (arrays, feeds) => {
        if (!moves) return;
        const all = names.map((name) => [name, arrays[name] ?? feeds[name]] as const);
        collected.push(Object.fromEntries(all.filter((pair): pair is [string, NdArray] => pair[1] !== undefined)));
      },
      advance: () => {
        if (moves) [this.#cut, this.#batches] = [names, collected];
      },
    };
  }
}

/** What nodes of depth `level` and more, and later runs, read of what lies before; undefined where that is not known. */
function cutBefore(model: Model, level: number, later: ReadonlySet<string>): Value[] | undefined {
  const depth = layerDepths(model);
  const { graph } = model;
  const before = (value: Value): boolean => (depth.get(value) ?? 0) < level && !value.tensor;
  const cut = new Set<Value>();
  for (const node of graph.nodes) {
    if (node.subgraphs().next().done !== true) return undefined; // what a subgraph captures is not among its inputs
    if (node.outputs.some((output) => !before(output)))
      for (const input of node.inputs) if (input && before(input)) cut.add(input);
    for (const output of node.outputs) if (later.has(output.name) && before(output)) cut.add(output);
  }
  // Constants that nodes compute at load are no part of a sample.
  const found = [...cut].filter((value) => dependsOnSamples(value));
  return found.every((value) => value.dtype !== undefined && dtypeBits(value.dtype) >= 8) ? found : undefined;
}

function dependsOnSamples(value: Value, seen = new Set<Value>()): boolean {
  if (value.tensor || seen.has(value)) return false;
  seen.add(value);
  if (!value.producer) return true;
  return value.producer.inputs.some((input) => input !== undefined && dependsOnSamples(input, seen));
}

/** Bytes of a value for so many samples; an axis of unknown size is the samples' or one. */
function bytesOf(value: Value, samples: number): number {
  const sizes = (value.shape ?? []).map((dim, axis) =>
    typeof dim === "number" && axis > 0 ? dim : axis === 0 ? samples : 1,
  );
  return sizes.reduce((product, size) => product * size, dtypeBits(value.dtype ?? "float32") / 8);
}

/** Makes inner values inputs of the graph. What only they needed is left for the caller to drop. */
function feedValues(model: Model, names: ReadonlySet<string>): void {
  const { graph } = model;
  for (const node of graph.nodes)
    for (const [index, value] of node.outputs.entries()) {
      if (!names.has(value.name)) continue;
      const unread = new Value(graph.uniqueName(`${value.name}_before`), value.dtype, value.shape);
      unread.producer = node;
      node.outputs[index] = unread;
      value.producer = undefined;
      graph.inputs.push(value);
    }
}
