/** Merges equal computations and equal constants: what is computed or stored twice is kept once. */
import type { Attribute } from "../ir/attribute.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import { isOverridable, outputValues } from "./constants.ts";

/** Bytes compared at a time, so that two tensors of any size are compared in bounded memory. */
const CHUNK_BYTES = 1 << 22;
/** Constants above this size are looked at for transposed ties; a smaller tie is not worth a word. */
const TIE_BYTES = 1 << 14;

/** Merges nodes with equal operator, attributes and inputs. Random and stateful operators are left alone. */
export function mergeDuplicateNodes(model: Model): number {
  let merged = 0;
  const outputs = outputValues(model);
  for (const graph of model.graph.allGraphs()) {
    const ids = new Map<Value, number>();
    const idOf = (value: Value): number => {
      const known = ids.get(value);
      if (known !== undefined) return known;
      ids.set(value, ids.size);
      return ids.size - 1;
    };
    const seen = new Map<string, Node>();
    const gone: Node[] = [];
    for (const node of graph.nodes) {
      const key = computationKey(node, model, idOf);
      if (key === undefined) continue;
      const first = seen.get(key);
      if (!first) {
        seen.set(key, node);
        continue;
      }
      if (node.outputs.length !== first.outputs.length || node.outputs.some((output) => outputs.has(output))) continue;
      for (const [index, output] of node.outputs.entries()) {
        const kept = first.outputs[index];
        if (kept) output.replaceUses(kept);
      }
      gone.push(node);
      merged++;
    }
    if (gone.length > 0) graph.remove(...gone);
  }
  return merged;
}

/** Text that is equal for nodes that compute the same, inputs being equal where their numbers are; undefined for nodes that must not be merged. */
export function computationKey(node: Node, model: Model, idOf: (value: Value) => number): string | undefined {
  const opset = model.opsets.get(node.domain) ?? 1;
  const spec = specOf(node, opset);
  if (!spec || spec.traits?.impure || [...node.subgraphs()].length > 0) return undefined;
  const attributes: string[] = [];
  for (const name of [...node.attributes.keys()].sort()) {
    const text = attributeKey(node.attributes.get(name));
    if (text === undefined) return undefined;
    attributes.push(`${name}=${text}`);
  }
  const inputs = node.inputs.map((input) => (input ? idOf(input) : "-"));
  return [node.domain, node.opType, node.outputs.length, inputs.join(","), ...attributes].join("|");
}

function attributeKey(attribute: Attribute | undefined): string | undefined {
  switch (attribute?.type) {
    case "float":
    case "int":
      return `${attribute.type}:${Object.is(attribute.value, -0) ? "-0" : attribute.value}`;
    case "floats":
    case "ints":
      return `${attribute.type}:${attribute.value.join(",")}`;
    case "string":
      return `string:${attribute.value.join(",")}`;
    default:
      return undefined; // tensors, graphs and references: merged as constants or not at all
  }
}

/** One set of equal constants that became one. */
export interface MergedConstant {
  readonly kept: string;
  readonly merged: readonly string[];
  /** Bytes no longer stored. */
  readonly bytes: number;
}

export interface MergedConstants {
  readonly groups: readonly MergedConstant[];
  /** Pairs in which one matrix is the other transposed: tied weights that a graph may share through `Transpose`. */
  readonly transposed: readonly (readonly [string, string])[];
}

/** Merges constants of the same graph with equal dtype, shape and bytes; contents are compared in full, never by hash alone. */
export async function mergeDuplicateConstants(model: Model): Promise<MergedConstants> {
  const groups: MergedConstant[] = [];
  const transposed: [string, string][] = [];
  for (const graph of model.graph.allGraphs()) {
    const bySize = new Map<string, Value[]>();
    for (const value of graph.initializers.values()) {
      const tensor = value.tensor;
      if (!tensor || tensor.strings || isOverridable(model, value) || graph.isOutput(value)) continue;
      const key = `${tensor.dtype}:${tensor.byteLength}`;
      bySize.set(key, [...(bySize.get(key) ?? []), value]);
    }
    for (const candidates of bySize.values()) {
      if (candidates.length < 2) continue;
      await mergeAmong(graph, candidates, groups);
      await findTransposed(graph, candidates, transposed);
    }
  }
  return { groups, transposed };
}

async function mergeAmong(graph: Graph, candidates: readonly Value[], groups: MergedConstant[]): Promise<void> {
  const byHead = new Map<string, Value[]>();
  for (const value of candidates) {
    const tensor = value.tensor as Tensor;
    const head = await tensor.source.read(0, Math.min(tensor.source.byteLength, 256));
    const key = `${tensor.shape.join("x")}:${head.join(",")}`;
    byHead.set(key, [...(byHead.get(key) ?? []), value]);
  }
  for (const alike of byHead.values()) {
    const left = [...alike];
    for (let kept = left.shift(); kept; kept = left.shift()) {
      const merged: string[] = [];
      for (const other of left.slice()) {
        if (!(await sameBytes(kept.tensor as Tensor, other.tensor as Tensor))) continue;
        left.splice(left.indexOf(other), 1);
        other.replaceUses(kept);
        graph.removeInitializer(other);
        merged.push(other.name);
      }
      const bytes = merged.length * (kept.tensor?.byteLength ?? 0);
      if (merged.length > 0) groups.push({ kept: kept.name, merged, bytes });
    }
  }
}

async function sameBytes(a: Tensor, b: Tensor): Promise<boolean> {
  if (a === b || a.source === b.source) return true;
  for (let offset = 0; offset < a.source.byteLength; offset += CHUNK_BYTES) {
    const length = Math.min(CHUNK_BYTES, a.source.byteLength - offset);
    const [left, right] = await Promise.all([a.source.read(offset, length), b.source.read(offset, length)]);
    for (let i = 0; i < length; i++) if (left[i] !== right[i]) return false;
  }
  return true;
}

/** Notes pairs (r, c), (c, r) of float matrices with a_ij = b_ji, first on a sample, then in full. */
async function findTransposed(graph: Graph, candidates: readonly Value[], found: [string, string][]): Promise<void> {
  const matrices = candidates.filter(
    (value) =>
      graph.initializers.get(value.name) === value &&
      value.tensor?.dtype === "float32" &&
      value.tensor.shape.length === 2 &&
      value.tensor.byteLength >= TIE_BYTES,
  );
  for (const [index, left] of matrices.entries())
    for (const right of matrices.slice(index + 1)) {
      const a = left.tensor as Tensor;
      const b = right.tensor as Tensor;
      const [rows = 0, cols = 0] = a.shape;
      if (b.shape[0] !== cols || b.shape[1] !== rows) continue;
      if (await isTranspose(a, b, rows, cols)) found.push([left.name, right.name]);
    }
}

async function isTranspose(a: Tensor, b: Tensor, rows: number, cols: number): Promise<boolean> {
  const at = async (tensor: Tensor, index: number): Promise<number> =>
    new DataView((await tensor.source.read(index * 4, 4)).slice().buffer).getUint32(0, true);
  for (let probe = 0; probe < 16; probe++) {
    const i = (probe * 7919) % rows;
    const j = (probe * 104729) % cols;
    if ((await at(a, i * cols + j)) !== (await at(b, j * rows + i))) return false;
  }
  const [left, right] = [(await a.data()) as Float32Array, (await b.data()) as Float32Array];
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < cols; j++) if (left[i * cols + j] !== right[j * rows + i]) return false;
  return true;
}
