/** Raises a model to a newer version of the standard operator set, rewriting the operators whose form or meaning changed. */
import { inferTypes } from "../analyse/shapes.ts";
import { PareError } from "../base/error.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { AdapterContext, AdapterTable, KnownType } from "./opset/adapter.ts";
import {
  MEANING_10,
  MEANING_11,
  MEANING_13,
  MEANING_14,
  MEANING_16,
  MEANING_20,
  MEANING_21,
  MEANING_9,
} from "./opset/meaning.ts";
import {
  TO_INPUTS_10,
  TO_INPUTS_11,
  TO_INPUTS_12,
  TO_INPUTS_13,
  TO_INPUTS_18,
  TO_INPUTS_20,
} from "./opset/to-inputs.ts";

/** Oldest opset that is read: before it, broadcasting was an attribute. */
const OLDEST_OPSET = 7;

/** Newest opset whose changes are known here. */
export const NEWEST_OPSET = 25;

/** Tables by the opset in which their operators changed. Operators that are in none carry over as they are. */
const TABLES: ReadonlyMap<number, readonly AdapterTable[]> = new Map([
  [9, [MEANING_9]],
  [10, [TO_INPUTS_10, MEANING_10]],
  [11, [TO_INPUTS_11, MEANING_11]],
  [12, [TO_INPUTS_12]],
  [13, [TO_INPUTS_13, MEANING_13]],
  [14, [MEANING_14]],
  [16, [MEANING_16]],
  [18, [TO_INPUTS_18]],
  [20, [TO_INPUTS_20, MEANING_20]],
  [21, [MEANING_21]],
]);

/** IR version that files with an opset must at least have, as pairs of opset and IR version. */
const IR_VERSIONS: readonly (readonly [opset: number, ir: number])[] = [
  [25, 13],
  [24, 12],
  [23, 11],
  [21, 10],
  [19, 9],
  [15, 8],
  [12, 7],
  [11, 6],
  [10, 5],
  [9, 4],
];

/** One node that was rewritten. */
export interface OpsetChange {
  readonly node: string;
  readonly opType: string;
  /** The opset in which its operator changed. */
  readonly since: number;
}

/**
 * Converts the model in place, subgraphs included, and returns the nodes that were rewritten. Local functions import their
 * own opsets and are left alone; so are other domains. Throws `unsupported` naming every node that cannot be converted,
 * with the model unchanged; `bad-option` for a target that is older than the model or newer than {@link NEWEST_OPSET}.
 */
export function convertOpset(model: Model, target: number): OpsetChange[] {
  const from = model.opset;
  if (target === from) return [];
  if (!Number.isInteger(target) || target < from || target > NEWEST_OPSET)
    throw new PareError("bad-option", "The opset cannot be converted to this version", {
      found: String(target),
      expected: `${from} (the model's) to ${NEWEST_OPSET}`,
    });
  if (from < OLDEST_OPSET)
    throw new PareError("unsupported", "The model's opset is too old to be converted", {
      found: String(from),
      expected: `${OLDEST_OPSET} or later`,
      help: "Export the network again with a newer exporter",
    });
  const refused = convert(cloneModel(model), target).refused;
  if (refused.length > 0)
    throw new PareError("unsupported", `${refused.length} node(s) cannot be converted to opset ${target}`, {
      found: refused.slice(0, 5).join("; ") + (refused.length > 5 ? "; …" : ""),
      help: "Choose an older opset, or export the network again",
    });
  return convert(model, target).changes;
}

function convert(model: Model, target: number): { changes: OpsetChange[]; refused: string[] } {
  const { types } = inferTypes(model);
  const unknown: KnownType = { dtype: undefined, shape: undefined };
  const context: AdapterContext = {
    model,
    typeOf(value: Value | undefined) {
      if (!value) return unknown;
      return types.get(value) ?? { dtype: value.dtype, shape: value.shape };
    },
  };
  const changes: OpsetChange[] = [];
  const refused: string[] = [];
  for (let version = model.opset + 1; version <= target; version++)
    for (const table of TABLES.get(version) ?? []) {
      const nodes = Array.from(model.graph.allNodes()); // adapters insert nodes
      for (const node of nodes) {
        const adapter = node.domain === "" && Object.hasOwn(table, node.opType) ? table[node.opType] : undefined;
        if (!adapter) continue;
        const change = { node: nameOf(node), opType: node.opType, since: version };
        const reason = adapter(node, context);
        if (reason === undefined) changes.push(change);
        else refused.push(`${change.node}: ${reason}`);
      }
    }
  model.opsets.set("", target);
  raiseIrVersion(model, target);
  return { changes, refused };
}

function nameOf(node: Node): string {
  return node.name === "" ? `${node.opType} of '${node.outputs[0]?.name ?? ""}'` : `${node.opType} '${node.name}'`;
}

/** Before IR version 4 every initializer had to be an input too, and could not be overridden; after it, such inputs can be. */
function raiseIrVersion(model: Model, opset: number): void {
  const needed = IR_VERSIONS.find(([since]) => opset >= since)?.[1] ?? 3;
  if (model.irVersion >= needed) return;
  if (model.irVersion < 4 && needed >= 4)
    for (const graph of model.graph.allGraphs()) {
      const fed = graph.inputs.filter((input) => input.tensor === undefined);
      graph.inputs.splice(0, graph.inputs.length, ...fed);
    }
  model.irVersion = needed;
}
