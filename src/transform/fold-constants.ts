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
import { computationKey } from "./merge-duplicates.ts";

/** Computes the outputs of a model that has no inputs. */
export type ConstantEvaluator = (model: Model) => Promise<ReadonlyMap<string, Tensor>>;

export interface FoldConstantsOptions {
  readonly evaluate: ConstantEvaluator;
  /** A result may be this many bytes larger than the constants that it replaces. Default 1024: shapes and ranges pass, expanded tables do not. */
  readonly growthBytes?: number | undefined;
  /** Results that are wanted; default: all, and sizes that are known from shapes besides. */
  readonly only?: ((value: Value) => boolean) | undefined;
}

export interface FoldConstantsResult {
  readonly nodes: number;
  readonly skipped: readonly { readonly what: string; readonly why: string }[];
}

const DEFAULT_GROWTH_BYTES = 1024;
/** Elements up to which a known shape is worth writing down as a constant; also keeps results of one evaluation small. */
const LARGEST_RESULT_BYTES = 1 << 28;

/** What depends on constants alone and is read by something that does not. */
interface Result {
  /** Equal results, of one graph or of several. */
  readonly values: Value[];
  /** The innermost graph that all who read them see. */
  graph: Graph;
  /** Constants behind it. */
  readonly origins: ReadonlySet<Value>;
  /** True where a graph returns it, so that it stays. */
  readonly returned: boolean;
}

/** Folds all graphs; equal results become one constant, in the innermost graph that all who read it see. */
export async function foldConstants(model: Model, options: FoldConstantsOptions): Promise<FoldConstantsResult> {
  const growth = options.growthBytes ?? DEFAULT_GROWTH_BYTES;
  const skipped = new Map<string, string>();
  const shapes = options.only ? 0 : foldKnownShapes(model);
  const foldable = new Set<Node>();
  for (const node of model.graph.allNodes()) if (isFoldable(model, node, foldable)) foldable.add(node);
  const outputs = outputValues(model);
  const results = resultsOf(model, foldable, outputs);
  const freed = bytesFreed(results, foldable, outputs);
  const wanted = new Map<Graph, Result[]>();
  for (const result of results) {
    const [value] = result.values as [Value];
    if (result.returned || (options.only && !result.values.some(options.only))) continue;
    const why = reasonToKeep(value, result.origins, growth + (freed.get(result) ?? 0));
    if (why) skipped.set(value.producer?.name || value.name, why);
    else wanted.set(result.graph, [...(wanted.get(result.graph) ?? []), result]);
  }
  const before = foldable.size;
  for (const [graph, own] of wanted) await evaluate(model, graph, own, options.evaluate, { growth, freed, skipped });
  if (wanted.size > 0) removeUnread(foldable, outputs);
  return {
    nodes: shapes + before - foldable.size,
    skipped: [...skipped].map(([what, why]) => ({ what, why })),
  };
}

function resultsOf(model: Model, foldable: ReadonlySet<Node>, returned: ReadonlySet<Value>): Result[] {
  const origins = new Map<Value, ReadonlySet<Value>>();
  const results = new Map<number, Result>();
  const alone: Result[] = [];
  const idOf = computationIds(model);
  for (const node of foldable)
    for (const output of node.outputs) {
      const behind = unionOf(node.inputs, origins);
      origins.set(output, behind);
      const id = idOf(output); // of every node in order: never deep
      const graph = node.graph as Graph;
      if (returned.has(output)) alone.push({ values: [output], graph, origins: behind, returned: true });
      else if (output.uses.some((use) => !foldable.has(use.node))) {
        const known = results.get(id);
        if (!known) results.set(id, { values: [output], graph, origins: behind, returned: false });
        else {
          known.values.push(output);
          known.graph = commonGraph(known.graph, graph);
        }
      }
    }
  return [...results.values(), ...alone];
}

/** Numbers of values that depend on constants alone: equal numbers, equal values. */
function computationIds(model: Model): (value: Value) => number {
  const ids = new Map<Value, number>();
  const byText = new Map<string, number>();
  const idOf = (value: Value): number => {
    const known = ids.get(value);
    if (known !== undefined) return known;
    const { producer, tensor } = value;
    const small = tensor && tensor.byteLength <= DEFAULT_GROWTH_BYTES && !tensor.strings ? tensor.peek() : undefined;
    const key = producer && computationKey(producer, model, idOf);
    const text = small
      ? `${tensor?.dtype}[${tensor?.shape.join()}] ${small.join()}`
      : key && `${key}#${producer.outputs.indexOf(value)}`;
    const id = (text === undefined ? undefined : byText.get(text)) ?? ids.size;
    ids.set(value, id);
    if (text !== undefined) byText.set(text, id);
    return id;
  };
  return idOf;
}

