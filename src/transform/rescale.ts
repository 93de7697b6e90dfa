/** Channels whose scale may be chosen freely: what makes them is divided by a factor, what reads them multiplied, and the model stays the same. */
import { channelGroups, type Family, membersOf } from "../analyse/groups.ts";
import { nameOf } from "../analyse/keep.ts";
import { PareError } from "../base/error.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { specOf } from "../ops/registry.ts";
import type { Traits } from "../ops/spec.ts";
import { clampBounds } from "./clamps.ts";
import { constantTensor } from "./constants.ts";
import { weightsOf } from "./weight-sites.ts";

/** The channels of an axis: index i belongs to channel `channels[i]` of the family, or to none (−1). */
export interface ChannelAxis {
  readonly value: Value;
  readonly axis: number;
  readonly channels: Int32Array; // (size of the axis)
}

/** A stored tensor that follows the scale. */
export interface ScaledConstant extends ChannelAxis {
  /** 1: it reads the channels and is multiplied; −1: it makes them and is divided. */
  readonly power: 1 | -1;
  /** The layer that reads it; undefined for the operand of a sum. */
  readonly layer: Node | undefined;
  /** Of a grouped convolution that reads the channels: outputs and inputs per group. `axis` is that of a kernel without groups. */
  readonly perGroup: { readonly outputs: number; readonly inputs: number } | undefined;
}

/** A clamp at numbers other than zero, which does not follow a scale. */
export interface Limit {
  readonly node: Node;
  readonly low: number;
  readonly high: number;
}

/** Channels that are scaled together, each by a factor of its own. */
export interface ScaleFamily {
  /** The first layer that makes them. */
  readonly name: string;
  readonly size: number;
  readonly constants: readonly ScaledConstant[];
  /** Computed values that carry the channels. */
  readonly activations: readonly ChannelAxis[];
  /** Clamps that hold on only while no value reaches them, on either side of the factor. */
  readonly limits: readonly Limit[];
}

export interface ScaleFamilies {
  readonly families: readonly ScaleFamily[];
  readonly skipped: readonly { readonly what: string; readonly why: string }[];
}

/**
 * Families of channels of the main graph whose scale is free: made by linear layers with stored weights, read by such, and
 * on the way only through operators that a positive factor passes (the records' `homogeneous` and `movement`) or clamps,
 * which are listed as limits. Unlike groups that are removed together, channels on the two sides of a depthwise or grouped
 * convolution are apart. The clamps' bounds must be constant.
 */
export function scaleFamilies(model: Model): ScaleFamilies {
  const { model: dense, perGroup } = withoutGroups(model);
  const byName = new Map([...model.graph.values()].map((value) => [value.name, value]));
  const nodes = new Map(dense.graph.nodes.map((node, index) => [node, model.graph.nodes[index] as Node]));
  const families: ScaleFamily[] = [];
  const skipped: { what: string; why: string }[] = [];
  for (const family of channelGroups(dense).families) {
    if (family.producers.length === 0 || family.consumers.length === 0) continue;
    const found = familyOf(dense, family);
    if (typeof found === "string") {
      skipped.push({ what: family.name, why: found });
      continue;
    }
    const original = (value: Value): Value => byName.get(value.name) as Value;
    families.push({
      ...found,
      constants: found.constants.map((constant) => {
        const layer = constant.layer && nodes.get(constant.layer);
        const reads = constant.power === 1 && layer ? perGroup.get(layer) : undefined;
        return { ...constant, value: original(constant.value), layer, perGroup: reads };
      }),
      activations: found.activations.map((each) => ({ ...each, value: original(each.value) })),
      limits: found.limits.map((limit) => ({ ...limit, node: nodes.get(limit.node) as Node })),
    });
  }
  return { families, skipped };
}

/**
 * A copy in which grouped convolutions are dense ones, whose inputs and outputs are not tied. Their kernels have the shape
 * of dense ones and no content.
 */
