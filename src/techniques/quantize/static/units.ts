/** Parts of a statically quantized model that are fitted to the float model one after another: layers, or residual blocks. */
import type { Node, Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { layerDepths } from "../../tune/frontier.ts";
import type { LinearNode } from "./qdq-plan.ts";
import type { WrittenValue } from "./static-model.ts";

/** A layer of a unit: its place in the plan, and its node in the quantized model. */
export interface UnitLayer {
  readonly index: number;
  readonly linear: LinearNode;
}

export interface Unit {
  /** Of its last layer. */
  readonly name: string;
  readonly layers: readonly UnitLayer[];
  /** What it reads in the quantized model: a dequantized value, or one that was not quantized. */
  readonly input: Value;
  /** What it gives in the quantized model, before it is quantized itself. */
  readonly output: Value;
  /** The name of the value in the float model that `output`, brought to the grid's range, should equal. */
  readonly target: string;
  /** Range of the grid of the output; infinite where it has none. */
  readonly low: number;
  readonly high: number;
  /** Layers on the longest way to its first layer, itself included. */
  readonly level: number;
}

/** Layers in a unit beyond which a block is taken apart: it would be a network. */
const MOST_LAYERS = 8;

/**
 * Units in the order in which they are fitted. `reference` is the float model that was quantized, with the same names;
 * `written` says where its values are in the quantized one.
 */
export function unitsOf(
  reference: Model,
  quantized: Model,
  linear: readonly LinearNode[],
  written: ReadonlyMap<string, WrittenValue>,
  blocks: boolean,
): Unit[] {
  const places = new Map(linear.map((each, index) => [each.node.name, { index, linear: each }]));
  const depths = layerDepths(quantized);
  const values = new Map([...quantized.graph.values()].map((value) => [value.name, value]));
  const make = (nodes: readonly Node[], input: Value | undefined, result: Value): Unit | undefined => {
    const layers = nodes.flatMap(({ name }) => places.get(name) ?? []);
    const place = written.get(result.name);
    const output = place?.before ?? values.get(result.name);
    const read = input && (written.get(input.name)?.after ?? values.get(input.name));
    const last = layers.at(-1);
    if (!output || !read || !last) return undefined;
    const level = Math.min(...layers.map(({ linear: { node } }) => depths.get(node.outputs[0] as Value) ?? 1));
    const [low, high] = [place?.low ?? Number.NEGATIVE_INFINITY, place?.high ?? Number.POSITIVE_INFINITY];
    return { name: last.linear.node.name, layers, input: read, output, target: result.name, low, high, level };
  };
  const alone = (node: Node): Unit | undefined => make([node], node.inputs[0], resultOf(node, written));
  const parts = blocks
    ? between(reference)
    : reference.graph.nodes.map((node) => ({ nodes: [node], input: node.inputs[0] }));
  const units = parts.flatMap(({ nodes, input }) => {
    const own = nodes.filter(({ name }) => places.has(name));
    if (own.length < 2 || own.length > MOST_LAYERS) return own.map(alone);
    const last = nodes.at(-1)?.outputs[0];
    return [last && make(nodes, input, last)];
  });
  return units.filter((unit) => unit !== undefined).sort((a, b) => a.level - b.level);
}

/** The output of a layer, or of the clamp behind it that has the grid. */
function resultOf(node: Node, written: ReadonlyMap<string, WrittenValue>): Value {
  const output = node.outputs[0] as Value;
  const next = output.uses.length === 1 ? output.uses[0]?.node.outputs[0] : undefined;
  return !written.has(output.name) && next && written.has(next.name) ? next : output;
}

/**
 * The nodes between values that everything goes through: where one value alone is computed and still to be read, a part ends.
 * Parts without layers are joined with the part before.
 */
function between(model: Model): { nodes: Node[]; input: Value | undefined }[] {
  const { graph } = model;
  const position = new Map(graph.nodes.map((node, index) => [node, index]));
  const lastUse = (value: Value): number =>
    graph.isOutput(value)
      ? Number.POSITIVE_INFINITY
      : value.uses.reduce((last, { node }) => Math.max(last, position.get(node) ?? Number.POSITIVE_INFINITY), -1);
  const live = new Set(graph.inputs.filter(({ tensor }) => !tensor));
  const parts: { nodes: Node[]; input: Value | undefined }[] = [];
  let input: Value | undefined = live.size === 1 ? [...live][0] : undefined;
  let nodes: Node[] = [];
  for (const [index, node] of graph.nodes.entries()) {
    nodes.push(node);
    for (const output of node.outputs) if (lastUse(output) > index) live.add(output);
    for (const value of live) if (lastUse(value) <= index) live.delete(value);
    if (live.size !== 1) continue;
    parts.push({ nodes, input });
    nodes = [];
    [input] = live;
  }
  if (nodes.length > 0) parts.push({ nodes, input });
  return parts;
}
