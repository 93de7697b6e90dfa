/** The state of a step graph: inputs that stay with the engine between steps, their first values, and what replaces them. */
import { elementCount } from "../base/shape.ts";
import { Builder } from "../ir/builder.ts";
import type { Graph, Value } from "../ir/graph.ts";
import { Tensor } from "../ir/tensor.ts";
import type { NdArray } from "../run/session.ts";

export class StepState {
  readonly graph: Graph;
  /** State input to the output that replaces it. */
  readonly links: Record<string, string> = {};
  readonly #initial = new Map<string, Tensor>();
  readonly #b: Builder;

  constructor(graph: Graph) {
    this.graph = graph;
    this.#b = new Builder(graph, { prefix: "train/" });
  }

  /** Turns an initializer into a state input. */
  adopt(value: Value): void {
    if (!value.tensor) return;
    this.#initial.set(value.name, value.tensor);
    this.graph.removeInitializer(value);
    value.tensor = undefined;
    if (!this.graph.inputs.includes(value)) this.graph.inputs.push(value);
  }

  /** A new float32 state input; zeros at first unless a tensor is given. */
  add(name: string, shape: readonly number[], initial?: Tensor): Value {
    const value = this.#b.input(name, "float32", shape);
    this.#initial.set(value.name, initial ?? Tensor.float32(shape, new Float32Array(elementCount(shape))));
    return value;
  }

  /** The tensor that a state input begins with. */
  first(value: Value): Tensor | undefined {
    return this.#initial.get(value.name);
  }

  /** Makes `next` the value of this state input at the next step. */
  link(input: Value, next: Value): void {
    // An output has one name and one linked input: anything shared or passed through is given its own value.
    const own = next.producer && !this.graph.isOutput(next) ? next : this.#b.op("Identity", [next]);
    own.name = this.graph.uniqueName(`${input.name}_next`);
    [own.dtype, own.shape] = ["float32", input.shape];
    this.graph.outputs.push(own);
    this.links[input.name] = own.name;
  }

  /** Drops state inputs that nothing reads any more. */
  dropUnused(): void {
    const kept = this.graph.inputs.filter((input) => input.uses.length > 0 || input.name in this.links);
    this.graph.inputs.splice(0, this.graph.inputs.length, ...kept);
  }

  /** First values of the state that is left, by input name; copies. */
  async initial(): Promise<Record<string, NdArray>> {
    const state: Record<string, NdArray> = {};
    const inputs = new Set(this.graph.inputs.map((input) => input.name));
    for (const [name, tensor] of this.#initial)
      if (inputs.has(name))
        state[name] = { dtype: "float32", shape: tensor.shape, data: (await tensor.data()).slice() };
    return state;
  }
}
