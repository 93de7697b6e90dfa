/** Builds nodes by calling operators: `b.op("Relu", [x])`. */
import type { DType } from "../base/dtype.ts";
import type { Dim } from "../base/shape.ts";
import { type AttributeInput, toAttribute } from "./attribute.ts";
import { type Graph, Node, Value } from "./graph.ts";
import type { Tensor } from "./tensor.ts";

export interface OpOptions {
  readonly attributes?: Readonly<Record<string, AttributeInput | undefined>>;
  readonly domain?: string;
  /** Stem of the node's and outputs' names; default: the builder's prefix and the operator. */
  readonly name?: string;
  /** Number of outputs, default 1. */
  readonly outputs?: number;
}

/** Appends (or inserts before a node) operator calls to one graph. */
export class Builder {
  readonly graph: Graph;
  readonly #prefix: string;
  readonly #before: Node | undefined;

  /** `prefix` begins every made name; `before` makes every node be inserted before that node instead of appended. */
  constructor(graph: Graph, options: { readonly prefix?: string; readonly before?: Node | undefined } = {}) {
    this.graph = graph;
    this.#prefix = options.prefix ?? "";
    this.#before = options.before;
  }

  input(name: string, dtype: DType, shape?: readonly Dim[]): Value {
    const value = new Value(this.graph.uniqueName(name), dtype, shape);
    this.graph.inputs.push(value);
    return value;
  }

  /** Marks a value as an output, renaming it when a name is given. */
  output(value: Value, name?: string): Value {
    if (name !== undefined && value.name !== name) value.name = this.graph.uniqueName(name);
    this.graph.outputs.push(value);
    return value;
  }

  /** An initializer. */
  constant(name: string, tensor: Tensor): Value {
    return this.graph.addInitializer(this.#prefix + name, tensor);
  }

  /** Calls an operator and returns its first output. */
  op(opType: string, inputs: readonly (Value | undefined)[], options: OpOptions = {}): Value {
    return this.ops(opType, inputs, options)[0] as Value;
  }

  /** Calls an operator and returns all its outputs. */
  ops(opType: string, inputs: readonly (Value | undefined)[], options: OpOptions = {}): Value[] {
    const stem = this.#prefix + (options.name ?? opType);
    const count = options.outputs ?? 1;
    const outputs = Array.from(
      { length: count },
      (_, i) => new Value(this.graph.uniqueName(count > 1 ? `${stem}_${i}` : stem)),
    );
    const attributes = Object.entries(options.attributes ?? {}).flatMap(([key, value]) =>
      value === undefined ? [] : [[key, toAttribute(value)] as const],
    );
    const node = new Node({
      opType,
      inputs,
      outputs,
      name: outputs[0]?.name ?? stem,
      domain: options.domain ?? "",
      attributes,
    });
    this.graph.add(node, this.#before);
    return outputs;
  }
}
