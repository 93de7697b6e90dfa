/** Finds what is wrong with a model in memory: names, order, opset imports, types, attributes. Reads no weights. */
import { elementCount } from "../base/shape.ts";
import { checkAttribute } from "./check-attribute.ts";
import type { Graph, Node, Value } from "./graph.ts";
import type { FunctionBody, Model } from "./model.ts";
import { originalOfGraph } from "./original.ts";

/** Stable machine-readable kinds of problems. */
export type ProblemCode =
  | "duplicate-name"
  | "shadowed-name"
  | "empty-name"
  | "undefined-input"
  | "unsorted"
  | "cycle"
  | "missing-opset"
  | "unknown-ir-version"
  | "output-never-produced"
  | "no-outputs"
  | "bad-dimension"
  | "bad-tensor"
  | "bad-attribute"
  | "inconsistent-graph" // pare's own links between nodes and values are broken
  | "recursive-function"
  | "non-finite-weights"
  | "unreadable-weights";

export interface Problem {
  /** An error keeps engines from running the model; a warning is suspicious. */
  readonly severity: "error" | "warning";
  readonly code: ProblemCode;
  /** Graph, node, value or function. */
  readonly where: string;
  readonly message: string;
}

/** The newest IR version of the schema that pare was built with. */
const NEWEST_IR_VERSION = 14;

/** Every problem of a model's structure, worst first within a graph; empty for a sound model. */
export function checkModel(model: Model): Problem[] {
  const problems: Problem[] = [];
  const report: Report = (severity, code, where, message) => problems.push({ severity, code, where, message });
  if (model.irVersion < 1 || model.irVersion > NEWEST_IR_VERSION)
    report("warning", "unknown-ir-version", "model", `IR version ${model.irVersion} is not one that pare knows`);
  if (model.graph.outputs.length === 0) report("error", "no-outputs", "model", "The graph has no outputs");
  new GraphCheck(model.graph, undefined, model.opsets, undefined, report).run();
  for (const body of model.functions)
    new GraphCheck(
      body.body,
      undefined,
      body.opsets,
      new Set([...body.attributes, ...(body.defaults?.keys() ?? [])]),
      report,
    ).run();
  checkRecursion(model.functions, report);
  return problems;
}

type Report = (severity: Problem["severity"], code: ProblemCode, where: string, message: string) => void;

class GraphCheck {
  readonly #graph: Graph;
  readonly #outer: GraphCheck | undefined;
  readonly #opsets: ReadonlyMap<string, number>;
  /** Attribute names that references may use; undefined outside functions. */
  readonly #parameters: ReadonlySet<string> | undefined;
  readonly #report: Report;
  readonly #defined = new Set<Value>();
  readonly #names = new Map<string, Value>();

  constructor(
    graph: Graph,
    outer: GraphCheck | undefined,
    opsets: ReadonlyMap<string, number>,
    parameters: ReadonlySet<string> | undefined,
    report: Report,
  ) {
    this.#graph = graph;
    this.#outer = outer;
    this.#opsets = opsets;
    this.#parameters = parameters;
    this.#report = report;
  }

  run(): void {
    const graph = this.#graph;
    const where = `graph '${graph.name}'`;
    if (originalOfGraph(graph)?.unsorted)
      this.#report("warning", "unsorted", where, "The file's nodes were not in topological order; they were sorted");
    if (graph.parent !== (this.#outer ? this.#outer.#graph : undefined))
      this.#report("error", "inconsistent-graph", where, "The graph does not know the graph that holds it");
    for (const input of graph.inputs) this.#define(input, "input");
    for (const [key, value] of graph.initializers) this.#initializer(key, value);
    const nodeNames = new Set<string>();
    for (const node of graph.nodes) {
      if (node.name !== "" && nodeNames.has(node.name))
        this.#report("warning", "duplicate-name", describe(node), "Another node has the same name");
      nodeNames.add(node.name);
      this.#node(node);
    }
    for (const output of graph.outputs) {
      if (!this.#sees(output))
        this.#report("error", "output-never-produced", `output '${output.name}'`, "Nothing in the graph computes it");
      this.#type(output);
    }
  }

  #define(value: Value, what: string): void {
    const where = `${what} '${value.name}'`;
    if (value.name === "") this.#report("error", "empty-name", `graph '${this.#graph.name}'`, `An ${what} has no name`);
    const other = this.#names.get(value.name);
    if (other) this.#report("error", "duplicate-name", where, "Another value of the graph has the same name");
    else if (this.#outer && this.#outer.#finds(value.name))
      this.#report("warning", "shadowed-name", where, "A value of an outer graph has the same name");
    this.#names.set(value.name, value);
    this.#defined.add(value);
    this.#type(value);
  }

  #finds(name: string): boolean {
    return this.#names.has(name) || (this.#outer ? this.#outer.#finds(name) : false);
  }

  #sees(value: Value): boolean {
    return this.#defined.has(value) || (this.#outer ? this.#outer.#sees(value) : false);
  }

  #type(value: Value): void {
    for (const dim of value.shape ?? [])
      if (typeof dim === "number" && !(Number.isSafeInteger(dim) && dim >= 0))
        this.#report("error", "bad-dimension", `value '${value.name}'`, `Dimension ${dim} is not a size`);
  }

