/** Constant folding: what depends on constants alone is computed once, by the engine, and stored. */
import { type DType, dtypeBits, isFloat } from "../base/dtype.ts";
import { isConcrete } from "../base/shape.ts";
import { Builder } from "../ir/builder.ts";
import { copyNode } from "../ir/clone.ts";
import { Graph, type Node, Value } from "../ir/graph.ts";
import { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import { constantTensor, outputValues } from "./constants.ts";

/** Computes the outputs of a model that has no inputs. */
export type ConstantEvaluator = (model: Model) => Promise<ReadonlyMap<string, Tensor>>;

export interface FoldConstantsOptions {
  readonly evaluate: ConstantEvaluator;
  /** A result may be this many bytes larger than the constants that it replaces. Default 1024: shapes and ranges pass, expanded tables do not. */
  readonly growthBytes?: number | undefined;
}

export interface FoldConstantsResult {
  readonly nodes: number;
  readonly skipped: readonly { readonly what: string; readonly why: string }[];
}

const DEFAULT_GROWTH_BYTES = 1024;
/** Elements up to which a known shape is worth writing down as a constant; also keeps results of one evaluation small. */
const LARGEST_RESULT_BYTES = 1 << 28;

/** Folds the main graph; nodes inside subgraphs that depend on constants alone are folded where they stand. */
export async function foldConstants(model: Model, options: FoldConstantsOptions): Promise<FoldConstantsResult> {
  const growth = options.growthBytes ?? DEFAULT_GROWTH_BYTES;
  const skipped = new Map<string, string>();
  let nodes = foldKnownShapes(model);
  for (const graph of model.graph.allGraphs()) {
    const foldable = new Set<Node>();
    const origins = new Map<Value, ReadonlySet<Value>>(); // constants behind each computed value
    for (const node of graph.nodes) if (isFoldable(model, node, foldable)) foldable.add(node);
    if (foldable.size === 0) continue;
    const outputs = outputValues(model);
    // Results that someone outside the constant part reads.
    const frontier: Value[] = [];
    for (const node of foldable)
      for (const output of node.outputs) {
        origins.set(output, unionOf(node.inputs, origins));
        if (outputs.has(output)) continue;
        if (output.uses.some((use) => !foldable.has(use.node))) frontier.push(output);
      }
    const wanted = frontier.filter((value) => {
      const why = reasonToKeep(value, origins.get(value) ?? new Set(), growth);
      if (why) skipped.set(value.producer?.name || value.name, why);
      return why === undefined;
    });
    if (wanted.length === 0) continue;
    nodes += await evaluate(model, graph, wanted, options.evaluate, growth, origins, skipped);
  }
  return { nodes, skipped: [...skipped].map(([what, why]) => ({ what, why })) };
}

/** `Shape` (and `Size`) of a value whose shape is fully known becomes a constant. */
function foldKnownShapes(model: Model): number {
  let count = 0;
  const outputs = outputValues(model);
  for (const graph of model.graph.allGraphs())
    for (const node of graph.nodes.slice()) {
      const output = node.outputs[0];
      const shape = node.inputs[0]?.shape;
      if (node.domain !== "" || !output || !isConcrete(shape) || outputs.has(output)) continue;
      let tensor: Tensor;
      if (node.opType === "Shape")
        tensor = Tensor.int64(shape.slice(node.int("start", 0), node.int("end") ?? shape.length));
      else if (node.opType === "Size") tensor = Tensor.int64([shape.reduce((product, size) => product * size, 1)], []);
      else continue;
      output.replaceUses(graph.addInitializer(output.name, tensor));
      graph.remove(node);
      count++;
    }
  return count;
}

function isFoldable(model: Model, node: Node, foldable: ReadonlySet<Node>): boolean {
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  if (!spec || spec.traits?.impure || [...node.subgraphs()].length > 0 || node.opType === "Constant") return false;
  if (node.inputs.length === 0) return false;
  return node.inputs.every(
    (input) =>
      input === undefined ||
      constantTensor(model, input) !== undefined ||
      (input.producer !== undefined && foldable.has(input.producer)),
  );
}

function unionOf(
  inputs: readonly (Value | undefined)[],
  origins: ReadonlyMap<Value, ReadonlySet<Value>>,
): ReadonlySet<Value> {
  const all = new Set<Value>();
  for (const input of inputs) {
    if (!input) continue;
    for (const origin of origins.get(input) ?? [input]) all.add(origin);
  }
  return all;
}

/** Compressed weights stay compressed: a chain from a narrow type to a wider float is left to the engine's own folding at load. */
function reasonToKeep(value: Value, origins: ReadonlySet<Value>, growth: number): string | undefined {
  const narrowest = [...origins].reduce((bits, origin) => Math.min(bits, weightBits(origin)), 64);
  if (value.dtype !== undefined && isFloat(value.dtype) && dtypeBits(value.dtype) > narrowest)
    return "would unpack weights that are stored in fewer bits";
  if (isConcrete(value.shape) && value.dtype !== undefined) {
    const bytes = (value.shape.reduce((product, size) => product * size, 1) * dtypeBits(value.dtype)) / 8;
    if (bytes > bytesFreed(origins) + growth) return `the result has ${bytes} bytes, more than what it replaces`;
  }
  return undefined;
}

/** Bits per element of a stored weight; indices, shapes and flags (64-bit, bool) do not count as packed weights. */
function weightBits(origin: Value): number {
  const dtype: DType | undefined = origin.dtype;
  if (dtype === undefined || dtype === "bool" || (origin.tensor?.elements ?? 0) < 64) return 64;
  return dtypeBits(dtype) < 32 ? dtypeBits(dtype) : 64;
}

/** Bytes of constants that no other node reads. */
function bytesFreed(origins: ReadonlySet<Value>): number {
  let bytes = 0;
  for (const origin of origins) if (origin.uses.length === 1) bytes += origin.tensor?.byteLength ?? 0;
  return bytes;
}

/** Copies the constant part into a model of its own, runs it once, and puts the results in place. */
async function evaluate(
  model: Model,
  graph: Graph,
  wanted: readonly Value[],
  run: ConstantEvaluator,
  growth: number,
  origins: ReadonlyMap<Value, ReadonlySet<Value>>,
  skipped: Map<string, string>,
): Promise<number> {
  const part = new Model(new Graph("constants"), model.opset, model.irVersion);
  for (const [domain, version] of model.opsets) part.opsets.set(domain, version);
  const builder = new Builder(part.graph);
  const copies = new Map<Value, Value>();
  const copied = new Set<Node>();
  const copyOf = (value: Value): Value => {
    const known = copies.get(value);
    if (known) return known;
    const tensor = constantTensor(model, value);
    const copy = tensor
      ? builder.constant(value.name, tensor)
      : new Value(part.graph.uniqueName(value.name), value.dtype);
    copies.set(value, copy);
    return copy;
  };
  // Depth-first over producers, without recursion: constant chains can be long.
  const stack = wanted.map((value) => value.producer as Node);
  while (stack.length > 0) {
    const node = stack.at(-1) as Node;
    const missing = copied.has(node)
      ? []
      : node.inputs.flatMap((input) =>
          input?.producer && !constantTensor(model, input) && !copied.has(input.producer) ? [input.producer] : [],
        );
    if (missing.length > 0) {
      stack.push(...missing);
      continue;
    }
    stack.pop();
    if (copied.has(node)) continue;
    copied.add(node);
    part.graph.add(copyNode(node, copyOf));
  }
  for (const value of wanted) part.graph.outputs.push(copyOf(value));
  let results: ReadonlyMap<string, Tensor>;
  try {
    results = await run(part);
  } catch (error) {
    for (const value of wanted)
      skipped.set(
        value.producer?.name || value.name,
        `the engine could not compute it: ${error instanceof Error ? error.message : String(error)}`,
      );
    return 0;
  }
  const before = graph.nodes.length;
  for (const value of wanted) {
    const tensor = results.get((copies.get(value) as Value).name);
    if (!tensor) continue;
    if (tensor.byteLength > Math.min(LARGEST_RESULT_BYTES, bytesFreed(origins.get(value) ?? new Set()) + growth)) {
      skipped.set(
        value.producer?.name || value.name,
        `the result has ${tensor.byteLength} bytes, more than what it replaces`,
      );
      continue;
    }
    value.replaceUses(graph.addInitializer(value.name, tensor));
  }
  removeUnread(graph, outputValues(model));
  return before - graph.nodes.length;
}

/** Removes nodes of one graph whose outputs nobody reads. */
function removeUnread(graph: Graph, outputs: ReadonlySet<Value>): void {
  for (const node of graph.nodes.toReversed())
    if (
      [...node.subgraphs()].length === 0 &&
      node.outputs.every((output) => output.uses.length === 0 && !outputs.has(output))
    )
      graph.remove(node);
}
