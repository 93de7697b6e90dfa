/** Which number format each weight gets: patterns, the first and last layers, key layers only, and the format of all others. */
import { z } from "zod";
import { matchKeep } from "../../../analyse/keep.ts";
import type { Node, Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { keepOf } from "../../keep-option.ts";
import type { Journal } from "../../journal.ts";
import { WEIGHT_FORMATS, type WeightFormat } from "./formats.ts";

/** Pattern → format, in one vocabulary with `keep`; texts are written `pattern=format`. */
export type LayersOption<Format extends string> = z.ZodDefault<
  z.ZodRecord<z.ZodString, z.ZodEnum<{ [Name in Format]: Name }>>
>;

/** The option for the formats that a technique knows. */
export function layersOptionOf<Format extends string>(formats: readonly Format[]): LayersOption<Format> {
  return z
    .record(
      z.string(),
      z.enum(formats, { error: ({ input }) => `No format '${String(input)}': one of ${formats.join(", ")}` }),
    )
    .default({})
    .describe(
      "formats of single layers or tensors, pattern=format, patterns as in keep; the last one that matches decides; float leaves alone",
    ) as LayersOption<Format>;
}

export const layersOption: LayersOption<WeightFormat> = layersOptionOf(WEIGHT_FORMATS);

/** Format of the first and the last layers, of those that a technique knows. */
export type EndsOption<Format extends string> = z.ZodOptional<z.ZodEnum<{ [Name in Format]: Name }>>;

export function endsOptionOf<Format extends string>(formats: readonly Format[]): EndsOption<Format> {
  return z
    .enum(formats)
    .optional()
    .describe(
      "format of the first and last layers (int8 inside of a 4-bit network is a good choice); default: as all",
    ) as EndsOption<Format>;
}

export const endsOption: EndsOption<WeightFormat> = endsOptionOf(WEIGHT_FORMATS);

export const onlyOption: z.ZodDefault<z.ZodArray<z.ZodString>> = z
  .array(z.string())
  .default([])
  .describe("key layers: patterns as in keep; all other layers stay as they are");

export interface LayerFormats<Format extends string = WeightFormat> {
  readonly layers: Readonly<Record<string, Format>>;
  readonly ends?: Format | undefined;
  readonly only: readonly string[];
}

/** A weight and the operators that read it. */
export interface LayerSite {
  readonly value: Value;
  readonly uses: readonly { readonly node: Node }[];
}

/** The format of a weight and what decided it, for the journal; patterns that match nothing are noted there. */
export function formatsOf<Format extends string = WeightFormat>(
  { layers, ends, only }: LayerFormats<Format>,
  model: Model,
  sites: readonly LayerSite[],
  fallback: NoInfer<Format>,
  journal: Journal,
): (site: LayerSite) => { readonly format: Format | "float"; readonly why: string } {
  const named = (Object.entries(layers) as [string, Format][]).map(([pattern, format]) => {
    const match = matchKeep([pattern], model);
    for (const warning of match.warnings) journal.note(warning.replace(/^keep/, "layers"));
    return { match, format, pattern };
  });
  const key = keepOf(only, model, journal);
  const outermost = ends === undefined ? undefined : endLayers(model, sites);
  const touches = (match: ReturnType<typeof matchKeep>, { value, uses }: LayerSite): boolean =>
    match.value(value) || uses.some(({ node }) => match.node(node));
  return (site) => {
    const own = named.findLast(({ match }) => touches(match, site));
    if (own) return { format: own.format, why: `layers '${own.pattern}'` };
    if (only.length > 0 && !touches(key, site)) return { format: "float", why: "none of the key layers" };
    if (ends !== undefined && site.uses.some(({ node }) => outermost?.has(node)))
      return { format: ends, why: "a first or last layer" };
    return { format: fallback, why: "" };
  };
}

/** Operators with weights that no other operator with weights comes before, or behind. */
export function endLayers(model: Model, sites: readonly LayerSite[]): ReadonlySet<Node> {
  const layers = new Set(sites.flatMap(({ uses }) => uses.map(({ node }) => node)));
  const ends = new Set<Node>();
  // A node with subgraphs counts as one: with all that is inside, and all that is captured.
  const parts = model.graph.nodes.map((node) => {
    const inside = [node, ...[...node.subgraphs()].flatMap((graph) => [...graph.allNodes()])];
    return {
      layers: inside.filter((one) => layers.has(one)),
      inputs: inside.flatMap((one) => one.inputs),
      outputs: node.outputs,
    };
  });
  const behindLayer = new Set<Value | undefined>();
  for (const part of parts) {
    const before = part.inputs.some((input) => behindLayer.has(input));
    if (!before) for (const layer of part.layers) ends.add(layer);
    if (before || part.layers.length > 0) for (const output of part.outputs) behindLayer.add(output);
  }
  const beforeLayer = new Set<Value | undefined>();
  for (const part of parts.toReversed()) {
    const behind = part.outputs.some((output) => beforeLayer.has(output));
    if (!behind) for (const layer of part.layers) ends.add(layer);
    if (behind || part.layers.length > 0) for (const input of part.inputs) if (input) beforeLayer.add(input);
  }
  return ends;
}
