/** Puts layers of one model back into another that was made from it: the compressed model with some of the original's layers. */
import { dtypeCode } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import { nameOf } from "../analyse/keep.ts";
import { storedTensor } from "../analyse/layer-weights.ts";
import { cloneModel, copyNode } from "../ir/clone.ts";
import { toAttribute } from "../ir/attribute.ts";
import { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import { removeDead } from "../transform/remove-dead.ts";
import { weightsOf } from "../transform/weight-sites.ts";

/** A value that both models compute: the one of the original, and its counterpart. */
export interface Counterpart {
  readonly reference: Value;
  readonly candidate: Value;
}

/** A part of the original that ends in a paired value and holds weights. */
export interface RestorableLayer {
  /** Name of the operator with the weights. */
  readonly name: string;
  readonly op: string;
  readonly pair: Counterpart;
  /** Operators of the original between the paired values before and this one, in order. */
  readonly nodes: readonly Node[];
  /** Bytes of weights in the original. */
  readonly bytes: number;
}

/** Operators without weights between paired values that were changed too: they go back with the layers that read them. */
interface Follower {
  readonly pair: Counterpart;
  readonly nodes: readonly Node[];
  readonly with: ReadonlySet<RestorableLayer>;
}

export interface RestorePlan {
  readonly original: Model;
  readonly changed: Model;
  readonly pairs: readonly Counterpart[];
  readonly layers: readonly RestorableLayer[];
  readonly followers: readonly Follower[];
  /** Layers that are the same in both, and those that cannot be put back, with the reason. */
  readonly others: readonly { readonly name: string; readonly why: string }[];
}

/**
 * Which layers can be put back: those between paired values whose weights differ. What lies between them without weights (a pool in
 * 8-bit integers) goes back with the layers that read it, or at the end with those before. `original` must have the opset of
 * `changed` and its constants lifted to initializers.
 */
export async function planRestore(
  original: Model,
  changed: Model,
  pairs: readonly Counterpart[],
): Promise<RestorePlan> {
  const ends = new Set(pairs.map(({ reference }) => reference));
  const twins = new Set(pairs.map(({ candidate }) => candidate));
  const layers: RestorableLayer[] = [];
  const others: { name: string; why: string }[] = [];
  const plain: Omit<Follower, "with">[] = [];
  const parts = new Map<Value, readonly Node[]>();
  for (const pair of pairs) {
    const nodes = segment(pair.reference, ends);
    parts.set(pair.reference, nodes);
    const weights = nodes.map((node) => ({ node, bytes: bytesOf(learned(original, node)) }));
    const heaviest = weights.reduce<(typeof weights)[number] | undefined>(
      (best, one) => (one.bytes > (best?.bytes ?? 0) ? one : best),
      undefined,
    );
    const name = heaviest && nameOf(heaviest.node);
    const hasBodies = nodes.some((node) => node.subgraphs().next().done !== true);
    const why = hasBodies
      ? "it holds subgraphs"
      : (await isSame(nodes, segment(pair.candidate, twins)))
        ? "the same in both"
        : undefined;
    if (why !== undefined) {
      if (name !== undefined) others.push({ name, why });
    } else if (heaviest && name !== undefined) {
      const bytes = weights.reduce((sum, one) => sum + one.bytes, 0);
      layers.push({ name, op: heaviest.node.opType, pair, nodes, bytes });
    } else plain.push({ pair, nodes });
  }
  return { original, changed, pairs, layers, followers: withLayers(plain, layers, parts), others };
}

/** Says with which layers each part without weights goes back. */
function withLayers(
  plain: readonly Omit<Follower, "with">[],
  layers: readonly RestorableLayer[],
  parts: ReadonlyMap<Value, readonly Node[]>,
): Follower[] {
  const layerOf = new Map(layers.map((layer) => [layer.pair.reference, layer]));
  const before = new Map<Value, Value[]>();
  const after = new Map<Value, Value[]>();
  for (const [value, nodes] of parts)
    for (const node of nodes)
      for (const input of node.inputs)
        if (input && parts.has(input)) {
          before.set(value, [...(before.get(value) ?? []), input]);
          after.set(input, [...(after.get(input) ?? []), value]);
        }
  const nearest = (from: Value, next: ReadonlyMap<Value, readonly Value[]>): Set<RestorableLayer> => {
    const found = new Set<RestorableLayer>();
    const seen = new Set<Value>([from]);
    for (const value of seen)
      for (const other of next.get(value) ?? []) {
        const layer = layerOf.get(other);
        if (layer) found.add(layer);
        else seen.add(other);
      }
    return found;
  };
  return plain.map((part) => {
    const readers = nearest(part.pair.reference, after);
    return { ...part, with: readers.size > 0 ? readers : nearest(part.pair.reference, before) };
  });
}

/** A copy of the changed model in which these layers are the original's. Throws `unsupported` when the graphs do not fit together. */
export function restoreLayers(plan: RestorePlan, restored: ReadonlySet<RestorableLayer>): Model {
  const model = cloneModel(plan.changed);
  const { graph } = model;
  for (const [domain, version] of plan.original.opsets)
    if (!model.opsets.has(domain)) model.opsets.set(domain, version);
  const byName = new Map([...graph.values()].map((value) => [value.name, value]));
  const now = new Map(plan.pairs.map(({ reference, candidate }) => [reference, byName.get(candidate.name)]));
  const order = new Map(plan.pairs.map(({ reference }, index) => [reference, index]));
  const parts = [
    ...plan.layers.filter((layer) => restored.has(layer)),
    ...plan.followers.filter((part) => [...part.with].some((layer) => restored.has(layer))),
  ].sort((a, b) => (order.get(a.pair.reference) ?? 0) - (order.get(b.pair.reference) ?? 0));
  for (const { pair, nodes } of parts) {
    const { reference } = pair;
    const target = now.get(reference);
    if (!target) continue;
    const copies = new Map<Value, Value>();
    const valueOf = (value: Value): Value => {
      const known = copies.get(value);
      if (known) return known;
      const twin = value === reference ? undefined : (now.get(value) ?? inputOf(value));
      const made = twin
        ? cast(twin, value.dtype)
        : new Value(graph.uniqueName(`${value.name}_restored`), value.dtype, value.shape, value.tensor);
      copies.set(value, made);
      if (!twin && value.tensor) graph.initializers.set(made.name, made);
      return made;
    };
    const inputOf = (value: Value): Value | undefined => {
      if (value.producer || value.tensor) return undefined;
      const index = fed(plan.original).findIndex(({ name }) => name === value.name);
      return byName.get(value.name) ?? fed(model)[index];
    };
    const cast = (value: Value, dtype: Value["dtype"]): Value => {
      if (dtype === undefined || value.dtype === undefined || value.dtype === dtype) return value;
      const output = new Value(graph.uniqueName(`${value.name}_${dtype}`), dtype, value.shape);
      const to = toAttribute(dtypeCode(dtype));
      graph.add(
        new Node({ opType: "Cast", inputs: [value], outputs: [output], name: output.name, attributes: [["to", to]] }),
      );
      return output;
    };
    for (const node of nodes) {
      const copy = copyNode(node, (value) => (value.name === "" ? new Value("") : valueOf(value)));
      copy.name = graph.uniqueName(`${nameOf(node)}_restored`);
      graph.add(copy);
    }
    const result = cast(valueOf(reference), target.dtype);
    if (!graph.replaceValue(target, result))
      throw new PareError("unsupported", "A layer of the original cannot be put back", { where: reference.name });
    now.set(reference, result);
  }
  try {
    graph.sort();
  } catch (cause) {
    throw new PareError("unsupported", "The layers of the original do not fit into the compressed model", {
      help: "Its structure was changed too much: compress it again and keep the layers (--keep)",
      cause,
    });
  }
  removeDead(model);
  return model;
}

/** Inputs that somebody must feed. */
function fed(model: Model): Value[] {
  return model.graph.inputs.filter((input) => !input.tensor);
}

/** Operators between a value and the ends before it, in order of computation. */
function segment(value: Value, ends: ReadonlySet<Value>): Node[] {
  const found = new Set<Node>();
  const open = [value];
  for (let next = open.pop(); next; next = open.pop()) {
    if (!next.producer || found.has(next.producer) || (next !== value && ends.has(next))) continue;
    found.add(next.producer);
    for (const input of next.producer.inputs) if (input) open.push(input);
  }
  const graph = value.producer?.graph;
  return graph ? graph.nodes.filter((node) => found.has(node)) : [];
}

/** Stored float kernels and tables that a node learns. */
function learned(model: Model, node: Node): Tensor[] {
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  return (spec ? weightsOf(spec, node) : []).flatMap(({ input, role }) => {
    const tensor = storedTensor(node.inputs[input]);
    return tensor && (role === "kernel" || role === "table") ? [tensor] : [];
  });
}

function bytesOf(tensors: readonly Tensor[]): number {
  return tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** The same operators on the same stored numbers. */
async function isSame(a: readonly Node[], b: readonly Node[]): Promise<boolean> {
  if (a.length !== b.length || a.some((node, index) => node.opType !== b[index]?.opType)) return false;
  const stored = (nodes: readonly Node[]): Tensor[] =>
    nodes.flatMap((node) => node.inputs.flatMap((input) => storedTensor(input) ?? []));
  const [left, right] = [stored(a), stored(b)];
  if (left.length !== right.length) return false;
  for (const [index, tensor] of left.entries()) {
    const other = right[index];
    if (tensor === other) continue;
    if (!other || tensor.dtype !== other.dtype || tensor.byteLength !== other.byteLength) return false;
    const [x, y] = [await tensor.bytes(), await other.bytes()];
    for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false;
  }
  return true;
}
