/** Formats of single layers in static quantization: bits and granularity of their weights, or floating point. */
import { matchKeep, nameOf } from "../../../analyse/keep.ts";
import type { Node } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import type { Journal } from "../../journal.ts";
import { type LayerFormats, formatsOf } from "../weights/layer-formats.ts";
import { type LinearNode, type QdqPlanOptions, planQdq } from "./qdq-plan.ts";

/** Bits of the weights, with the granularity of their scales where it shall differ from the model's; float: left alone. */
export const STATIC_FORMATS = [
  "float",
  "int8",
  "int4",
  "int8:per-channel",
  "int8:per-tensor",
  "int4:per-channel",
  "int4:per-tensor",
] as const;

export type StaticFormat = (typeof STATIC_FORMATS)[number];

export interface WeightChoice {
  readonly bits: 4 | 8;
  readonly perChannel: boolean;
}

export interface StaticFormats {
  /** What the plan leaves in floating point. */
  readonly reasonToKeep: QdqPlanOptions["reasonToKeep"];
  /** How the weights of a layer are stored. */
  weightsOf(layer: LinearNode): WeightChoice;
}

/** Reads the options against a prepared model; holds for its clones too, since layers go by their names. */
export function staticFormats(
  model: Model,
  options: LayerFormats<StaticFormat> & { readonly to: "int8" | "int4"; readonly perChannel: boolean },
  planning: QdqPlanOptions,
  journal: Journal,
): StaticFormats {
  const { linear } = planQdq(model, planning);
  const site = ({ node, weight }: LinearNode) => ({ value: weight, uses: [{ node }] });
  const formatOf = formatsOf(options, model, linear.map(site), options.to, journal);
  const formats = new Map(linear.map((layer) => [nameOf(layer.node), formatOf(site(layer))]));
  const named = Object.entries(options.layers).map(([pattern, format]) => ({
    match: matchKeep([pattern], model),
    format,
    pattern,
  }));
  return {
    reasonToKeep(node) {
      const own = formats.get(nameOf(node));
      const why = planning.reasonToKeep(node);
      if (why !== undefined) return why;
      if (own) return own.format === "float" ? own.why : undefined;
      const last = named.findLast(({ match }) => match.node(node)); // of operators without weights
      return last?.format === "float" ? `layers '${last.pattern}'` : undefined;
    },
    weightsOf({ node }: { readonly node: Node }) {
      const [bits, scales] = (formats.get(nameOf(node))?.format ?? options.to).split(":");
      return {
        bits: bits === "int4" ? 4 : 8,
        perChannel: scales === undefined ? options.perChannel : scales === "per-channel",
      };
    },
  };
}
