/** Types and shapes of every value: inference over symbolic dimensions through subgraphs and local functions. */
import { PareError, messageOf } from "../base/error.ts";
import { type Dim, formatShape } from "../base/shape.ts";
import type { Attribute } from "../ir/attribute.ts";
import type { Graph, Node, Value } from "../ir/graph.ts";
import type { FunctionBody, Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import { typeOfTensor } from "../ops/shape.ts";
import type { ValueType } from "../ops/spec.ts";
import { type Bindings, canonical, substitute } from "../ops/symbolic.ts";

/**
 * Visits of one node on average. Bodies are visited once for each call and up to five times in each loop around them, so
 * that a small file could ask for billions; real models need a few.
 */
const MAX_VISITS_PER_NODE = 100;
const MAX_VISITS_OF_SMALL_MODELS = 20_000;

export interface ShapeOverrides {
  /** Sizes of symbolic dimensions: `{ batch: 8 }`. */
  readonly dims?: Bindings | undefined;
  /** Shapes of inputs, by name. */
  readonly inputs?: Readonly<Record<string, readonly Dim[]>> | undefined;
  /** Forget what computed values were declared to be (or inferred to be before the graph was changed); default false. */
  readonly fresh?: boolean | undefined;
}

/** Something that cannot be true: inputs that do not fit an operator, or a declaration that contradicts the graph. */
export interface ShapeProblem {
  /** The node or value. */
  readonly where: string;
  readonly message: string;
}

/** Types of the values of one graph and its subgraphs, and of the bodies of the local functions that it calls. */
export interface ScopeTypes {
  readonly types: ReadonlyMap<Value, ValueType>;
  readonly calls: ReadonlyMap<
    Node,
    { readonly body: Graph; readonly opsets: ReadonlyMap<string, number>; readonly scope: ScopeTypes }
  >;
}

export interface InferredTypes extends ScopeTypes {
  readonly problems: readonly ShapeProblem[];
}

/**
 * What is known of every value, without changing the model. Never throws: operators that pare does not know leave their
 * outputs as declared, and contradictions come back as problems (what follows from the inputs wins over a declaration).
 * An input axis of unknown size gets a symbol of its own, `name.d0`.
 */
export function inferTypes(model: Model, overrides: ShapeOverrides = {}): InferredTypes {
  const inference = new Inference(model, overrides);
  inference.walk(model.graph, undefined);
  return { types: inference.types, calls: inference.calls, problems: [...inference.problems.values()] };
}

/**
 * Writes dtype and shape on every value of the model and its subgraphs, and returns what cannot be true.
 * Declared inputs keep their shapes unless `overrides` gives others; outputs keep the names of their symbolic dimensions.
 */
export function inferShapes(model: Model, overrides: ShapeOverrides = {}): readonly ShapeProblem[] {
  const { types, problems } = inferTypes(model, overrides);
  const declared = new Set(overrides.dims || overrides.inputs ? [] : model.graph.inputs);
  const named = new Set(overrides.fresh ? [] : model.graph.outputs);
  for (const [value, { dtype, shape }] of types) {
    if (value.tensor || declared.has(value)) continue;
    value.dtype = dtype;
    value.shape = named.has(value) ? keepNames(value.shape, shape) : shape;
  }
  return problems;
}

/** Declared symbols of the model's outputs are part of its interface: `frames` is not renamed to `floor(samples / 256)`. */
function keepNames(
  declared: readonly Dim[] | undefined,
  inferred: readonly Dim[] | undefined,
): readonly Dim[] | undefined {
  if (declared?.length !== inferred?.length) return inferred;
  return inferred?.map((dim, i) => (typeof dim !== "number" && typeof declared?.[i] === "string" ? declared[i] : dim));
}

/** Substitutes references to a function's attributes; a copy that shares everything else with the node. */
function bindAttributes(node: Node, call: Node, formal: FunctionBody): Node {
  if (![...node.attributes.values()].some((attribute) => attribute.type === "reference")) return node;
  const bound = new Map<string, Attribute>();
  for (const [name, attribute] of node.attributes) {
    if (attribute.type !== "reference") bound.set(name, attribute);
    else {
      const given = call.attributes.get(attribute.value) ?? formal.defaults?.get(attribute.value);
      if (given) bound.set(name, given);
    }
  }
  return Object.create(node, { attributes: { value: bound } }) as Node;
}

function budgetOf(model: Model): number {
  let nodes = 0;
  for (const graph of [model.graph, ...model.functions.map((each) => each.body)])
    for (const inner of graph.allGraphs()) nodes += inner.nodes.length;
  return Math.max(MAX_VISITS_OF_SMALL_MODELS, MAX_VISITS_PER_NODE * nodes);
}

class Inference {
  readonly types = new Map<Value, ValueType>();
  readonly calls = new Map<Node, { body: Graph; opsets: ReadonlyMap<string, number>; scope: ScopeTypes }>();
  readonly problems: Map<string, ShapeProblem>;
  readonly #model: Model;
  readonly #overrides: ShapeOverrides;
  readonly #opsets: ReadonlyMap<string, number>;
  readonly #call: { readonly node: Node; readonly formal: FunctionBody } | undefined;
  readonly #functions: ReadonlyMap<string, FunctionBody>;
  /** Shared by the inferences of all calls. */
  readonly #budget: { visits: number };
  /** Functions that are being called, from the outermost in. */
  readonly #active: readonly FunctionBody[];

  constructor(
    model: Model,
    overrides: ShapeOverrides,
    call?: { readonly node: Node; readonly formal: FunctionBody },
    parent?: Inference,
  ) {
    this.#model = model;
    this.#overrides = overrides;
    this.#call = call;
    this.#opsets = call?.formal.opsets ?? model.opsets;
    this.#functions = parent
      ? parent.#functions
      : new Map(model.functions.map((each) => [`${each.domain}::${each.name}`, each]));
    this.#budget = parent ? parent.#budget : { visits: budgetOf(model) };
    this.#active = parent && call ? [...parent.#active, call.formal] : [];
    this.problems = parent?.problems ?? new Map<string, ShapeProblem>();
  }

  /** Infers a graph's nodes in order; `inputs` are the types that flow into it, undefined for the model's own graph. */
  walk(graph: Graph, inputs: readonly ValueType[] | undefined): readonly ValueType[] {
    for (const [i, input] of graph.inputs.entries())
      this.types.set(input, inputs ? this.#flowing(input, inputs[i]) : this.#fed(input));
    for (const node of graph.nodes) {
      if (this.#budget.visits-- <= 0) {
        this.#report("model", "its loops and functions are nested too deeply to infer all shapes");
        break;
      }
      this.#infer(node);
    }
    return graph.outputs.map((output) => this.#typeOf(output));
  }

  /** Type of an input of the model itself. */
  #fed(input: Value): ValueType {
    if (input.tensor) return typeOfTensor(input.tensor);
    const shape = (this.#overrides.inputs?.[input.name] ?? input.shape)?.map(
      (dim, axis) => canonical(dim) ?? `${input.name.replaceAll(/[\s*(),]/g, "_")}.d${axis}`,
    );
    return { dtype: input.dtype, shape: this.#bound(shape) };
  }

  /** Type of an input of a subgraph or function: what flows in, and where that is unknown what is declared. */
  #flowing(input: Value, type: ValueType | undefined): ValueType {
    if (!type) return { dtype: input.dtype, shape: this.#bound(input.shape?.map(canonical)) };
    return {
      ...type,
      dtype: type.dtype ?? input.dtype,
      shape: type.shape,
    };
  }

  #bound(shape: readonly Dim[] | undefined): readonly Dim[] | undefined {
    const { dims } = this.#overrides;
    return dims ? shape?.map((dim) => substitute(dim, dims)) : shape;
  }

  #typeOf(value: Value): ValueType {
    const known = this.types.get(value);
    if (known) return known;
    const type = value.tensor
      ? typeOfTensor(value.tensor)
      : { dtype: value.dtype, shape: this.#bound(value.shape?.map(canonical)) };
    this.types.set(value, type);
    return type;
  }

  #infer(original: Node): void {
    const node = this.#call ? bindAttributes(original, this.#call.node, this.#call.formal) : original;
    const inputs = node.inputs.map((input) => input && this.#typeOf(input));
    let outputs: readonly ValueType[] = [];
    try {
      outputs = this.#outputsOf(original, node, inputs);
    } catch (error) {
      const where = `node '${node.name || node.outputs[0]?.name || node.opType}' (${node.opType})`;
      const isExpected = error instanceof PareError && error.code === "shape-mismatch";
      this.#report(where, `${isExpected ? "" : "internal: "}${messageOf(error).replace(`${where}: `, "")}`);
    }
    for (const [i, output] of node.outputs.entries())
      this.types.set(output, this.#merge(output, this.#possible(node, outputs[i])));
  }

  #outputsOf(original: Node, node: Node, inputs: readonly (ValueType | undefined)[]): readonly ValueType[] {
    const formal = this.#functions.get(`${node.domain}::${node.opType}`);
    if (formal) {
      if (this.#active.includes(formal)) return [];
      const inner = new Inference(this.#model, this.#overrides, { node, formal }, this);
      const unknown: ValueType = { dtype: undefined, shape: undefined };
      this.calls.set(original, { body: formal.body, opsets: formal.opsets, scope: inner });
      return inner.walk(
        formal.body,
        formal.body.inputs.map((_, i) => inputs[i] ?? unknown),
      );
    }
    const opset = this.#opsets.get(node.domain) ?? 1;
    const spec = specOf(node, opset);
    if (!spec) {
      for (const subgraph of node.subgraphs()) this.walk(subgraph, []);
      return [];
    }
    return spec.infer({
      node,
      opset,
      inputs,
      inferSubgraph: (attribute, flowing = []) => {
        const body = node.attributes.get(attribute);
        return body?.type === "graph" ? this.walk(body.value, flowing) : [];
      },
    });
  }

  /** Sizes that cannot be are unknown: attributes of broken files lead to negative, fractional and endless ones. */
  #possible(node: Node, type: ValueType | undefined): ValueType | undefined {
    const isSize = (dim: Dim): boolean => typeof dim !== "number" || (Number.isSafeInteger(dim) && dim >= 0);
    if (!type?.shape || type.shape.every(isSize)) return type;
    this.#report(
      `node '${node.name || node.outputs[0]?.name || node.opType}' (${node.opType})`,
      `its output would have the shape ${formatShape(type.shape)}`,
    );
    return { dtype: type.dtype, shape: type.shape.map((dim) => (isSize(dim) ? dim : null)) };
  }

  /** Completes what was inferred by what is declared; reports where the two cannot both be true. */
  #merge(value: Value, inferred: ValueType | undefined): ValueType {
    if (this.#overrides.fresh) return inferred ?? { dtype: undefined, shape: undefined };
    const { dtype } = value;
    const shape = this.#bound(value.shape?.map(canonical));
    if (!inferred) return { dtype, shape };
    if (dtype && inferred.dtype && dtype !== inferred.dtype)
      this.#report(`value '${value.name}'`, `declared ${dtype}, but it is ${inferred.dtype}`);
    const type = { ...inferred, dtype: inferred.dtype ?? dtype };
    if (!shape || !inferred.shape) return { ...type, shape: inferred.shape ?? shape };
    const clash =
      shape.length !== inferred.shape.length ||
      shape.some(
        (dim, i) => typeof dim === "number" && typeof inferred.shape?.[i] === "number" && dim !== inferred.shape[i],
      );
    if (clash)
      this.#report(`value '${value.name}'`, `declared ${formatShape(shape)}, but it is ${formatShape(inferred.shape)}`);
    if (shape.length !== inferred.shape.length) return type;
    return { ...type, shape: inferred.shape.map((dim, i) => dim ?? shape[i] ?? null) };
  }

  #report(where: string, message: string): void {
    this.problems.set(`${where} ${message}`, { where, message });
  }
}
