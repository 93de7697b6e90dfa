/** Messages to the model in memory: names become values, captured names the very values of the outer graph. */
import { PareError } from "../base/error.ts";
import type {
  AttributeProto,
  FunctionProto,
  GraphProto,
  ModelProto,
  NodeProto,
  OperatorSetIdProto,
  ValueInfoProto,
} from "../onnx/gen/onnx_pb.js";
import { copyMessage } from "../onnx/message.ts";
import { readAttribute } from "./attribute-messages.ts";
import type { Attribute } from "./attribute.ts";
import { Graph, Node, Value } from "./graph.ts";
import { type FunctionBody, Model } from "./model.ts";
import { type GraphOriginal, type ValueOriginal, originalOfValue } from "./original.ts";
import { densify } from "./sparse.ts";
import { collapseSparseForms } from "./sparse/sparse-storage.ts";
import { readTensor, tensorRest } from "./tensor-messages.ts";
import { readType } from "./type-messages.ts";

/** The model of a message whose payloads are tied. Throws `bad-model` on what cannot be a graph at all. */
export function readModel(message: ModelProto): Model {
  if (!message.graph) throw new PareError("bad-model", "The model holds no graph");
  const model = new Model(readGraph(message.graph, undefined), 1, Number(message.irVersion));
  readOpsets(message.opsetImport, model.opsets);
  if (model.opsets.size === 0) model.opsets.set("", 1); // files before opset imports existed
  collapseSparseForms(model.graph);
  for (const { key, value } of message.metadataProps) model.metadata.set(key, value);
  for (const body of message.functions) model.functions.push(readFunction(body));
  model.producerName = message.producerName;
  model.producerVersion = message.producerVersion;
  model.domain = message.domain;
  model.modelVersion = message.modelVersion;
  model.docString = message.docString;
  model.original = copyMessage(message, {
    graph: undefined,
    functions: [],
    opsetImport: [],
    metadataProps: [],
  });
  return model;
}

function readOpsets(imports: readonly OperatorSetIdProto[], into: Map<string, number>): void {
  into.clear();
  for (const { domain, version } of imports) into.set(domain === "ai.onnx" ? "" : domain, Number(version));
}

/** Names visible in a graph: what is defined so far, and what will be defined later in the file. */
class Scope {
  readonly graph: Graph;
  readonly outer: Scope | undefined;
  readonly defined: Map<string, Value> = new Map();
  readonly later: Map<string, Value> = new Map();
  unsorted = false;

  constructor(graph: Graph, outer: Scope | undefined) {
    this.graph = graph;
    this.outer = outer;
  }

  define(value: Value, what: string): Value {
    if (this.defined.has(value.name))
      throw new PareError("bad-model", `Two ${what}s define the same name`, {
        where: `graph '${this.graph.name}'`,
        found: `'${value.name}'`,
        help: "Every value may be defined once only",
      });
    this.defined.set(value.name, value);
    return value;
  }
}

/** The value of that name: the nearest one already defined, else one that the file defines later. */
function resolve(scope: Scope, name: string): Value | undefined {
  return findDefined(scope, name) ?? findLater(scope, name);
}

function findDefined(scope: Scope, name: string): Value | undefined {
  return scope.defined.get(name) ?? (scope.outer && findDefined(scope.outer, name));
}

function findLater(scope: Scope, name: string): Value | undefined {
  const value = scope.later.get(name);
  if (!value) return scope.outer && findLater(scope.outer, name);
  scope.unsorted = true;
  return value;
}

function readGraph(message: GraphProto, outer: Scope | undefined): Graph {
  const graph = new Graph(message.name, outer?.graph);
  const scope = new Scope(graph, outer);
  const infos = new Map(message.valueInfo.map((info) => [info.name, info]));
  for (const info of message.input) {
    graph.inputs.push(scope.define(describedValue(info.name, info), "input"));
    infos.delete(info.name);
  }
  readInitializers(message, scope, infos);
  readNodes(message.node, scope, infos);
  for (const info of message.output) graph.outputs.push(readOutput(info, scope));
  const strays = [...infos.values()];
  graph.original = {
    message: copyMessage(message, {
      node: [],
      initializer: [],
      sparseInitializer: [],
      input: [],
      output: [],
      valueInfo: [],
    }),
    strays,
    unsorted: scope.unsorted,
  } satisfies GraphOriginal;
  if (scope.unsorted) graph.sort();
  return graph;
}

function describedValue(name: string, info: ValueInfoProto | undefined): Value {
  const { dtype, shape } = readType(info?.type);
  const value = new Value(name, dtype, shape);
  if (info) value.original = { info } satisfies ValueOriginal;
  return value;
}

