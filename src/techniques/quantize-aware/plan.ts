/** What a network trained for low bits computes with few bits: its layers, and the activations that it rounds, at what width. */
import { type Keep, nameOf } from "../../analyse/keep.ts";
import { cloneModel } from "../../ir/clone.ts";
import type { Node, Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { specOf } from "../../ops/registry.ts";
import type { Traits } from "../../ops/spec.ts";
import { foldAffine } from "../../transform/fold-affine.ts";
import { keepReason, planQdq } from "../quantize/static/qdq-plan.ts";

/** Bits of what lies between the layers: sums, pooled images, what a residual connection carries. */
export const STREAM_BITS = 8;

/** A layer whose weight is quantized. */
export interface Layer {
  readonly node: Node;
  readonly weight: Value;
  /** Axis of the output channels in the weight. */
  readonly axis: number;
  readonly traits: Traits | undefined;
  /** The first layer, or the last. */
  readonly end: boolean;
}

/** Activations that share one grid. */
export interface Rounding {
  /** All values on the grid, and those among them that are not only moved from another of them. */
  readonly values: readonly Value[];
  readonly roots: ReadonlySet<Value>;
  /** Who reads the rounded values. */
  readonly readers: ReadonlySet<Node>;
  /** Values that nobody may read unrounded: an integer operator gives them. */
  readonly everywhere: ReadonlySet<Value>;
  /** "layer": what layers multiply; "end": the same of the first or last layer; "stream": everything else. */
  readonly kind: "layer" | "end" | "stream";
  /** The grid of the same values that comes first: this one rounds what it gives. */
  readonly behind: Rounding | undefined;
}

export interface AwarePlan {
  readonly layers: readonly Layer[];
  /** In the order in which they are applied. */
  readonly roundings: readonly Rounding[];
  /** Nodes that run on integers. */
  readonly nodes: ReadonlySet<Node>;
  readonly skipped: readonly { readonly what: string; readonly why: string }[];
}

/**
 * Plans the model as it is trained, with its normalizations: each is found where the layer that takes it over will be. Kinds
 * follow static quantization (`planQdq`); the inputs of layers get grids of their own where something else reads them too.
 * The model is not changed; its dtypes and shapes must have been inferred.
 */
export async function planAware(model: Model, keep: Keep): Promise<AwarePlan> {
  const folded = cloneModel(model);
  const nodeOf = new Map(folded.graph.nodes.map((node, i) => [node, model.graph.nodes[i] as Node]));
  const valueOf = new Map<Value, Value>();
  const named = new Map([...model.graph.values()].map((value) => [value.name, value]));
  for (const value of folded.graph.values()) valueOf.set(value, named.get(value.name) as Value);
  for (const { linear, output } of (await foldAffine(folded)).folded)
    valueOf.set(linear.outputs[0] as Value, valueOf.get(output) as Value);
  const plan = planQdq(folded, {
    reasonToKeep: keepReason(keep),
    operators: undefined,
  });

  const mine = <T>(map: ReadonlyMap<T, T>, list: Iterable<T>): T[] => Array.from(list, (each) => map.get(each) as T);
  const layers = plan.linear.map(({ node, channelAxis, traits }, i): Layer => {
    const own = nodeOf.get(node) as Node;
    const end = i === 0 || i === plan.linear.length - 1;
    return { node: own, weight: own.inputs[1] as Value, axis: channelAxis, traits, end };
  });
  const linear = new Map(layers.map((layer) => [layer.node, layer]));
  const nodes = new Set(mine(nodeOf, plan.nodes));
  const results = new Set(mine(valueOf, plan.results));
  const moves = (node: Node | undefined): boolean =>
    node !== undefined && nodes.has(node) && specOf(node, model.opset)?.traits?.movement === true;
  const roundings: Rounding[] = [];
  for (const group of new Set(plan.groups.values())) {
    const values = mine(valueOf, group);
    const roots = new Set(values.filter((value) => !moves(value.producer)));
    const everywhere = new Set(values.filter((value) => results.has(value)));
    const readers = values.flatMap(({ uses }) => uses.map((use) => use.node)).filter((node) => nodes.has(node));
    const own = (end: boolean): Set<Node> => new Set(readers.filter((node) => linear.get(node)?.end === end));
    const [ends, inner] = [own(true), own(false)];
    const others = readers.filter((node) => !linear.has(node) && !moves(node));
    const common = { values, roots, everywhere, readers: new Set(readers), behind: undefined };
    if (others.length + ends.size === 0 && inner.size > 0) roundings.push({ ...common, kind: "layer" });
    else if (others.length + inner.size === 0 && ends.size > 0) roundings.push({ ...common, kind: "end" });
    else {
      const stream: Rounding = { ...common, kind: "stream" };
      roundings.push(stream);
      for (const [kind, set] of [
        ["layer", inner],
        ["end", ends],
      ] as const)
        for (const value of values) {
          const mineHere = new Set(value.uses.map((use) => use.node).filter((node) => set.has(node)));
          if (mineHere.size === 0) continue;
          const one = new Set([value]);
          roundings.push({
            values: [value],
            roots: one,
            readers: mineHere,
            everywhere: new Set(),
            kind,
            behind: stream,
          });
        }
    }
  }
  const skipped = [...plan.skipped];
  for (const inner of model.graph.nodes)
    if (inner.subgraphs().next().value)
      skipped.push({ what: nameOf(inner), why: "operators inside subgraphs are not trained for low bits" });
  return { layers, roundings, nodes, skipped };
}
