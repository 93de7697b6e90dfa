/** Takes a step graph's images to the engine's blocked layout wherever convolutions, normalization and activations follow each other. */
import { isConcrete } from "../../base/shape.ts";
import { Builder } from "../../ir/builder.ts";
import { type Graph, Node, Value } from "../../ir/graph.ts";
import { type Attribute, type AttributeInput, float, toAttribute } from "../../ir/attribute.ts";
import type { Model } from "../../ir/model.ts";
import { windowOf } from "../../ops/gradients/conv.ts";
import { reshape, type Site, slice } from "../../ops/gradients/words.ts";
import { specOf } from "../../ops/registry.ts";
import { SIMULATED_DOMAIN } from "../../ops/simulated.ts";
import { OUTPUTS } from "./batch-norm.ts";
import {
  type Activation,
  ENGINE_DOMAIN,
  fromBlocks,
  type Image,
  OWN_DOMAIN,
  roundUp,
  shaped,
  toBlocks,
} from "./words.ts";

/** Most work on channels that only fill blocks, as a multiple of the work that counts. */
const MAX_WASTE = 1.5; // measured: LeNet-5 (20 to 50 channels: 2.05) is a fifth slower on blocks

/** Elementwise operators that keep what fills the blocks finite, forwards and backwards. */
const FINITE = new Set([
  "Add",
  "Sub",
  "Mul",
  "Relu",
  "LeakyRelu",
  "Clip",
  "Sigmoid",
  "HardSigmoid",
  "HardSwish",
  "Tanh",
  "Gelu",
  "Elu",
  "Mish",
  "Softplus",
  "Identity",
]); // prettier-ignore

/** Rewrites the model's graph, whose shapes are known, for blocks of `block` channels. Values keep their names and meaning. */
export function useBlocks(model: Model, block: number): void {
  const layout = new Layout(model, block);
  for (const node of model.graph.nodes.slice()) if (node.graph) layout.visit(node);
  layout.finish();
}

class Layout {
  readonly #graph: Graph;
  readonly #opset: number;
  readonly #block: number;
  /** Blocked twins of plain values. */
  readonly #blocked = new Map<Value, Value>();
  readonly #seen = new Set<Node>();
  readonly #model: Model;

  constructor(model: Model, block: number) {
    this.#model = model;
    this.#graph = model.graph;
    this.#opset = model.opset;
    this.#block = block;
  }