function withoutGroups(model: Model): { model: Model; perGroup: Map<Node, { outputs: number; inputs: number }> } {
  const dense = cloneModel(model);
  const perGroup = new Map<Node, { outputs: number; inputs: number }>();
  for (const [index, node] of dense.graph.nodes.entries()) {
    const groups = node.int("group", 1);
    const kernel = constantTensor(dense, node.inputs[1]);
    if (specOf(node, dense.opsets.get(node.domain) ?? 1)?.traits?.linear !== "conv" || groups === 1 || !kernel)
      continue;
    const [outputs = 1, inputs = 1, ...rest] = kernel.shape;
    perGroup.set(model.graph.nodes[index] as Node, { outputs: outputs / groups, inputs });
    node.attributes.delete("group");
    const value = node.inputs[1] as Value;
    const shape = [outputs, inputs * groups, ...rest];
    value.shape = shape;
    value.tensor = Tensor.lazy(kernel.dtype, shape, () => {
      throw new PareError("internal", "A kernel that stands for its shape alone was read", { where: value.name });
    });
  }
  return { model: dense, perGroup };
}

/** The family, or why its scale is not free. */
function familyOf(model: Model, family: Family): ScaleFamily | string {
  const axes = new Map<Value, Map<number, Int32Array>>();
  for (const [channel, group] of family.groups.entries())
    for (const { value, axis, indices } of membersOf(group)) {
      let of = axes.get(value);
      if (!of) axes.set(value, (of = new Map()));
      let channels = of.get(axis);
      if (!channels) of.set(axis, (channels = new Int32Array(Number(value.shape?.[axis])).fill(-1)));
      for (const index of indices) channels[index] = channel;
    }
  const constants: ScaledConstant[] = [];
  const activations: ChannelAxis[] = [];
  const limits: Limit[] = [];
  const nodes = new Set<Node>();
  for (const [value, of] of axes) {
    for (const { node } of value.uses) nodes.add(node);
    if (value.tensor) continue;
    if (value.producer) nodes.add(value.producer);
    if (of.size > 1) return `both axes of ${value.name} hold its channels`;
    for (const [axis, channels] of of) activations.push({ value, axis, channels });
  }
  for (const node of nodes) {
    const carries = (value: Value | undefined): boolean => value !== undefined && !value.tensor && axes.has(value);
    if (!node.inputs.some(carries) && !node.outputs.some(carries)) continue;
    if (node.graph !== model.graph) return `${nameOf(node)} reads it in a subgraph`;
    const traits = specOf(node, model.opsets.get(node.domain) ?? 1)?.traits;
    const found = LAYERS.has(traits?.linear ?? "")
      ? constantsOfLayer(model, node, axes)
      : constantsBetween(model, node, traits, axes, limits);
    if (typeof found === "string") return found;
    for (const constant of found) {
      if (constant.value.dtype !== "float32") return `a weight of ${nameOf(node)} is ${constant.value.dtype}`;
      if (constant.value.uses.length > 1) return `a weight of ${nameOf(node)} is shared`;
    }
    constants.push(...found);
  }
  return { name: family.name, size: family.groups.length, constants, activations, limits };
}

type Axes = ReadonlyMap<Value, ReadonlyMap<number, Int32Array>>;

/** Linear layers (as their records call them) that read and make channels. */
const LAYERS: ReadonlySet<string> = new Set(["conv", "conv-transpose", "gemm", "matmul"]);

/** Kernel and bias of a layer that reads the channels, makes them, or both. */
function constantsOfLayer(model: Model, node: Node, axes: Axes): ScaledConstant[] | string {
  const [input, kernel, bias] = node.inputs;
  const output = node.outputs[0];
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  const weight = spec && weightsOf(spec, node).find(({ role, input: index }) => role === "kernel" && index === 1);
  const [makes, reads] = [output !== undefined && axes.has(output), input !== undefined && axes.has(input)];
  if (!weight || !constantTensor(model, kernel) || !kernel?.tensor) return `the weight of ${nameOf(node)} is computed`;
  const found: ScaledConstant[] = [];
  const add = (value: Value, axis: number, power: 1 | -1): boolean => {
    const channels = axes.get(value)?.get(axis);
    if (channels) found.push({ value, axis, channels, power, layer: node, perGroup: undefined });
    return channels !== undefined;
  };
  if (makes && !add(kernel, weight.channelAxis ?? 0, -1))
    return `the weight of ${nameOf(node)} does not follow its scale`;
  if (reads && !add(kernel, weight.reductionAxis ?? 1, 1))
    return `the weight of ${nameOf(node)} does not follow its scale`;
  if (makes && bias && !isZero(model, bias) && !(bias.tensor && add(bias, bias.tensor.shape.length - 1, -1)))
    return `the bias of ${nameOf(node)} does not follow its scale`;
  return found;
}

