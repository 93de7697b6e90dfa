/** The model in memory to messages; large tensors stay lazy and are tied to their messages. */
import { create } from "@bufbuild/protobuf";
import {
  type FunctionProto,
  FunctionProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type OperatorSetIdProto,
  OperatorSetIdProtoSchema,
  type SparseTensorProto,
  StringStringEntryProtoSchema,
} from "../onnx/gen/onnx_pb.js";
import { copyMessage } from "../onnx/message.ts";
import { payloadOf, setPayload } from "../onnx/payload.ts";
import { writeAttribute } from "./attribute-messages.ts";
import type { Graph, Node, Value } from "./graph.ts";
import type { FunctionBody, Model } from "./model.ts";
import { originalOfFunction, originalOfGraph, originalOfModel, originalOfNode, originalOfValue } from "./original.ts";
import { sparseFormOf, writeSparseForms } from "./sparse/sparse-storage.ts";
import { writeTensor } from "./tensor-messages.ts";
import { writeInfo } from "./type-messages.ts";

/** The whole model as a message; nothing is read. */
export function writeModel(model: Model): ModelProto {
  const original = originalOfModel(model);
  const message = original ? copyMessage(original) : create(ModelProtoSchema);
  message.irVersion = BigInt(model.irVersion);
  message.opsetImport = writeOpsets(model.opsets);
  setText(message, "producerName", model.producerName);
  setText(message, "producerVersion", model.producerVersion);
  setText(message, "domain", model.domain);
  setText(message, "docString", model.docString);
  if (model.modelVersion !== 0n || original?.modelVersion) message.modelVersion = model.modelVersion;
  message.metadataProps = Array.from(model.metadata, ([key, value]) =>
    create(StringStringEntryProtoSchema, { key, value }),
  );
  message.functions = model.functions.map(writeFunction);
  message.graph = writeGraph(model.graph);
  return message;
}

function setText<K extends string>(message: { [key in K]: string }, key: K, text: string): void {
  if (text === "") Reflect.deleteProperty(message, key);
  else message[key] = text as (typeof message)[K];
}

function writeOpsets(opsets: ReadonlyMap<string, number>): OperatorSetIdProto[] {
  return Array.from(opsets, ([domain, version]) =>
    create(OperatorSetIdProtoSchema, { domain, version: BigInt(version) }),
  );
}

/** A graph or subgraph as a message. */
export function writeGraph(graph: Graph): GraphProto {
  const original = originalOfGraph(graph);
  const message = original ? copyMessage(original.message) : create(GraphProtoSchema);
  setText(message, "name", graph.name);
  message.input = graph.inputs.map((value) => writeInfo(value, originalOfValue(value)?.info));
  message.output = graph.outputs.map((value) => {
    const known = originalOfValue(value);
    return writeInfo(value, known?.outputInfo ?? known?.info);
  });
  const initializers = [...graph.initializers.values()];
  const sparse = initializers.filter((value) => sparseOf(value) !== undefined);
  // An input cannot be computed, and parts of a weight inside of a subgraph could hide outer names
  const formed = initializers.filter(
    (value) => sparseFormOf(value) !== undefined && !graph.parent && !graph.inputs.includes(value),
  );
  const expanded = writeSparseForms(formed);
  message.sparseInitializer = sparse.flatMap((value) => {
    const form = sparseOf(value)?.message;
    return form ? renameSparse(form, value.name) : [];
  });
  const written = new Set([...sparse, ...formed]);
  message.initializer = initializers.flatMap((value) =>
    value.tensor && !written.has(value) ? writeTensor(value.tensor, value.name, originalOfValue(value)?.tensor) : [],
  );
  message.initializer.push(...expanded.tensors);
  message.node = [...expanded.nodes, ...graph.nodes.map(writeNode)];
  message.valueInfo = [...describedValues(graph), ...(original?.strays ?? [])];
  return message;
}

/** The sparse form of an initializer, if its tensor is still the one that was read. */
function sparseOf(value: Value): { readonly message: SparseTensorProto } | undefined {
  const sparse = originalOfValue(value)?.sparse;
  return sparse && sparse.dense === value.tensor ? sparse : undefined;
}

/** A sparse tensor is named by its values. */
function renameSparse(form: SparseTensorProto, name: string): SparseTensorProto {
  if (!form.values || form.values.name === name) return form;
  const values = copyMessage(form.values, { name });
  const payload = payloadOf(form.values);
  if (payload) setPayload(values, payload);
  return copyMessage(form, { values });
}

/** Entries of `value_info`: of the values that had one. Inferred types are not written; engines infer them again. */
function describedValues(graph: Graph): GraphProto["valueInfo"] {
  const ports = new Set(graph.inputs);
  const described: GraphProto["valueInfo"] = [];
  for (const value of graph.values()) {
    const info = originalOfValue(value)?.info;
    if (info && !ports.has(value)) described.push(writeInfo(value, info));
  }
  return described;
}

function writeNode(node: Node): NodeProto {
  const original = originalOfNode(node);
  const message = original ? copyMessage(original) : create(NodeProtoSchema);
  message.input = node.inputs.map((value) => value?.name ?? "");
  message.output = node.outputs.map((value) => value.name);
  message.opType = node.opType;
  setText(message, "name", node.name);
  setText(message, "domain", node.domain);
  message.attribute = Array.from(node.attributes, ([name, attribute]) => writeAttribute(name, attribute, writeGraph));
  return message;
}

function writeFunction(body: FunctionBody): FunctionProto {
  const original = originalOfFunction(body);
  const message = original ? copyMessage(original) : create(FunctionProtoSchema);
  message.name = body.name;
  setText(message, "domain", body.domain);
  setText(message, "overload", body.overload);
  message.opsetImport = writeOpsets(body.opsets);
  message.attribute = [...body.attributes];
  message.attributeProto = Array.from(body.defaults ?? [], ([name, attribute]) =>
    writeAttribute(name, attribute, writeGraph),
  );
  message.input = body.body.inputs.map((value) => value.name);
  message.output = body.body.outputs.map((value) => value.name);
  message.node = body.body.nodes.map(writeNode);
  const inputs = body.body.inputs.flatMap((value) => {
    const info = originalOfValue(value)?.info;
    return info ? [writeInfo(value, info)] : [];
  });
  message.valueInfo = [...inputs, ...describedValues(body.body), ...(original?.valueInfo ?? [])];
  return message;
}
