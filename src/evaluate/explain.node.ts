/** Reads one layer's weights out of a model and out of what compression made of it: the engine unpacks them as it will when it runs. */
import { layerWeights } from "../analyse/layer-weights.ts";
import { matchKeep, nameOf } from "../analyse/keep.ts";
import { inferShapes } from "../analyse/shapes.ts";
import { toFloat32 } from "../base/to-float32.ts";
import { PareError } from "../base/error.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Node, Value } from "../ir/graph.ts";
import { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import { evaluateConstants } from "../run/fold.node.ts";
import { freezeDefaults, liftConstants } from "../transform/constants.ts";
import { extract } from "../transform/extract.ts";
import { weightSites, weightsOf } from "../transform/weight-sites.ts";
import { type LayerView, viewLayer } from "./layer-view.ts";
import { matchValues } from "./match-values.ts";

/** What `explain --json` prints. */
export interface Explanation extends LayerView {
  readonly layer: string;
  readonly op: string;
  /** Operator that computes the layer after compression. */
  readonly opAfter: string;
  readonly dtype: string;
  /** Stored bits of a weight after compression, scales included; tables that other layers use too are not counted. */
  readonly bitsPerWeight: number;
  readonly bytesBefore: number;
  /** Scales, zero points and own codebooks included. */
  readonly bytesAfter: number;
}

/** Elements of the identity matrix that reads a packed weight out. */
const MOST_IDENTITY = 2 ** 26;

/**
 * Compares one layer, named like in `keep`, of two models. Errors: `bad-option` when the name means no layer with weights or several,
 * `bad-model` when the changed model has no such layer, `unsupported` when its weights cannot be read out.
 */
export async function explainLayer(original: Model, changed: Model, layer: string): Promise<Explanation> {
  const [before, after] = [prepared(original), prepared(changed)];
  const node = layerNamed(before, layer);
  const twin = twinOf(before, after, node);
  const [own, made] = [await readWeight(before, node), await readWeight(after, twin)];
  if (own.shape.join() !== made.shape.join() && own.shape.toReversed().join() !== made.shape.join())
    throw new PareError("bad-model", "The layer has another shape in the changed model", {
      where: nameOf(node),
      found: made.shape.join("×"),
      expected: own.shape.join("×"),
      help: "explain compares number formats; cut channels cannot be compared weight by weight",
    });
  const values =
    own.shape.join() === made.shape.join()
      ? made.values
      : transposed(made.values, made.shape[0] ?? 1, made.shape[1] ?? 1);
  const view = viewLayer(own, { ...own, values });
  const [stored, packed] = [storedOf(before, node), storedOf(after, twin)];
  return {
    layer: nameOf(node),
    op: node.opType,
    opAfter: twin.opType,
    dtype: stored.dtype,
    bitsPerWeight: (8 * packed.bytes) / view.elements,
    bytesBefore: stored.bytes,
    bytesAfter: packed.bytes,
    ...view,
  };
}

function prepared(model: Model): Model {
  const copy = cloneModel(model);
  freezeDefaults(copy);
  liftConstants(copy);
  inferShapes(copy);
  return copy;
}

/** The one layer with weights that a pattern names. */
function layerNamed(model: Model, pattern: string): Node {
  const keep = matchKeep([pattern], model);
  const nodes = new Set<Node>();
  for (const { value, uses } of weightSites(model))
    for (const { node } of uses) if (keep.value(value) || keep.node(node)) nodes.add(node);
  const [first] = nodes;
  if (first && nodes.size === 1) return first;
  const names = [...(first ? nodes : weightSites(model).flatMap(({ uses }) => uses.map(({ node }) => node)))].map(
    nameOf,
  );
  const some = names.length > 8 ? `${names.slice(0, 8).join(", ")} and ${names.length - 8} more` : names.join(", ");
  throw new PareError("bad-option", first ? "Several layers have that name" : "No layer with weights has that name", {
    where: `layer '${pattern}'`,
    ...(first ? { found: some } : { expected: `one of ${some}` }),
    ...(keep.warnings[0] && !first
      ? { help: keep.warnings[0].replace(/^keep .*model;? ?/, "") || "'pare inspect' lists all" }
      : {}),
  });
}

/** The same layer of the changed model: by its name, else by the value that it computes. */
function twinOf(before: Model, after: Model, node: Node): Node {
  const weighted = (candidate: Node): boolean => kernelOf(after, candidate) !== undefined;
  const named = [...after.graph.allNodes()].find((other) => nameOf(other) === nameOf(node));
  if (named && weighted(named)) return named;
  const pair = matchValues(before, after).pairs.find(({ reference }) => reference.producer === node);
  // A bias may have become an addition behind the product.
  for (let value: Value | undefined = pair?.candidate; value?.producer; value = value.producer.inputs[0])
    if (weighted(value.producer)) return value.producer;
  throw new PareError("bad-model", "The changed model has no such layer", {
    where: nameOf(node),
    help: "Name the original and a model that was made from it",
  });
}

/** Index of the kernel or table among a node's inputs, if it is constant. */
function kernelOf(model: Model, node: Node): number | undefined {
  const opset = model.opsets.get(node.domain) ?? 1;
  return layerWeights(node, opset).find(({ weight }) => weight.role === "kernel" || weight.role === "table")?.weight
    .input;
}

function storedOf(model: Model, node: Node): { readonly bytes: number; readonly dtype: string } {
  const opset = model.opsets.get(node.domain) ?? 1;
  const input = kernelOf(model, node);
  const found = layerWeights(node, opset).find(({ weight }) => weight.input === input);
  const own = (found?.stored ?? []).filter(({ value }) => !value?.name.startsWith("pare."));
  const tensors = new Set(own.map(({ tensor }) => tensor));
  const bytes = [...tensors].reduce((sum, { byteLength }) => sum + byteLength, 0);
  return { bytes, dtype: found?.stored[0]?.tensor.dtype ?? "float32" };
}

/** The numbers that a layer multiplies with, as its operator reads them. */
async function readWeight(
  model: Model,
  node: Node,
): Promise<{ readonly values: Float32Array; readonly shape: readonly number[]; readonly channelAxis: number }> {
  const input = kernelOf(model, node);
  const value = input === undefined ? undefined : node.inputs[input];
  if (!value) throw unreadable(node);
  const part = isPacked(node) ? packedReader(model, node) : extract(model, [], [value]);
  if (!part) throw unreadable(node);
  const constant = isPacked(node) ? undefined : value.tensor;
  const tensor = constant ?? [...(await evaluateConstants(part)).values()][0];
  if (!tensor) throw unreadable(node);
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  const axis = spec && weightsOf(spec, node).find((weight) => weight.input === input)?.channelAxis;
  const values = toFloat32(tensor.dtype, await tensor.bytes(), tensor.elements);
  return { values, shape: tensor.shape, channelAxis: axis ?? 0 };
}

function unreadable(node: Node): PareError {
  return new PareError("unsupported", "The weights of this layer cannot be read out", {
    where: `${nameOf(node)} (${node.opType})`,
  });
}

/** True if the operator itself unpacks its weight. */
function isPacked(node: Node): boolean {
  return node.opType === "MatMulNBits" || node.opType === "GatherBlockQuantized";
}

/** A model without inputs that gives a packed weight: the product with the identity, in floats, or every row of a table. */
function packedReader(model: Model, node: Node): Model | undefined {
  const table = node.opType === "GatherBlockQuantized";
  const [rows, k] = [node.inputs[0]?.tensor?.shape[0] ?? 1, node.int("K", 1)];
  const [data, result] = [node.inputs[table ? 1 : 0], node.outputs[0]];
  if ((!table && k * k > MOST_IDENTITY) || !data || !result) return undefined;
  const part = extract(model, [data], [result]);
  const [fed] = part?.graph.inputs ?? [];
  const reader = part?.graph.outputs[0]?.producer;
  if (!part || !fed || !reader) return undefined;
  const every = table
    ? Tensor.int64(Array.from({ length: rows }, (_, row) => row))
    : Tensor.float32(
        [k, k],
        Float32Array.from({ length: k * k }, (_, i) => (i % (k + 1) === 0 ? 1 : 0)),
      );
  fed.replaceUses(part.graph.addInitializer("rows", every));
  part.graph.inputs.length = 0;
  if (!table) {
    reader.attributes.set("accuracy_level", { type: "int", value: 0 });
    if (reader.inputs[5]) reader.setInput(5, undefined); // its bias is no weight
  }
  (part.graph.outputs[0] as Value).dtype = "float32";
  return part;
}

function transposed(values: Float32Array, rows: number, cols: number): Float32Array {
  return Float32Array.from(
    { length: values.length },
    (_, i) => values[(i % rows) * cols + Math.floor(i / rows)] as number,
  );
}
