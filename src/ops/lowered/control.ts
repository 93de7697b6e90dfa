/** Control flow without control: conditions that are known, and loops whose number of iterations is known, written out. */
import { PareError } from "../../base/error.ts";
import { inlineGraph } from "../../ir/clone.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { axisOf, unsqueeze } from "../gradients/words.ts";
import type { Lower, RuleContext } from "../spec.ts";
import { concat, splitEqually, squeezed } from "./words.ts";

/** Longer loops make graphs that take the engine minutes to load. */
const MAX_ITERATIONS = 4096;

function bodyOf(c: RuleContext, name: string): Graph | undefined {
  const attribute = c.node.attributes.get(name);
  return attribute?.type === "graph" ? attribute.value : undefined;
}

function unknownLength(c: RuleContext, found: string): PareError {
  return new PareError("not-differentiable", `The number of iterations of this ${c.node.opType} is not known`, {
    where: `node '${c.node.name}' (${c.node.opType})`,
    found,
    help: "Give the inputs fixed sizes, or freeze what lies before it",
  });
}

// A condition that is the same at every run: the branch that it chooses. Inside other branches conditions stay: what the sizes
// of a branch that is never taken come to need not make sense to the engine.
export const lowerIf: Lower = (c) => {
  if (c.b.graph.parent) return undefined;
  const [condition] = c.node.inputs;
  const known = condition?.tensor?.peekNumbers() ?? c.contents(condition);
  const branch = known && bodyOf(c, known[0] ? "then_branch" : "else_branch");
  return branch && inlineGraph(c.b.graph, branch, []);
};

// The body once for each iteration; scanned outputs are stacked
export const lowerLoop: Lower = (c) => {
  const { node } = c;
  const body = bodyOf(c, "body");
  const [limit, condition, ...first] = node.inputs;
  const numbers = (value: Value | undefined): readonly number[] | undefined =>
    value?.tensor?.peekNumbers() ?? c.contents(value);
  if (!body) return undefined;
  const most = limit ? numbers(limit)?.[0] : undefined;
  const starts = condition ? numbers(condition)?.[0] : 1;
  const goesOn = numbers(body.outputs[0])?.[0] === 1;
  const count = starts === 0 ? 0 : most;
  if (count === undefined || count > MAX_ITERATIONS)
    throw unknownLength(c, limit ? `a limit of ${count ?? "any size"}` : "no limit");
  if (starts === undefined || (count > 1 && !goesOn))
    throw unknownLength(c, "a condition that is computed while the graph runs");
  const isScanned = node.outputs.length > first.length;
  if (count === 0 && isScanned) throw unknownLength(c, "none, so that its stacked outputs are empty");
  let carried = first as Value[];
  const scanned: Value[][] = [];
  const stored = new Map<Value, Value>();
  const goes = c.b.constant("condition", Tensor.of("bool", [], Uint8Array.of(1)));
  for (let i = 0; i < count; i++) {
    const iteration = c.b.constant("iteration", Tensor.int64([i], []));
    const outputs = inlineGraph(c.b.graph, body, [iteration, goes, ...carried], stored);
    carried = outputs.slice(1, 1 + first.length);
    scanned.push(outputs.slice(1 + first.length).map((value) => unsqueeze(c, value, [0])));
  }
  const stacks = (scanned[0] ?? []).map((_, k) =>
    concat(
      c,
      scanned.map((row) => row[k] as Value),
      0,
    ),
  );
  return [...carried, ...stacks].slice(0, node.outputs.length);
};

// The body once for each element along the scanned axes
export const lowerScan: Lower = (c) => {
  const { node } = c;
  const body = bodyOf(c, "body");
  const count = node.int("num_scan_inputs", 0);
  if (!body || c.opset < 9) return undefined;
  const states = node.inputs.length - count;
  const inputAxes = node.ints("scan_input_axes") ?? [];
  const inputDirections = node.ints("scan_input_directions") ?? [];
  const scans = node.inputs.slice(states) as Value[];
  const axes = scans.map((value, i) => axisOf(inputAxes[i] ?? 0, value.shape?.length ?? 1));
  const length = scans[0]?.shape?.[axes[0] ?? 0];
  if (typeof length !== "number" || length > MAX_ITERATIONS || length === 0)
    throw unknownLength(c, `a length of ${length ?? "any size"}`);
  const elements = scans.map((value, i) => {
    const axis = axes[i] ?? 0;
    const parts = splitEqually(c, value, axis, length).map((part) => squeezed(c, part, axis));
    return inputDirections[i] ? parts.reverse() : parts;
  });
  let state = node.inputs.slice(0, states) as Value[];
  const rows: Value[][] = [];
  const stored = new Map<Value, Value>();
  for (let t = 0; t < length; t++) {
    const outputs = inlineGraph(c.b.graph, body, [...state, ...elements.map((parts) => parts[t] as Value)], stored);
    state = outputs.slice(0, states);
    rows.push(outputs.slice(states));
  }
  const outputAxes = node.ints("scan_output_axes") ?? [];
  const outputDirections = node.ints("scan_output_directions") ?? [];
  const stacks = (rows[0] ?? []).map((_, k) => {
    const rank = node.outputs[states + k]?.shape?.length;
    const given = outputAxes[k] ?? 0;
    if (given < 0 && rank === undefined) throw unknownLength(c, "a stacked output of unknown rank");
    const axis = axisOf(given, rank ?? 1);
    const parts = rows.map((row) => unsqueeze(c, row[k] as Value, [axis]));
    return concat(c, outputDirections[k] ? parts.reverse() : parts, axis);
  });
  return [...state, ...stacks].slice(0, node.outputs.length);
};
