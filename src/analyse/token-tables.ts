/** The vocabulary of a model: which input has token numbers, which tables they look up, and who else reads the numbers. */
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import type { OpSpec } from "../ops/spec.ts";
import { nameOf } from "./keep.ts";

export interface TokenTables {
  readonly input: Value;
  /** Rows of the tables. */
  readonly size: number;
  /** Tables of that many rows that the numbers look up. */
  readonly tables: readonly Value[];
  /** Nodes that compute with the numbers themselves. */
  readonly others: readonly Node[];
}

/** Inputs of these names are integers, but not tokens. */
const NOT_TOKENS = /mask|position|segment|type|length/i;

/** Operators that pass numbers on, and those that read no numbers at all. */
const PASSING: ReadonlySet<string> = new Set([
  "Cast",
  "Expand",
  "Flatten",
  "Identity",
  "Reshape",
  "Slice",
  "Squeeze",
  "Transpose",
  "Unsqueeze",
]);
const SHAPES_ONLY: ReadonlySet<string> = new Set(["Shape", "Size"]);

/** For each integer input what its numbers look up, the largest vocabulary first. Shapes must have been inferred. */
export function tokenTables(model: Model): TokenTables[] {
  return model.graph.inputs
    .filter((input) => !input.tensor && (input.dtype === "int64" || input.dtype === "int32"))
    .flatMap((input) => tablesOf(model, input) ?? [])
    .sort((a, b) => Number(NOT_TOKENS.test(a.input.name)) - Number(NOT_TOKENS.test(b.input.name)) || b.size - a.size);
}

function tablesOf(model: Model, input: Value): TokenTables | undefined {
  const found = new Map<Value, number>();
  const others = new Set<Node>();
  const seen = new Set([input]);
  const open = [input];
  for (let value = open.pop(); value; value = open.pop())
    for (const { node, index } of value.uses) {
      const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
      const tables = spec?.traits?.lookup ? tablesRead(node, spec, index) : [];
      if (tables.length > 0) {
        const rows = Math.max(...tables.map(({ shape }) => Number(shape?.[0] ?? 0)));
        for (const table of tables) if (Number(table.shape?.[0]) === rows) found.set(table, rows);
      } else if (node.domain === "" && PASSING.has(node.opType) && index === 0) {
        for (const output of node.outputs)
          if (!seen.has(output)) {
            seen.add(output);
            open.push(output);
          }
      } else if (node.domain !== "" || !SHAPES_ONLY.has(node.opType)) others.add(node);
    }
  const size = Math.max(0, ...found.values());
  const tables = [...found].flatMap(([table, rows]) => (rows === size ? [table] : []));
  return tables.length > 0 ? { input, size, tables, others: [...others] } : undefined;
}

/** Stored tables of the node, if the input at hand is not one of them. */
function tablesRead(node: Node, spec: OpSpec, index: number): Value[] {
  const weights = typeof spec.weights === "function" ? spec.weights(node) : (spec.weights ?? []);
  const tables = weights.filter(({ role, channelAxis }) => role === "table" && channelAxis === 0);
  if (tables.some(({ input }) => input === index)) return [];
  return tables.flatMap(({ input }) => {
    const value = node.inputs[input];
    return value?.tensor ? [value] : [];
  });
}

/** What a message calls a node that computes with token numbers. */
export function readerText(node: Node): string {
  return `${node.opType} '${nameOf(node)}'`;
}
