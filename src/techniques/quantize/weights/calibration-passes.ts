/** Second moments of the layers' inputs, pass after pass of the samples: each pass begins where the last layers that changed are. */
import { cloneModel } from "../../../ir/clone.ts";
import type { Model } from "../../../ir/model.ts";
import { type Gram, type GramRequest, gram } from "../../../run/gram.ts";
import type { SessionOptions } from "../../../run/session.ts";
import { convertOpset } from "../../../transform/opset.ts";
import type { WeightSite, WeightUse } from "../../../transform/weight-sites.ts";
import type { Calibration } from "../../calibration.ts";
import { engine } from "../../engine.ts";
import { Frontier } from "../../tune/frontier.ts";

/** A layer whose inputs are looked at. */
export interface CountedLayer {
  readonly uses: readonly WeightUse[];
  /** Linear layers on the longest way to its output, itself included. */
  readonly level: number;
  /** Matrices in the weight: groups of a convolution. */
  readonly groups: number;
  /** Inputs of each. */
  readonly k: number;
}

export interface PassOptions {
  /** Samples of the calibration. */
  readonly samples: number;
  /** Passes at most, but for what the memory wants. */
  readonly passes: number;
  /** Between passes, operators right before the layers change too: those that take the scales of inputs over. */
  readonly scales: boolean;
  readonly session: SessionOptions;
}

/** XᵀX needs reductions that take their axes as inputs; and the memory of all XᵀX of one pass. */
const COUNTING_OPSET = 13;
const CONVERTED_OPSET = 18;
const GRAM_BYTES = 1 << 30;

/** Why the inputs of a weight's layers cannot be looked at; undefined if they can. */
export function whyNoInputs(site: WeightSite): string | undefined {
  if (site.otherUses.length > 0) return "it is not only a weight";
  for (const { node, spec, input } of site.uses) {
    const kind = spec.traits?.linear;
    if (spec.traits?.lookup) return "rows of it are looked up";
    if (kind !== "matmul" && kind !== "gemm" && kind !== "conv")
      return `nothing is known of the inputs of ${node.opType}`;
    if (kind !== "conv" && (input !== 1 || site.tensor.shape.length !== 2)) return "it is not a matrix on the right";
    if (kind === "gemm" && node.int("transA", 0) !== 0) return "its input is transposed";
    if (node.graph?.parent) return "it is inside of a subgraph";
  }
  return undefined;
}

/** Runs the samples through a model that is being quantized, as often as its layers need it. */
export class PassCounter<L extends CountedLayer> {
  /** The layers of each pass. */
  readonly passes: readonly (readonly L[])[];
  readonly #model: Model;
  readonly #stream: Calibration["stream"];
  readonly #frontier: Frontier;
  readonly #options: PassOptions;
  #done = 0;

  constructor(model: Model, { stream }: Calibration, layers: readonly L[], options: PassOptions) {
    this.#model = model;
    this.#stream = stream;
    this.#frontier = new Frontier(stream, options.samples);
    this.#options = options;
    this.passes = passesOf(layers, options.passes);
  }

  /** Leaves the next pass out: its layers are known. */
  skip(): Map<string, Gram> {
    this.#done++;
    return new Map();
  }

  /** XᵀX of every use of the weights of the next pass, by the key of its request. */
  async next(): Promise<Map<string, Gram>> {
    const { openSession } = await engine();
    const [layers = [], ...rest] = this.passes.slice(this.#done++);
    const requests = new Map<string, GramRequest>();
    for (const { uses } of layers) for (const use of uses) requests.set(keyOf(use), requestOf(use));
    let model = this.#model;
    if (model.opset < COUNTING_OPSET) {
      model = cloneModel(model);
      convertOpset(model, CONVERTED_OPSET);
    }
    // What takes scales over stands behind the layers before
    const from = Math.min(...layers.map(({ level }) => level)) - (this.#options.scales ? 1 : 0);
    const later = new Set(
      [...layers, ...rest.flat()].flatMap(({ uses }) => uses.map(({ node }) => node.inputs[0]?.name ?? "")),
    );
    // Before the first layers nothing is worth remembering
    const run = from > 0 ? this.#frontier.run(model, from, later) : undefined;
    const sums = await gram(run?.model ?? model, [...requests.values()], run?.stream ?? this.#stream, openSession, {
      ...this.#options.session,
      ...(run && { fetch: run.fetch, onBatch: run.fetched }),
    });
    run?.advance();
    return new Map([...requests.keys()].map((key, i) => [key, sums[i] as Gram]));
  }
}

function requestOf({ node, spec }: WeightUse): GramRequest {
  return spec.traits?.linear === "conv" ? { conv: node.name } : { value: node.inputs[0]?.name ?? "" };
}

function keyOf(use: WeightUse): string {
  return JSON.stringify(requestOf(use));
}

/** XᵀX for each group of a layer, summed over all uses of its weight. */
export function momentsOf({ uses }: CountedLayer, grams: ReadonlyMap<string, Gram>): Float64Array[] {
  const [first, ...rest] = uses.map((use) => grams.get(keyOf(use)) as Gram);
  if (rest.length === 0) return [...(first?.matrices ?? [])];
  return (first?.matrices ?? []).map((matrix, g) =>
    matrix.map((sum, at) => rest.reduce((total, { matrices }) => total + (matrices[g]?.[at] ?? 0), sum)),
  );
}

/** Layers in levels' order, as many levels together as the number of passes wants, as few as the memory allows. */
function passesOf<L extends CountedLayer>(layers: readonly L[], most: number): L[][] {
  const levels = [...new Set(layers.map(({ level }) => level))].sort((a, b) => a - b);
  const perPass = Math.ceil(levels.length / Math.max(1, most));
  const passes: L[][] = [];
  for (let from = 0; from < levels.length; from += perPass) {
    const own = new Set(levels.slice(from, from + perPass));
    let pass: L[] = [];
    let bytes = 0;
    const counted = new Set<string>();
    for (const readers of byInput(layers.filter(({ level }) => own.has(level)))) {
      const keys = new Set(readers.flatMap(({ uses }) => uses.map(keyOf)));
      const needed =
        [...keys].filter((key) => !counted.has(key)).length * (readers[0]?.groups ?? 1) * 8 * (readers[0]?.k ?? 0) ** 2;
      if (pass.length > 0 && bytes + needed > GRAM_BYTES) {
        passes.push(pass);
        [pass, bytes] = [[], 0];
        counted.clear();
      }
      pass.push(...readers);
      bytes += needed;
      for (const key of keys) counted.add(key);
    }
    if (pass.length > 0) passes.push(pass);
  }
  return passes;
}

/** Layers that read the same value, together. */
export function byInput<L extends CountedLayer>(layers: readonly L[]): L[][] {
  const groups = new Map<string, L[]>();
  for (const layer of layers) {
    const key = layer.uses.map(keyOf).join();
    groups.set(key, [...(groups.get(key) ?? []), layer]);
  }
  return [...groups.values()];
}