/** The innermost graph that holds both, or is one of them. */
function commonGraph(a: Graph, b: Graph): Graph {
  const around = new Set<Graph>();
  for (let graph: Graph | undefined = a; graph; graph = graph.parent) around.add(graph);
  let graph = b;
  while (!around.has(graph) && graph.parent) graph = graph.parent;
  return graph;
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
function reasonToKeep(value: Value, origins: ReadonlySet<Value>, most: number): string | undefined {
  const narrowest = [...origins].reduce((bits, origin) => Math.min(bits, weightBits(origin)), 64);
  if (value.dtype !== undefined && isFloat(value.dtype) && dtypeBits(value.dtype) > narrowest)
    return "would unpack weights that are stored in fewer bits";
  if (isConcrete(value.shape) && value.dtype !== undefined) {
    const bytes = (value.shape.reduce((product, size) => product * size, 1) * dtypeBits(value.dtype)) / 8;
    if (bytes > most) return `the result has ${bytes} bytes, more than what it replaces`;
  }
  return undefined;
}

/** Bits per element of a stored weight; indices, shapes and flags (64-bit, bool) do not count as packed weights. */
function weightBits(origin: Value): number {
  const dtype: DType | undefined = origin.dtype;
  if (dtype === undefined || dtype === "bool" || (origin.tensor?.elements ?? 0) < 64) return 64;
  return dtypeBits(dtype) < 32 ? dtypeBits(dtype) : 64;
}

/** Bytes of constants that go when a result takes their place: nothing but that result depends on them. */
function bytesFreed(
  results: readonly Result[],
  foldable: ReadonlySet<Node>,
  returned: ReadonlySet<Value>,
): ReadonlyMap<Result, number> {
  const behind = new Map<Value, number>(); // results of each constant
  for (const { origins } of results) for (const origin of origins) behind.set(origin, (behind.get(origin) ?? 0) + 1);
  return new Map(
    results.map((result) => {
      let bytes = 0;
      for (const origin of result.origins)
        if (behind.get(origin) === 1 && !returned.has(origin) && origin.uses.every(({ node }) => foldable.has(node)))
          bytes += origin.tensor?.byteLength ?? 0;
      return [result, bytes];
    }),
  );
}

/** Copies the constant part into a model of its own, runs it once, and puts the results in place. */
async function evaluate(
  model: Model,
  graph: Graph,
  results: readonly Result[],
  run: ConstantEvaluator,
  {
    growth,
    freed,
    skipped,
  }: {
    readonly growth: number;
    readonly freed: ReadonlyMap<Result, number>;
    readonly skipped: Map<string, string>;
  },
): Promise<void> {
  const wanted = results.map(({ values }) => values[0] as Value);
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
  let computed: ReadonlyMap<string, Tensor>;
  try {
    computed = await run(part);
  } catch (error) {
    for (const value of wanted)
      skipped.set(
        value.producer?.name || value.name,
        `the engine could not compute it: ${error instanceof Error ? error.message : String(error)}`,
      );
    return;
  }
  for (const result of results) {
    const [value] = result.values as [Value];
    const tensor = computed.get((copies.get(value) as Value).name);
    if (!tensor) continue;
    if (tensor.byteLength > Math.min(LARGEST_RESULT_BYTES, (freed.get(result) ?? 0) + growth)) {
      skipped.set(
        value.producer?.name || value.name,
        `the result has ${tensor.byteLength} bytes, more than what it replaces`,
      );
      continue;
    }
    const constant = graph.addInitializer(value.name, tensor);
    for (const equal of result.values) equal.replaceUses(constant);
  }
}

/** Removes nodes whose outputs nobody reads any more, those behind first. */
function removeUnread(nodes: Set<Node>, outputs: ReadonlySet<Value>): void {
  const gone = new Map<Graph, Node[]>();
  for (const node of [...nodes].reverse()) {
    if (!node.outputs.every((output) => output.uses.length === 0 && !outputs.has(output))) continue;
    const graph = node.graph as Graph;
    gone.set(graph, [...(gone.get(graph) ?? []), node]);
    node.detach();
    nodes.delete(node);
  }
  for (const [graph, own] of gone) graph.remove(...own);
}
