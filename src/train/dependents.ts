/** What changes with what: values that depend on others, values that subgraphs capture, and the way to an output. */
import { isFloat, isInteger } from "../base/dtype.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import { specOf } from "../ops/registry.ts";

/** A record's traits, and whether its gradient is zero, do not change with the opset. */
const NEWEST = Number.MAX_SAFE_INTEGER;

/**
 * Every value of the graph and its subgraphs that changes smoothly when one of `sources` changes, the sources included: floats,
 * and the integers between a quantizer and its dequantizer, whose gradient passes straight through.
 */
export function dependents(graph: Graph, sources: Iterable<Value>): Set<Value> {
  const moving = new Set(sources);
  visit(graph, moving);
  return moving;
}

function visit(graph: Graph, moving: Set<Value>): void {
  for (const node of graph.nodes) {
    let reads = node.inputs.some((input) => input && moving.has(input));
    for (const subgraph of node.subgraphs()) {
      // What flows into a body's inputs is not told apart: all of them move where one does.
      if (reads)
        for (const input of subgraph.inputs) if (input.dtype === undefined || isFloat(input.dtype)) moving.add(input);
      visit(subgraph, moving);
      reads ||= subgraph.outputs.some((output) => moving.has(output));
    }
    if (!reads || specOf(node, NEWEST)?.grad === "zero") continue;
    for (const output of node.outputs) if (carries(node, output, moving)) moving.add(output);
  }
}

function carries(node: Node, output: Value, moving: ReadonlySet<Value>): boolean {
  if (output.dtype === undefined || isFloat(output.dtype)) return true;
  if (!isInteger(output.dtype)) return false;
  const traits = specOf(node, NEWEST)?.traits;
  const [data] = node.inputs;
  const passed = data !== undefined && data.dtype === output.dtype && moving.has(data);
  return traits?.rounding === true || (traits?.movement === true && passed);
}

/** Values of outer graphs that a node's subgraphs use, each once, in order of use. */
export function capturedValues(node: Node): Value[] {
  const captured = new Set<Value>();
  for (const subgraph of node.subgraphs()) {
    const own = new Set<Value>();
    for (const inner of subgraph.allGraphs()) for (const value of inner.values()) own.add(value);
    for (const inner of subgraph.allNodes())
      for (const input of inner.inputs) if (input && !own.has(input)) captured.add(input);
    for (const inner of subgraph.allGraphs())
      for (const output of inner.outputs) if (!own.has(output)) captured.add(output);
  }
  return [...captured];
}

/** Nodes of the graph that `of` depends on. */
export function ancestors(graph: Graph, of: Value): Set<Node> {
  const mine = new Set(graph.nodes);
  const found = new Set<Node>();
  const stack = [of];
  for (let value = stack.pop(); value; value = stack.pop()) {
    const { producer } = value;
    if (!producer || !mine.has(producer) || found.has(producer)) continue;
    found.add(producer);
    for (const input of producer.inputs) if (input) stack.push(input);
    if ([...producer.subgraphs()].length > 0) stack.push(...capturedValues(producer));
  }
  return found;
}