/** Operands that are scaled with the channels between layers; clamps are added to `limits`. */
function constantsBetween(
  model: Model,
  node: Node,
  traits: Traits | undefined,
  axes: Axes,
  limits: Limit[],
): ScaledConstant[] | string {
  const limit = clampBounds(model, node);
  if (limit === "computed") return `the bounds of ${nameOf(node)} are computed`;
  if (limit) {
    if (limit.low !== 0 || limit.high !== Number.POSITIVE_INFINITY) limits.push({ node, ...limit });
    return [];
  }
  if (!traits?.homogeneous && !traits?.movement) return `${nameOf(node)} does not follow a scale`;
  if (!traits.movement && node.outputs.some((output) => isFloatValue(output) && !axes.has(output)))
    return `${nameOf(node)} sums over it`;
  const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
  const found: ScaledConstant[] = [];
  for (const [index, value] of node.inputs.entries()) {
    // Beside its data, only an operator on elements, and padding, have operands that are numbers of the same kind.
    if (!value || !isFloatValue(value) || (index > 0 && !traits.elementwise && !traits.movement)) continue;
    if (spec && weightsOf(spec, node).some((weight) => weight.input === index && weight.role === "scale")) continue;
    const of = axes.get(value);
    if (!of && !(traits.movement && !value.tensor) && !isZero(model, value))
      return `${nameOf(node)} has an operand that does not follow its scale`;
    if (value.tensor)
      for (const [axis, channels] of of ?? [])
        found.push({ value, axis, channels, power: -1, layer: undefined, perGroup: undefined });
  }
  return found;
}

function isFloatValue(value: Value): boolean {
  return value.dtype === undefined || value.dtype.includes("float");
}

function isZero(model: Model, value: Value): boolean {
  return (
    constantTensor(model, value)
      ?.peekNumbers()
      ?.every((number) => number === 0) === true
  );
}

/** Divides channel c by factors[c] > 0 wherever it is made and multiplies it where it is read. */
export async function rescale(family: ScaleFamily, factors: ArrayLike<number>): Promise<void> {
  for (const constant of family.constants) {
    const { value, power } = constant;
    const tensor = value.tensor as Tensor;
    const data = ((await tensor.data()) as Float32Array).slice();
    eachChannel(constant, tensor.shape, (at, channel) => {
      const factor = factors[channel] ?? 1;
      data[at] = power === 1 ? (data[at] as number) * factor : (data[at] as number) / factor;
    });
    value.tensor = Tensor.float32(tensor.shape, data);
  }
}

/** max |w| of a stored tensor over what belongs to each channel, taken into `peaks`. */
export async function channelPeaks(constant: ScaledConstant, peaks: Float64Array): Promise<void> {
  const tensor = constant.value.tensor as Tensor;
  const data = (await tensor.data()) as Float32Array;
  eachChannel(constant, tensor.shape, (at, channel) => {
    peaks[channel] = Math.max(peaks[channel] as number, Math.abs(data[at] as number));
  });
}

/** Calls with each element of the tensor that belongs to a channel. */
export function eachChannel(
  { axis, channels, perGroup }: Pick<ScaledConstant, "axis" | "channels" | "perGroup">,
  shape: readonly number[],
  visit: (at: number, channel: number) => void,
): void {
  const size = shape[axis] ?? 1;
  const inner = shape.slice(axis + 1).reduce((product, dim) => product * dim, 1);
  const outer = shape.slice(0, axis).reduce((product, dim) => product * dim, 1);
  let at = 0;
  for (let o = 0; o < outer; o++) {
    // Row o of a grouped kernel reads the inputs of its group.
    const first = perGroup ? Math.floor(o / perGroup.outputs) * perGroup.inputs : 0;
    for (let i = 0; i < size; i++) {
      const channel = channels[first + i] ?? -1;
      if (channel >= 0) for (let k = 0; k < inner; k++) visit(at + k, channel);
      at += inner;
    }
  }
}
