/** Which record describes a node: by domain, operator and opset. */
import type { Node } from "../ir/graph.ts";
import type { OpSpec } from "./spec.ts";
import { activation } from "./activation.ts";
import { attention } from "./attention.ts";
import { contrib } from "./contrib.ts";
import { control } from "./control.ts";
import { conv } from "./conv.ts";
import { elementwise } from "./elementwise.ts";
import type { OpTable } from "./helpers.ts";
import { indexing } from "./indexing.ts";
import { logic } from "./logic.ts";
import { loss } from "./loss.ts";
import { matmul } from "./matmul.ts";
import { movement } from "./movement.ts";
import { normalization } from "./normalization.ts";
import { pooling } from "./pooling.ts";
import { quantization } from "./quantization.ts";
import { random } from "./random.ts";
import { recurrent } from "./recurrent.ts";
import { reduction } from "./reduction.ts";
import { resampling } from "./resize.ts";
import { sequence } from "./sequence.ts";
import { shape } from "./shape.ts";
import { simulatedTable } from "./simulated.ts";
import { signal } from "./signal.ts";

/** Keys are `Op` in the standard domain, `domain::Op` elsewhere. */
const TABLE: ReadonlyMap<string, readonly OpSpec[]> = collect([
  elementwise,
  activation,
  logic,
  conv,
  matmul,
  normalization,
  pooling,
  reduction,
  movement,
  indexing,
  resampling,
  shape,
  recurrent,
  attention,
  quantization,
  control,
  random,
  signal,
  sequence,
  loss,
  contrib,
  simulatedTable,
]);

function collect(tables: readonly OpTable[]): ReadonlyMap<string, readonly OpSpec[]> {
  const all = new Map<string, readonly OpSpec[]>();
  for (const table of tables)
    for (const [key, records] of Object.entries(table)) {
      const list: OpSpec[] = Array.isArray(records) ? [...(records as readonly OpSpec[])] : [records as OpSpec];
      all.set(
        key,
        list.sort((a, b) => b.since - a.since),
      );
    }
  return all;
}

/**
 * The record of a node's operator, or undefined for operators that pare does not know (they are opaque and harmless).
 * `opset` is the version of the node's domain; an operator older than its oldest record is unknown too.
 */
export function specOf(node: Pick<Node, "opType" | "domain">, opset: number): OpSpec | undefined {
  const records = TABLE.get(node.domain === "" ? node.opType : `${node.domain}::${node.opType}`);
  return records?.find((record) => record.since <= opset) ?? (node.domain === "" ? undefined : records?.at(-1));
}

/** Every operator that has a record, as `Op` or `domain::Op`. */
export function knownOperators(): readonly string[] {
  return [...TABLE.keys()].sort();
}
