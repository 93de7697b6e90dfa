/** What differs between two models, by name: operators, nodes, weights, opsets, metadata. */
import { byteLengthOf } from "../base/dtype.ts";
import { formatShape } from "../base/shape.ts";
import type { Graph, Node } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";

/** One thing that is in both models and not the same. */
export interface Changed {
  readonly name: string;
  readonly before: string;
  readonly after: string;
}

export interface Differences {
  readonly removed: readonly string[];
  readonly added: readonly string[];
  readonly changed: readonly Changed[];
}

export interface ModelDiff {
  readonly identical: boolean;
  /** Count per operator where it differs. */
  readonly operators: readonly { readonly op: string; readonly before: number; readonly after: number }[];
  readonly ports: Differences;
  readonly nodes: Differences;
  readonly weights: Differences;
  /** Opset imports and metadata. */
  readonly header: Differences;
}

/**
 * Compares structure and weights. Weights of equal dtype and shape are read and compared byte by byte, a pair at a time.
 * Nodes are matched by name, and by their first output where they have none.
 */
export async function diffModels(before: Model, after: Model): Promise<ModelDiff> {
  const counts = [countOperators(before.graph), countOperators(after.graph)] as const;
  const operators = [...new Set([...counts[0].keys(), ...counts[1].keys()])]
    .sort()
    .map((op) => ({ op, before: counts[0].get(op) ?? 0, after: counts[1].get(op) ?? 0 }))
    .filter((row) => row.before !== row.after);
  const ports = differences(portsOf(before), portsOf(after));
  const nodes = differences(nodesOf(before.graph), nodesOf(after.graph));
  const weights = await weightDifferences(before.graph, after.graph);
  const header = differences(headerOf(before), headerOf(after));
  const identical = [ports, nodes, weights, header].every(
    ({ removed, added, changed }) => removed.length + added.length + changed.length === 0,
  );
  return { identical, operators, ports, nodes, weights, header };
}

/** Differences of two tables from name to description. */
function differences(before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>): Differences {
  return {
    removed: [...before.keys()].filter((name) => !after.has(name)),
    added: [...after.keys()].filter((name) => !before.has(name)),
    changed: [...before].flatMap(([name, text]) => {
      const now = after.get(name);
      return now === undefined || now === text ? [] : [{ name, before: text, after: now }];
    }),
  };
}

function countOperators(graph: Graph): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { opType } of graph.allNodes()) counts.set(opType, (counts.get(opType) ?? 0) + 1);
  return counts;
}

function portsOf({ graph }: Model): Map<string, string> {
  const ports = new Map<string, string>();
  for (const [kind, values] of [["input", graph.inputs] as const, ["output", graph.outputs] as const])
    for (const value of values) ports.set(`${kind} ${value.name}`, `${value.dtype ?? "?"} ${formatShape(value.shape)}`);
  return ports;
}

function nodesOf(graph: Graph): Map<string, string> {
  const nodes = new Map<string, string>();
  for (const node of graph.allNodes())
    nodes.set(node.name || (node.outputs[0]?.name ?? node.opType), describeNode(node));
  return nodes;
}

function describeNode(node: Node): string {
  const attributes = [...node.attributes]
    .filter(([, { type }]) => type !== "graph" && type !== "graphs")
    .map(([name, { type, value }]) => `${name}=${type === "string" ? new TextDecoder().decode(value) : String(value)}`)
    .sort();
  const list = attributes.length > 0 ? ` {${attributes.join(", ")}}` : "";
  return `${node.opType}(${node.inputs.map((input) => input?.name ?? "").join(", ")})${list}`;
}

function headerOf(model: Model): Map<string, string> {
  const header = new Map<string, string>([["ir version", String(model.irVersion)]]);
  for (const [domain, version] of model.opsets) header.set(`opset ${domain || "ai.onnx"}`, String(version));
  for (const [key, value] of model.metadata) header.set(`metadata ${key}`, value);
  return header;
}

async function weightDifferences(before: Graph, after: Graph): Promise<Differences> {
  const [old, now] = [weightsOf(before), weightsOf(after)];
  const describe = (table: ReadonlyMap<string, Tensor>) =>
    new Map([...table].map(([name, tensor]) => [name, describeTensor(tensor)] as const));
  const { removed, added, changed } = differences(describe(old), describe(now));
  const rewritten: Changed[] = [];
  for (const [name, tensor] of old) {
    const other = now.get(name);
    if (!other || describeTensor(tensor) !== describeTensor(other)) continue;
    const count = await differingBytes(tensor, other);
    if (count > 0) rewritten.push({ name, before: describeTensor(tensor), after: `same type, ${count} bytes differ` });
  }
  return { removed, added, changed: [...changed, ...rewritten] };
}

function weightsOf(root: Graph): Map<string, Tensor> {
  const weights = new Map<string, Tensor>();
  for (const graph of root.allGraphs())
    for (const [name, { tensor }] of graph.initializers) if (tensor) weights.set(name, tensor);
  return weights;
}

function describeTensor(tensor: Tensor): string {
  const bytes = tensor.dtype === "string" ? tensor.byteLength : byteLengthOf(tensor.dtype, tensor.elements);
  return `${tensor.dtype} ${formatShape(tensor.shape)}, ${bytes} bytes`;
}

async function differingBytes(a: Tensor, b: Tensor): Promise<number> {
  if (a.source === b.source || a.strings || b.strings) return 0;
  const [x, y] = [await a.bytes(), await b.bytes()];
  let count = 0;
  for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) count++;
  return count;
}
