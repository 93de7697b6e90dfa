/** Divides a value for some of its readers: in the constants of the operators before it where that is possible, else by a Mul. */
import { Builder } from "../ir/builder.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import { constantTensor, outputValues } from "./constants.ts";
import { weightsOf } from "./weight-sites.ts";

export interface DividedInput {
  /** The operator whose constants took the scales over; undefined where a Mul was inserted. */
  readonly folded: string | undefined;
}

/** How far before the value constants may be changed: those of the operator that gives it, or those on the way to them too. */
export type FoldReach = "producer" | "way";

/** A constant with the channels along an axis. */
interface FoldSite {
  readonly node: Node;
  readonly input: number;
  readonly axis: number;
}

/**
 * Makes input `input` of `readers`, all of which read `value` there, value/scales along its last axis of scales.length channels.
 * Folded into a normalization's scale and bias, or into a constant factor, when nobody else reads the value; on the `way` to it also
 * through sums with constants, rectifiers and one side of a product, and into the columns of a layer's weights.
 */
export async function divideInput(
  model: Model,
  value: Value,
  readers: readonly Node[],
  scales: Float32Array,
  reach: FoldReach = "producer",
): Promise<DividedInput> {
  const factors = scales.map((s) => 1 / s);
  const graph = readers[0]?.graph ?? model.graph;
  const sites = foldSites(model, value, readers, scales.length, reach);
  if (sites) {
    for (const { node, input, axis } of sites) {
      const old = node.inputs[input] as Value;
      const scaled = await scaleAxis(old.tensor as Tensor, axis, factors);
      if (old.uses.length === 1) old.tensor = scaled;
      else node.setInput(input, graph.addInitializer(`${old.name}.scaled`, scaled));
    }
    return { folded: sites[0] && (sites[0].node.name || sites[0].node.opType) };
  }
  const b = new Builder(graph, { prefix: `${value.name}.`, before: readers[0] });
  const scaled = b.op("Mul", [value, b.constant("factors", Tensor.float32([scales.length], factors))], {
    name: "scaled",
  });
  [scaled.dtype, scaled.shape] = [value.dtype, value.shape];
  for (const use of value.uses.slice()) if (readers.includes(use.node)) use.node.setInput(use.index, scaled);
  return { folded: undefined };
}

/** True where {@link divideInput} needs no multiplication. */
export function canFold(
  model: Model,
  value: Value,
  readers: readonly Node[],
  channels: number,
  reach: FoldReach,
): boolean {
  return foldSites(model, value, readers, channels, reach) !== undefined;
}

/** A float32 tensor with index c of an axis multiplied by factors[c]. */
export async function scaleAxis(tensor: Tensor, axis: number, factors: Float32Array): Promise<Tensor> {
  const { shape } = tensor;
  const inner = shape.slice(axis + 1).reduce((product, size) => product * size, 1);
  const size = shape[axis] ?? 1;
  const data = (await tensor.data()) as Float32Array;
  return Tensor.float32(
    shape,
    data.map((x, at) => x * (factors[Math.floor(at / inner) % size] as number)),
  );
}

/** Inputs of normalizations along the last axis (by default) in which their first output is linear: scale and shift. */
const LINEAR_INPUTS: Readonly<Record<string, readonly number[]>> = {
  LayerNormalization: [1, 2],
  RMSNormalization: [1],
  SimplifiedLayerNormalization: [1],
  SkipLayerNormalization: [2, 3],
  SkipSimplifiedLayerNormalization: [2],
};

/** Constants that make the value linearly, channel by channel along its last axis; undefined where it cannot be made so. */
function foldSites(
  model: Model,
  value: Value,
  readers: readonly Node[],
  channels: number,
  reach: FoldReach,
): FoldSite[] | undefined {
  const node = value.producer;
  const alone = value.uses.every((use) => readers.includes(use.node)) && !outputValues(model).has(value);
  if (!node || !alone || node.outputs[0] !== value) return undefined;
  const last = (input: number): FoldSite => ({
    node,
    input,
    axis: (node.inputs[input]?.tensor?.shape.length ?? 1) - 1,
  });
  const vector = node.inputs.findIndex((input) => isVector(model, input, channels));
  const isProduct = node.domain === "" && node.opType === "Mul";
  if (isProduct && vector >= 0) return [last(vector)];
  const normalization = normalizationInputs(model, node, channels);
  if (normalization) return normalization.map(last);
  if (reach === "producer") return undefined;
  const before = (input: Value | undefined): FoldSite[] | undefined =>
    input && foldSites(model, input, [node], channels, reach);
  const traits = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits;
  if (isProduct) return before(node.inputs[0]) ?? before(node.inputs[1]);
  if (node.domain === "" && node.opType === "Add") {
    const rest = vector >= 0 ? before(node.inputs[1 - vector]) : undefined;
    return rest && [...rest, last(vector)];
  }
  if (traits?.elementwise && traits.homogeneous && node.inputs.length === 1) return before(node.inputs[0]);
  return traits?.linear === "matmul" || traits?.linear === "gemm" ? layerSites(model, node, channels) : undefined;
}

function isVector(model: Model, value: Value | undefined, channels: number): boolean {
  const tensor = constantTensor(model, value);
  return (
    value?.tensor !== undefined &&
    tensor?.dtype === "float32" &&
    tensor.elements === channels &&
    tensor.shape.at(-1) === channels
  );
}

function normalizationInputs(model: Model, node: Node, channels: number): readonly number[] | undefined {
  const axis = node.int("axis", -1);
  if (axis !== -1 && axis + 1 !== node.inputs[0]?.shape?.length) return undefined;
  const inputs = LINEAR_INPUTS[node.opType]?.filter((input) => node.inputs[input]);
  return inputs?.every((input) => isVector(model, node.inputs[input], channels)) ? inputs : undefined;
}

/** Columns of the weights of a layer, and its bias. */
function layerSites(model: Model, node: Node, channels: number): FoldSite[] | undefined {
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  const kernel = spec && weightsOf(spec, node).find(({ role, input }) => role === "kernel" && input === 1);
  const tensor = constantTensor(model, node.inputs[1]);
  const axis = kernel?.channelAxis;
  if (axis === undefined || !node.inputs[1]?.tensor || tensor?.dtype !== "float32" || tensor.shape.length !== 2)
    return undefined;
  if (tensor.shape[axis] !== channels) return undefined;
  const sites: FoldSite[] = [{ node, input: 1, axis }];
  if (spec?.traits?.linear === "matmul" || !node.inputs[2]) return sites;
  return isVector(model, node.inputs[2], channels) ? [...sites, { node, input: 2, axis: 0 }] : undefined;
}