function readInitializers(message: GraphProto, scope: Scope, infos: Map<string, ValueInfoProto>): void {
  const dense = message.initializer.map((proto) => ({
    name: proto.name,
    tensor: readTensor(proto),
    original: { tensor: tensorRest(proto) } satisfies ValueOriginal,
  }));
  const sparse = message.sparseInitializer.map((proto) => {
    const tensor = densify(proto);
    return { name: proto.values?.name ?? "", tensor, original: { sparse: { message: proto, dense: tensor } } };
  });
  for (const { name, tensor, original } of [...dense, ...sparse]) {
    const input = scope.defined.get(name);
    if (input?.tensor) scope.define(input, "initializer"); // throws
    const value = input ?? scope.define(describedValue(name, infos.get(name)), "initializer");
    infos.delete(name);
    value.tensor = tensor;
    value.dtype ??= tensor.dtype;
    value.shape ??= tensor.shape;
    const kept: ValueOriginal = { ...originalOfValue(value), ...original };
    value.original = Object.values(kept).some((part) => part !== undefined) ? kept : undefined;
    scope.graph.initializers.set(name, value);
  }
}

function readNodes(messages: readonly NodeProto[], scope: Scope, infos: Map<string, ValueInfoProto>): void {
  const outputs = messages.map((message) =>
    message.output.map((name) => {
      if (name === "") return new Value("");
      const value = describedValue(name, infos.get(name));
      infos.delete(name);
      if (scope.later.has(name)) scope.defined.set(name, value); // so that the second definition throws below
      scope.later.set(name, value);
      return value;
    }),
  );
  for (const [index, message] of messages.entries()) {
    const mine = outputs[index] ?? [];
    const inputs = message.input.map((name) => (name === "" ? undefined : resolveInput(name, message, scope)));
    const attributes = readAttributes(message.attribute, scope, `node '${message.name || message.opType}'`);
    const node = new Node({
      opType: message.opType,
      domain: message.domain,
      name: message.name,
      inputs,
      outputs: mine,
      attributes,
    });
    if (!isPlain(message)) node.original = copyMessage(message, { input: [], output: [], attribute: [] });
    node.graph = scope.graph;
    scope.graph.nodes.push(node);
    for (const value of mine) if (value.name !== "") scope.define(value, "node");
  }
}

function resolveInput(name: string, message: NodeProto, scope: Scope): Value {
  const value = resolve(scope, name);
  if (value) return value;
  throw new PareError("bad-model", "A node reads a value that nothing defines", {
    where: `node '${message.name || message.opType}'`,
    found: `'${name}'`,
    help: "The model is damaged or was cut out of a larger one",
  });
}

function readAttributes(messages: readonly AttributeProto[], scope: Scope, where: string): Map<string, Attribute> {
  const attributes = new Map<string, Attribute>();
  for (const message of messages) {
    if (attributes.has(message.name))
      throw new PareError("bad-model", "The same attribute is given twice", { where, found: `'${message.name}'` });
    attributes.set(
      message.name,
      readAttribute(message, (graph) => readGraph(graph, scope)),
    );
  }
  return attributes;
}

function isPlain(message: NodeProto): boolean {
  return (
    message.docString === "" &&
    message.overload === "" &&
    message.metadataProps.length === 0 &&
    message.deviceConfigurations.length === 0 &&
    message.$unknown === undefined
  );
}

function readOutput(info: ValueInfoProto, scope: Scope): Value {
  const value = resolve(scope, info.name);
  if (!value)
    throw new PareError("bad-model", "A graph output that nothing computes", {
      where: `graph '${scope.graph.name}'`,
      found: `'${info.name}'`,
    });
  if (scope.defined.get(info.name) !== value) return value; // an outer value: its own graph describes it
  const { dtype, shape } = readType(info.type);
  value.dtype ??= dtype;
  value.shape ??= shape;
  value.original = { ...originalOfValue(value), outputInfo: info } satisfies ValueOriginal;
  return value;
}

function readFunction(message: FunctionProto): FunctionBody {
  const body = new Graph(message.name);
  const scope = new Scope(body, undefined);
  const infos = new Map(message.valueInfo.map((info) => [info.name, info]));
  for (const name of message.input) {
    body.inputs.push(scope.define(describedValue(name, infos.get(name)), "input"));
    infos.delete(name);
  }
  readNodes(message.node, scope, infos);
  if (scope.unsorted) body.sort();
  for (const name of message.output) {
    const value = scope.defined.get(name);
    if (!value)
      throw new PareError("bad-model", "A function output that nothing computes", {
        where: `function '${message.name}'`,
        found: `'${name}'`,
      });
    body.outputs.push(value);
  }
  const opsets = new Map<string, number>();
  readOpsets(message.opsetImport, opsets);
  return {
    name: message.name,
    domain: message.domain,
    overload: message.overload,
    opsets,
    attributes: message.attribute,
    defaults: readAttributes(message.attributeProto, scope, `function '${message.name}'`),
    body,
    original: copyMessage(message, {
      input: [],
      output: [],
      node: [],
      attributeProto: [],
      valueInfo: [...infos.values()],
    }),
  };
}