  visit(node: Node): void {
    this.#seen.add(node);
    if (node.domain === SIMULATED_DOMAIN) this.#elementwise(node);
    if (node.domain !== "") return;
    if (node.opType === "Conv") this.#conv(node);
    else if (node.opType === "BatchNormalization") this.#batchNorm(node);
    else if (node.opType === "Slice") this.#slice(node);
    else if (FINITE.has(node.opType) && specOf(node, this.#opset)?.traits?.elementwise) this.#elementwise(node);
  }

  #site(before: Node): Site {
    return { b: new Builder(this.#graph, { prefix: "blocks/", before }), opset: this.#opset };
  }

  /** The blocked twin of a plain image, made where it is missing. */
  #twin(value: Value, before: Node): Value {
    let twin = this.#blocked.get(value);
    if (!twin) {
      twin = toBlocks(this.#site(before), value, value.shape as unknown as Image, this.#block);
      this.#blocked.set(value, twin);
    }
    return twin;
  }

  #insert(
    before: Node,
    opType: string,
    inputs: readonly (Value | undefined)[],
    outputs: readonly Value[],
    attributes: Readonly<Record<string, AttributeInput | undefined>>,
  ): void {
    const known = Object.entries(attributes).flatMap(([key, value]) =>
      value === undefined ? [] : [[key, toAttribute(value)] as const],
    );
    const name = this.#graph.uniqueName(`${before.name || before.opType}/blocked`);
    this.#graph.add(new Node({ opType, domain: OWN_DOMAIN, name, inputs, outputs, attributes: known }), before);
  }

  #value(name: string, shape: readonly number[]): Value {
    return new Value(this.#graph.uniqueName(name), "float32", shape);
  }

  #conv(node: Node): void {
    const [x, w, bias] = node.inputs;
    const y = node.outputs[0];
    const [from, to, weights] = [imageOf(x), imageOf(y), imageOf(w)];
    if (!x || !y || !w || !from || !to || !weights) return;
    const { group, kernel, strides, dilations, begins, ends } = windowOf(
      node,
      weights.slice(2),
      from.slice(2),
      to.slice(2),
    );
    const [inputs, outputs] = [from[1], to[1]];
    const depthwise = group > 1 && group === inputs && group === outputs;
    if (group > 1 && !depthwise) return;
    if ([...begins, ...ends].some((amount) => amount < 0)) return;
    if (strides.some((stride, i) => stride > 1 && (dilations[i] ?? 1) > 1 && (kernel[i] ?? 1) > 1)) return;
    const block = this.#block;
    const plain = inputs < block && !this.#blocked.has(x);
    const useful = depthwise ? inputs : (plain ? 1 : inputs) * outputs;
    const done = depthwise ? roundUp(inputs, block) : (plain ? 1 : roundUp(inputs, block)) * roundUp(outputs, block);
    if (done > MAX_WASTE * useful) return;
    const twin = this.#value(`${y.name}/blocks`, [to[0], roundUp(outputs, block), to[2], to[3]]);
    this.#insert(node, "Conv", [plain && !depthwise ? x : this.#twin(x, node), w, bias], [twin], {
      block,
      inputs,
      group,
      plain: plain && !depthwise ? 1 : 0,
      strides,
      dilations,
      pads: [...begins, ...ends],
    });
    this.#replace(node, y, twin);
  }

  /** y lives on as its blocked twin; the node that gave it is gone. */
  #replace(node: Node, y: Value, twin: Value): void {
    y.producer = undefined;
    this.#blocked.set(y, twin);
    this.#graph.remove(node);
  }

  /** A BatchNormalization on the batch's statistics, together with the sum and the activation that follow it. */
  #batchNorm(node: Node): void {
    const [x, scale, shift] = node.inputs;
    const [y, mean, variance] = node.outputs;
    const twin = x && this.#blocked.get(x);
    if (!twin || !y || !mean || !variance || node.int("training_mode", 0) === 0 || node.float("momentum", 0.9) !== 0)
      return;
    if (node.outputs.length > 3 || !isConcrete(scale?.shape) || !isConcrete(shift?.shape)) return;
    let end = y;
    const gone = [node];
    let residual: Value | undefined;
    let activation: Activation | undefined;
    const next = this.#onlyUse(end);
    if (next?.opType === "Add") {
      const other = next.inputs.find((input) => input !== end);
      const known = other && (this.#blocked.has(other) || (other.producer && this.#seen.has(other.producer)));
      if (other && known && sameShape(other, end) && other.dtype === "float32") {
        residual = this.#twin(other, node);
        end = next.outputs[0] as Value;
        gone.push(next);
      }
    }
    const last = this.#onlyUse(end);
    activation = last && activationOf(last);
    if (last && activation) {
      end = last.outputs[0] as Value;
      gone.push(last);
    }
    const shape = twin.shape as readonly number[];
    const stored = shape[1] ?? 1;
    const outputs = [this.#value(`${end.name}/blocks`, shape), mean, variance];
    for (const name of ["centred", "inverse", "factor"] as const)
      outputs[OUTPUTS[name]] = this.#value(`${node.name}/${name}`, name === "centred" ? shape : [stored]);
    for (const each of gone) for (const output of each.outputs) output.producer = undefined;
    this.#graph.remove(...gone.slice(1));
    // The node itself stays: whoever asked it for the batch's statistics finds them where they were.
    node.detach();
    for (const [i, input] of [twin, scale, shift, residual].entries()) node.setInput(i, input);
    node.outputs.splice(0, node.outputs.length, ...outputs);
    for (const output of outputs) output.producer = node;
    node.domain = OWN_DOMAIN;
    const attributes: [string, Attribute][] = [["epsilon", node.attributes.get("epsilon") ?? float(1e-5)]];
    if (activation) attributes.push(["activation", toAttribute(activation.name)]);
    if (activation?.low !== undefined) attributes.push(["low", float(activation.low)]);
    if (activation?.high !== undefined) attributes.push(["high", float(activation.high)]);
    node.attributes.clear();
    for (const [name, value] of attributes) node.attributes.set(name, value);
    this.#blocked.set(end, outputs[0] as Value);
  }

  /** The node that alone uses a value, unless the value is an output. */
  #onlyUse(value: Value): Node | undefined {
    const [use, more] = value.uses;
    return use && !more && !this.#graph.isOutput(value) && use.node.domain === "" ? use.node : undefined;
  }

  /** Elementwise operators work on blocks as on anything: one shape, or single numbers beside it. */
  #elementwise(node: Node): void {
    const y = node.outputs[0];
    const inputs = node.inputs;
    if (!y || node.outputs.length > 1 || !imageOf(y)) return;
    const images = inputs.filter((input) => input && !isNumber(input));
    if (!images.some((input) => input && this.#blocked.has(input))) return;
    if (!images.every((input) => input && sameShape(input, y) && input.dtype === "float32")) return;
    for (const [i, input] of inputs.entries()) if (input && !isNumber(input)) node.setInput(i, this.#twin(input, node));
    const first = node.inputs.find((input) => input && !isNumber(input)) as Value;
    const twin = this.#value(`${y.name}/blocks`, first.shape as readonly number[]);
    node.outputs[0] = twin;
    twin.producer = node;
    y.producer = undefined;
    this.#blocked.set(y, twin);
  }

  /** A Slice of rows and columns: the blocks at these places. */
  #slice(node: Node): void {
    const [x, ...lists] = node.inputs;
    const y = node.outputs[0];
    const [from, to] = [imageOf(x), imageOf(y)];
    const twin = x && this.#blocked.get(x);
    const [starts, ends, axes, steps] = lists.map((list) => list?.tensor?.peekNumbers());
    if (!twin || !y || !from || !to || !starts || !ends || !axes || (lists[3] && !steps)) return;
    const places = axes.map((axis) => (axis < 0 ? axis + 4 : axis) - 1); // images and blocks of channels are one axis
    if (places.some((axis) => axis < 1)) return;
    const s = this.#site(node);
    const stored = roundUp(from[1], this.#block);
    const rows = (from[0] * stored) / this.#block;
    const whole = shaped(reshape(s, twin, [rows, from[2], from[3], this.#block]), [
      rows,
      from[2],
      from[3],
      this.#block,
    ]);
    // "To the end" is often the largest 64-bit number, which no double holds.
    const within = (list: readonly number[]): number[] =>
      list.map((place) => Math.max(-(2 ** 31), Math.min(2 ** 31, place)));
    const part = shaped(slice(s, whole, places, within(starts), within(ends), steps), [
      rows,
      to[2],
      to[3],
      this.#block,
    ]);
    const shape = [to[0], stored, to[2], to[3]];
    this.#replace(node, y, shaped(reshape(s, part, shape), shape));
  }

  /** Gives plain values that somebody still needs out of their blocked twins. */
  finish(): void {
    for (const [value, twin] of this.#blocked) {
      if (value.producer || value.tensor || this.#graph.inputs.includes(value)) continue;
      if (value.uses.length === 0 && !this.#graph.isOutput(value)) continue;
      const at = this.#graph.nodes.indexOf(twin.producer as Node);
      const site = this.#site(this.#graph.nodes[at + 1] as Node);
      const plain = fromBlocks(site, twin, value.shape as unknown as Image);
      const node = plain.producer as Node;
      node.outputs[0] = value;
      value.producer = node;
    }
    if (this.#blocked.size > 0) this.#model.opsets.set(ENGINE_DOMAIN, 1);
  }
}

/** (n, c, h, w) of a float32 value whose shape is known. */
function imageOf(value: Value | undefined): Image | undefined {
  const shape = value?.shape;
  return value?.dtype === "float32" && isConcrete(shape) && shape.length === 4
    ? (shape as unknown as Image)
    : undefined;
}

function sameShape(a: Value, b: Value): boolean {
  return isConcrete(a.shape) && isConcrete(b.shape) && a.shape.join() === b.shape.join();
}

/** One element and no axes: broadcasts to anything without changing its rank. */
function isNumber(value: Value): boolean {
  return isConcrete(value.shape) && value.shape.length === 0;
}

/** Relu, or Clip between two numbers. */
function activationOf(node: Node): Activation | undefined {
  if (node.opType === "Relu") return { name: "Relu" };
  if (node.opType !== "Clip") return undefined;
  const [low, high] = [1, 2].map((i) => node.inputs[i]?.tensor?.peekNumbers()?.[0]);
  return low === undefined || high === undefined ? undefined : { name: "Clip", low, high };
}
