/**
 * How much each layer suffers in each number format: the model with that one layer changed, judged on the same samples.
 *
 * Every variant is a model as it would be saved, opened in a session of its own: with one session whose weights are inputs a run
 * takes three times as long, because the engine packs constant weights when it opens a model and fed ones at every run.
 */
import { PareError, throwIfAborted } from "../../base/error.ts";
import type { LineStore } from "../../base/line-store.ts";
import { VERSION } from "../../base/version.ts";
import { Probe, type ProbeScore } from "../../evaluate/probe.ts";
import { cloneModel } from "../../ir/clone.ts";
import { fingerprintData } from "../../data/fingerprint.ts";
import { fingerprint } from "../../ir/fingerprint.ts";
import type { Model } from "../../ir/model.ts";
import { contentHash } from "../../kernels/content-hash.ts";
import { engine } from "../engine.ts";
import { keepOf } from "../keep-option.ts";
import { prepareConstants } from "../prepare.ts";
import { sourceOf } from "../probe-source.ts";
import type { Context } from "../technique.ts";
import { type CellFormat, type MixLayer, type VariantCost, VariantMaker, mixLayers } from "./variant.ts";

export interface SensitivityOptions {
  /** Formats to try in each layer; `float` costs nothing. */
  readonly formats: readonly CellFormat[];
  /** Options of `quantize-weights` for all of them (method, block, symmetric, …). */
  readonly weights?: Readonly<Record<string, unknown>> | undefined;
  /** Layers that are not tried. */
  readonly keep?: readonly string[] | undefined;
  /** Smaller weights are not tried; default 256. */
  readonly minElements?: number | undefined;
  /** Samples to judge on; default 256. */
  readonly samples?: number | undefined;
  readonly batch?: number | undefined;
  /** Tokens of each text that a language model writes itself where there are no data; default 64. */
  readonly length?: number | undefined;
  /** Further task metrics. */
  readonly metrics?: readonly string[] | undefined;
  /** Keep what was measured between runs; default true. */
  readonly cache?: boolean | undefined;
}

/** One layer in one format. */
export interface Cell {
  readonly layer: string;
  readonly format: CellFormat;
  readonly cost: VariantCost;
  readonly score: ProbeScore;
}

export interface Sensitivities {
  readonly layers: readonly MixLayer[];
  readonly formats: readonly CellFormat[];
  readonly cells: readonly Cell[];
  /** Layers that cannot be stored in a format, with the reason. */
  readonly refused: readonly { readonly layer: string; readonly format: CellFormat; readonly why: string }[];
  /** Measures that every cell has: task metrics, `kl`, `noise`. */
  readonly measures: readonly string[];
  /** The one that counts unless another is asked for. */
  readonly measure: string;
  /** Task metrics of the original. */
  readonly baseline: Readonly<Record<string, number>>;
  readonly baseBytes: number;
  readonly baseBops: number;
  readonly samples: number;
  readonly on: string;
  /** Cells that an earlier run had measured. */
  readonly fromCache: number;
}

/** A session's work: the model made ready, its layers, and the judge of its variants. */
export interface Bench {
  readonly base: Model;
  readonly layers: readonly MixLayer[];
  readonly maker: VariantMaker;
  readonly probe: Probe;
  /** What variants are judged on, for people. */
  readonly on: string;
  close(): Promise<void>;
}

/** The original's answers, to judge variants by. Close it when done. */
export async function openBench(model: Model, options: SensitivityOptions, context: Context): Promise<Bench> {
  const base = cloneModel(model);
  prepareConstants(base, context.journal);
  const keep = keepOf(options.keep ?? [], base, context.journal);
  const layers = mixLayers(
    base,
    ({ value, tensor, uses }) =>
      tensor.elements < (options.minElements ?? 256) || keep.value(value) || uses.some(({ node }) => keep.node(node)),
  );
  if (layers.length === 0)
    throw new PareError("bad-model", "The model has no float weights whose format could be chosen", {
      help: "Name a model that is not quantized yet; 'pare inspect' lists its layers",
    });
  const { source, on } = await sourceOf(base, options, context);
  const { openSession } = await engine();
  const { seed, provider, threads, signal } = context;
  const { samples, batch, metrics } = options;
  const probe = await Probe.open(
    base,
    source,
    { seed, provider, threads, signal, samples, batch, metrics },
    openSession,
  );
  const maker = new VariantMaker(base, layers, options.weights ?? {}, context);
  return { base, layers, maker, probe, on, close: () => probe.close() };
}