  #initializer(key: string, value: Value): void {
    const where = `initializer '${value.name}'`;
    if (key !== value.name)
      this.#report("error", "inconsistent-graph", where, `It is filed under another name, '${key}'`);
    if (!this.#graph.inputs.includes(value)) this.#define(value, "initializer");
    const { tensor } = value;
    if (!tensor) {
      this.#report("error", "bad-tensor", where, "It has no tensor");
      return;
    }
    if (value.dtype !== undefined && value.dtype !== tensor.dtype)
      this.#report("error", "bad-tensor", where, `Declared ${value.dtype}, but the tensor is ${tensor.dtype}`);
    if (value.shape && !fits(tensor.shape, value.shape))
      this.#report("error", "bad-tensor", where, `Declared [${value.shape}], but the tensor is [${tensor.shape}]`);
    if (tensor.strings && tensor.strings.length !== elementCount(tensor.shape))
      this.#report("error", "bad-tensor", where, "The number of strings does not fit the shape");
  }

  #node(node: Node): void {
    const where = describe(node);
    if (node.opType === "") this.#report("error", "empty-name", where, "The node names no operator");
    if (!this.#opsets.has(node.domain))
      this.#report("error", "missing-opset", where, `No opset is imported for the domain '${node.domain}'`);
    if (node.graph !== this.#graph)
      this.#report("error", "inconsistent-graph", where, "The node does not know the graph that holds it");
    for (const [index, input] of node.inputs.entries()) if (input) this.#input(node, index, input);
    for (const [name, attribute] of node.attributes)
      checkAttribute(node, name, attribute, this.#parameters, (message) =>
        this.#report("error", "bad-attribute", where, message),
      );
    for (const subgraph of node.subgraphs())
      new GraphCheck(subgraph, this, this.#opsets, this.#parameters, this.#report).run();
    for (const output of node.outputs) {
      if (output.producer !== node)
        this.#report("error", "inconsistent-graph", where, `Its output '${output.name}' names another producer`);
      if (output.name !== "") this.#define(output, "output of a node");
    }
  }

  #input(node: Node, index: number, input: Value): void {
    if (!input.uses.some((use) => use.node === node && use.index === index))
      this.#report("error", "inconsistent-graph", describe(node), `'${input.name}' does not list this use`);
    if (this.#sees(input)) return;
    const { producer } = input;
    if (!producer || !this.#holds(producer)) {
      this.#report("error", "undefined-input", describe(node), `Nothing defines its input '${input.name}'`);
    } else if (reaches(node, producer)) {
      this.#report("error", "cycle", describe(node), `Its input '${input.name}' depends on its own output`);
    } else {
      this.#report("error", "unsorted", describe(node), `Its input '${input.name}' is computed after it`);
    }
  }

  #holds(node: Node): boolean {
    return this.#graph.nodes.includes(node) || (this.#outer ? this.#outer.#holds(node) : false);
  }
}

/** True if `to` is `from` or depends on one of its outputs. */
function reaches(from: Node, to: Node): boolean {
  const seen = new Set<Node>([from]);
  const pending = [from];
  for (let node = pending.pop(); node; node = pending.pop()) {
    if (node === to) return true;
    for (const output of node.outputs)
      for (const use of output.uses)
        if (!seen.has(use.node)) {
          seen.add(use.node);
          pending.push(use.node);
        }
  }
  return false;
}

function fits(shape: readonly number[], declared: readonly unknown[]): boolean {
  return (
    shape.length === declared.length && declared.every((dim, axis) => typeof dim !== "number" || dim === shape[axis])
  );
}

function describe(node: Node): string {
  return node.name === "" ? `a ${node.opType} node` : `node '${node.name}' (${node.opType})`;
}

/** A function must not call itself, directly or through others. */
function checkRecursion(functions: readonly FunctionBody[], report: Report): void {
  const byName = new Map(functions.map((body) => [`${body.domain}::${body.name}`, body]));
  const calls = (body: FunctionBody): FunctionBody[] =>
    [...body.body.allNodes()].flatMap((node) => byName.get(`${node.domain}::${node.opType}`) ?? []);
  for (const body of functions) {
    const seen = new Set<FunctionBody>();
    const pending = calls(body);
    for (let next = pending.pop(); next; next = pending.pop()) {
      if (next === body) {
        report("error", "recursive-function", `function '${body.name}'`, "It calls itself");
        break;
      }
      if (seen.has(next)) continue;
      seen.add(next);
      pending.push(...calls(next));
    }
  }
}
