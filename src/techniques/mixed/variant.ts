/** One layer of a model in another number format, everything else as it was: what a sensitivity is measured on. */
import { costOf } from "../../analyse/cost.ts";
import { exactPattern, nameOf } from "../../analyse/keep.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Model } from "../../ir/model.ts";
import { writeModel } from "../../ir/write-graph.ts";
import { ModelProtoSchema } from "../../onnx/gen/onnx_pb.js";
import { encodeSegments } from "../../onnx/segments.ts";
import { type WeightSite, weightSites } from "../../transform/weight-sites.ts";
import { Journal } from "../journal.ts";
import { WEIGHT_FORMATS, type WeightFormat, formatNamed } from "../quantize/weights/formats.ts";
import { quantizeWeights } from "../quantize/weights/quantize-weights.ts";
import { quantize } from "../quantize/static/quantize.ts";
import type { Context } from "../technique.ts";

/** Weights in a format, or (`w8a8`) weights and activations in static 8-bit integers. */
export type CellFormat = WeightFormat | "w8a8";

export const CELL_FORMATS: readonly CellFormat[] = [...WEIGHT_FORMATS, "w8a8"];

/** A layer whose format can be chosen: one stored weight and the operators that read it. */
export interface MixLayer {
  /** Name of the weight. */
  readonly name: string;
  /** Names of the operators that use it. */
  readonly nodes: readonly string[];
  readonly op: string;
  readonly elements: number;
  readonly bytes: number;
  /** Multiply-accumulates of one run. */
  readonly macs: number;
}

/** What a variant costs, as differences to the original; negative: less. */
export interface VariantCost {
  /** Bytes of the file without what layers of one format share (tables of codes). */
  readonly bytes: number;
  readonly sharedBytes: number;
  readonly bops: number;
  /** ‖ŵ − w‖ / ‖w‖. */
  readonly error: number | undefined;
}

export interface Variant {
  readonly model: Model;
  readonly cost: VariantCost;
}

/** Bits of a number in a format, without scales. */
export function bitsOf(format: CellFormat): number {
  if (format === "float") return 32;
  return format === "w8a8" ? 8 : formatNamed(format).bits;
}

/** Layers with float weights, in file order. The model's constants must have been prepared. */
export function mixLayers(model: Model, isKept: (site: WeightSite) => boolean): MixLayer[] {
  const macs = new Map(costOf(model).layers.map((layer) => [layer.node, layer.macs]));
  return weightSites(model, { dtypes: ["float32", "float16", "bfloat16"] })
    .filter((site) => !isKept(site))
    .map(({ value, tensor, uses }) => ({
      name: value.name,
      nodes: [...new Set(uses.map(({ node }) => nameOf(node)))],
      op: uses[0]?.node.opType ?? "",
      elements: tensor.elements,
      bytes: tensor.byteLength,
      macs: uses.reduce((sum, { node }) => sum + (macs.get(node) ?? 0), 0),
    }));
}

/** Makes variants of one model, whose own costs are counted once. */
export class VariantMaker {
  readonly base: Model;
  readonly baseBytes: number;
  readonly baseBops: number;
  readonly #layers: readonly MixLayer[];
  readonly #weightOptions: Readonly<Record<string, unknown>>;
  readonly #context: Context;

  /** `weightOptions` are those of `quantize-weights` for every format; `base` stays as it is. */
  constructor(
    base: Model,
    layers: readonly MixLayer[],
    weightOptions: Readonly<Record<string, unknown>>,
    context: Context,
  ) {
    this.base = base;
    this.#layers = layers;
    this.#weightOptions = weightOptions;
    this.#context = context;
    this.baseBytes = encodedBytes(base);
    this.baseBops = costOf(base).bops;
  }

  /** The model with formats as given, other layers in floating point, and its cost; or why a layer cannot be stored so. */
  async make(formats: ReadonlyMap<string, CellFormat>, journal: Journal = new Journal()): Promise<Variant | string> {
    const context = { ...this.#context, journal, onProgress: () => undefined };
    let model = cloneModel(this.base);
    const named = [...formats].filter(([, format]) => format !== "float");
    const activations = new Set(named.flatMap(([name, format]) => (format === "w8a8" ? [name] : [])));
    if (activations.size > 0) model = await this.#quantizeActivations(model, activations, context);
    const layers: Record<string, string> = { "*": "float" };
    for (const [name, format] of named)
      if (format !== "w8a8") for (const pattern of this.#patternsFor(name, model)) layers[pattern] = format;
    if (named.length > activations.size)
      model = await quantizeWeights.run(
        model,
        quantizeWeights.options.parse({ ...this.#weightOptions, layers }) as never,
        context,
      );
    const refused = named.find(([name]) => !this.#wasChanged(name, journal));
    if (refused) return this.#whyNot(refused[0], journal);
    const sharedBytes = sharedConstants(model) - sharedConstants(this.base);
    return {
      model,
      cost: {
        bytes: encodedBytes(model) - this.baseBytes - sharedBytes,
        sharedBytes,
        bops: costOf(model).bops - this.baseBops,
        error: formats.size === 1 ? journal.changed[0]?.error : undefined,
      },
    };
  }

  /** Static 8-bit integers in these layers alone. */
  async #quantizeActivations(model: Model, names: ReadonlySet<string>, context: Context): Promise<Model> {
    const keep = this.#layers.filter(({ name }) => !names.has(name)).map(({ name }) => exactPattern(name));
    const options = quantize.options.parse({ calibration: "percentile", keep });
    return quantize.run(model, options as never, context);
  }

  /** The weight's own name, or its operators' where folding has given it another. */
  #patternsFor(name: string, model: Model): string[] {
    const isThere = [...model.graph.allGraphs()].some((graph) => graph.initializers.has(name));
    return (isThere ? [name] : this.#namesOf(name).slice(1)).map(exactPattern);
  }

  #namesOf(name: string): readonly string[] {
    return [name, ...(this.#layers.find((layer) => layer.name === name)?.nodes ?? [])];
  }

  #wasChanged(name: string, journal: Journal): boolean {
    return journal.changed.some(({ what }) => this.#namesOf(name).includes(what));
  }

  #whyNot(name: string, journal: Journal): string {
    return journal.skipped.find(({ what }) => this.#namesOf(name).includes(what))?.why ?? "it cannot be stored so";
  }
}

/** Bytes of the file that the model would become. Reads no weights. */
export function encodedBytes(model: Model): number {
  return encodeSegments(ModelProtoSchema, writeModel(model)).byteLength;
}

/** Constants that the weights of a format share are named `pare.…`; each takes some bytes beside its elements. */
const CONSTANT_BYTES = 16;

function sharedConstants(model: Model): number {
  let bytes = 0;
  for (const graph of model.graph.allGraphs())
    for (const [name, { tensor }] of graph.initializers)
      if (tensor && name.startsWith("pare.")) bytes += tensor.byteLength + name.length + CONSTANT_BYTES;
  return bytes;
}