/** Measures every layer in every format, or takes it from an earlier run. Errors: `bad-model` without layers, `bad-data`, `engine`. */
export async function measureSensitivities(
  bench: Bench,
  options: SensitivityOptions,
  context: Context,
): Promise<Sensitivities> {
  const { layers, maker, probe } = bench;
  const formats = options.formats.filter((format) => format !== "float");
  if (formats.includes("w8a8") && !context.data)
    throw new PareError("bad-option", "The ranges of activations are measured on samples", {
      where: "format 'w8a8'",
      help: "Name a data set with --data, or leave the format out",
    });
  const store = options.cache === false ? undefined : await storeOf(bench, options, context);
  const known = store ? await knownCells(store) : new Map<string, Kept>();
  const cells: Cell[] = [];
  const refused: { layer: string; format: CellFormat; why: string }[] = [];
  let fromCache = 0;
  let done = 0;
  for (const format of formats)
    for (const { name: layer } of layers) {
      throwIfAborted(context.signal);
      context.onProgress({ stage: "sensitivity", done: done++, total: formats.length * layers.length });
      let kept = known.get(`${format} ${layer}`);
      if (kept) fromCache++;
      else {
        kept = await measureCell(maker, probe, layer, format);
        await store?.append(keptText(kept));
      }
      const { why, cost, score } = kept;
      if (cost && score) cells.push({ layer, format, cost, score });
      else refused.push({ layer, format, why: why ?? "" });
    }
  const [first] = cells;
  const measures = Object.keys(first?.score.damages ?? {});
  return {
    layers,
    formats,
    cells,
    refused,
    measures,
    measure: usualMeasure(measures),
    baseline: probe.baseline,
    baseBytes: maker.baseBytes,
    baseBops: maker.baseBops,
    samples: probe.samples,
    on: bench.on,
    fromCache,
  };
}

/** The task's loss where there are labels (accuracy moves in steps of one sample), else the divergence of scores, else noise. */
export function usualMeasure(measures: readonly string[]): string {
  return ["loss", "mse", "kl"].find((name) => measures.includes(name)) ?? "noise";
}

/** The measure of that name. Throws `bad-option` naming those there are. */
export function measureNamed(name: string | undefined, found: Pick<Sensitivities, "measure" | "measures">): string {
  if (name === undefined || name === "auto") return found.measure;
  if (found.measures.includes(name)) return name;
  throw new PareError("bad-option", "This measure is not known here", {
    where: "option 'by'",
    found: name,
    expected: `one of ${found.measures.join(", ")}`,
    help: "Task metrics need labelled samples",
  });
}

/** What a cell does to the model by a measure; never less than nothing, for what rounding wins is won by chance. */
export function damageOf(cell: Cell, measure: string): number {
  return Math.max(0, cell.score.damages[measure]?.value ?? Number.POSITIVE_INFINITY);
}

/** A cell as it is kept. */
interface Kept {
  readonly layer: string;
  readonly format: CellFormat;
  readonly cost?: VariantCost;
  readonly score?: ProbeScore;
  readonly why?: string;
}

async function measureCell(maker: VariantMaker, probe: Probe, layer: string, format: CellFormat): Promise<Kept> {
  const variant = await maker.make(new Map([[layer, format]]));
  if (typeof variant === "string") return { layer, format, why: variant };
  try {
    return { layer, format, cost: variant.cost, score: await probe.judge(variant.model) };
  } catch (error) {
    if (!(error instanceof PareError) || error.code !== "engine") throw error;
    return { layer, format, why: `the engine refuses it: ${error.found ?? error.message}` };
  }
}

/** Cells of one model on one set of samples, judged and stored in one way, are kept together. */
async function storeOf(
  { base, probe }: Bench,
  options: SensitivityOptions,
  { provider, threads, seed, data }: Context,
): Promise<LineStore | undefined> {
  const { openLines } = await engine();
  const { weights, metrics } = options;
  const calibration = options.formats.includes("w8a8") ? [data && (await fingerprintData(data)), seed] : [];
  const key = JSON.stringify([
    VERSION,
    await fingerprint(base),
    probe.content,
    weights,
    metrics,
    provider,
    threads,
    ...calibration,
  ]);
  return openLines?.(`sensitivity/${await contentHash(new TextEncoder().encode(key))}`);
}

async function knownCells(store: LineStore): Promise<Map<string, Kept>> {
  const cells = new Map<string, Kept>();
  for (const line of await store.read()) {
    const kept = keptFrom(line);
    if (kept) cells.set(`${kept.format} ${kept.layer}`, kept);
  }
  return cells;
}

/** JSON has no infinities. */
function keptText(kept: Kept): string {
  return JSON.stringify(kept, (_, value: unknown) =>
    value === Number.POSITIVE_INFINITY ? "Infinity" : value === Number.NEGATIVE_INFINITY ? "-Infinity" : value,
  );
}

/** Undefined for a line that was torn. */
function keptFrom(line: string): Kept | undefined {
  try {
    return JSON.parse(line, (_, value: unknown) =>
      value === "Infinity" ? Number.POSITIVE_INFINITY : value === "-Infinity" ? Number.NEGATIVE_INFINITY : value,
    ) as Kept;
  } catch {
    return undefined;
  }
}
