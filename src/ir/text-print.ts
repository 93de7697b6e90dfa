/** The text form of a model: opsets, types, initializers, nodes with attributes and subgraphs, functions. */
import { create } from "@bufbuild/protobuf";
import { dtypeFromCode } from "../base/dtype.ts";
import { type AttributeProto, AttributeProtoSchema, type TypeProto, TypeProtoSchema } from "../onnx/gen/onnx_pb.js";
import { encodeSegments } from "../onnx/segments.ts";
import type { Attribute } from "./attribute.ts";
import { collect } from "./encode.ts";
import type { Graph, Node, Value } from "./graph.ts";
import type { FunctionBody, Model } from "./model.ts";
import { originalOfNode, originalOfValue } from "./original.ts";
import type { Tensor } from "./tensor.ts";
import { printName, quote } from "./text-lexer.ts";
import { base64, hex, printElements, printFloat32, textOf } from "./text-literal.ts";
import { writeType } from "./type-messages.ts";

export interface PrintOptions {
  /**
   * "inline" (default): every tensor in full, so that parsing gives back a model with the same outputs. "elide": tensors of
   * more than {@link INLINE_ELEMENTS} elements as a hash of their contents, for reading and for comparing.
   */
  readonly weights?: "inline" | "elide";
}

/** Tensors of up to this many elements are printed element by element. */
export const INLINE_ELEMENTS = 64;

/**
 * Prints a model. Everything that it computes is there: graphs, functions, opsets, types, metadata; doc strings,
 * annotations of single nodes, training information, device configurations and unknown fields are left out.
 */
export async function printModel(model: Model, options: PrintOptions = {}): Promise<string> {
  const printer = new Printer(options.weights ?? "inline");
  const opsets = Array.from(model.opsets, ([domain, version]) => `${quote(domain)}: ${version}`);
  const metadata = Array.from(model.metadata, ([key, value]) => `${quote(key)}: ${quote(value)}`);
  const header = [
    `ir_version: ${model.irVersion}`,
    `opset_import: [${opsets.join(", ")}]`,
    model.producerName && `producer_name: ${quote(model.producerName)}`,
    model.producerVersion && `producer_version: ${quote(model.producerVersion)}`,
    model.domain && `domain: ${quote(model.domain)}`,
    model.modelVersion !== 0n && `model_version: ${model.modelVersion}`,
    model.docString && `doc_string: ${quote(model.docString)}`,
    metadata.length > 0 && `metadata_props: [${metadata.join(", ")}]`,
  ].filter(Boolean);
  const parts = [`<\n${header.map((line) => `  ${line}`).join(",\n")}\n>`, await printer.graph(model.graph, "")];
  for (const body of model.functions) parts.push(await printer.function(body));
  return `${parts.join("\n")}\n`;
}

/** The hash that stands for an elided tensor: the first 16 hexadecimal digits of the SHA-256 of its bytes. */
export async function tensorHash(tensor: Tensor): Promise<string> {
  const bytes = tensor.strings ? new TextEncoder().encode(tensor.strings.map(hex).join()) : await tensor.bytes();
  const digest = await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>);
  return hex(new Uint8Array(digest, 0, 8)).slice(2);
}

class Printer {
  readonly #weights: "inline" | "elide";

  constructor(weights: "inline" | "elide") {
    this.#weights = weights;
  }

  async graph(graph: Graph, indent: string): Promise<string> {
    const inputs = graph.inputs.map((value) => `${printValueType(value, "info")} ${printName(value.name)}`);
    const outputs = graph.outputs.map((value) => `${printValueType(value, "outputInfo")} ${printName(value.name)}`);
    const declared = await this.#declarations(graph);
    const head = `${indent}${printName(graph.name)} (${inputs.join(", ")}) => (${outputs.join(", ")})`;
    return `${head}${block(declared, indent)} {\n${await this.#nodes(graph, indent)}${indent}}`;
  }

  async function(body: FunctionBody): Promise<string> {
    const graph = body.body;
    const opsets = Array.from(body.opsets, ([domain, version]) => `${quote(domain)}: ${version}`);
    const header = [
      `domain: ${quote(body.domain)}`,
      body.overload && `overload: ${quote(body.overload)}`,
      `opset_import: [${opsets.join(", ")}]`,
    ].filter(Boolean);
    const defaults: string[] = [];
    for (const [name, attribute] of body.defaults ?? []) defaults.push(await this.#attribute(name, attribute, ""));
    const attributes = [...body.attributes.map(printName), ...defaults];
    const names = (values: readonly Value[]): string => values.map((value) => printName(value.name)).join(", ");
    const head = `function <${header.join(", ")}> ${printName(body.name)} <${attributes.join(", ")}>`;
    const ports = `(${names(graph.inputs)}) => (${names(graph.outputs)})`;
    const declared = await this.#declarations(graph);
    return `${head} ${ports}${block(declared, "")} {\n${await this.#nodes(graph, "")}}`;
  }

  /** Initializers, then types of inner values that the file states. */
  async #declarations(graph: Graph): Promise<string[]> {
    const lines: string[] = [];
    for (const value of graph.initializers.values())
      if (value.tensor) lines.push(await this.#tensor(value.tensor, value.name));
    for (const node of graph.nodes)
      for (const value of node.outputs)
        if (originalOfValue(value)?.info) lines.push(`${printValueType(value, "info")} ${printName(value.name)}`);
    return lines;
  }

  async #nodes(graph: Graph, indent: string): Promise<string> {
    let text = "";
    for (const node of graph.nodes) text += `${indent}  ${await this.#node(node, `${indent}  `)}\n`;
    return text;
  }

  async #node(node: Node, indent: string): Promise<string> {
    const attributes: string[] = [];
    for (const [name, attribute] of node.attributes) attributes.push(await this.#attribute(name, attribute, indent));
    const overload = originalOfNode(node)?.overload ?? "";
    const domain = node.domain === "" && overload === "" ? "" : `${printName(node.domain)}::`;
    const name = node.name === "" ? "" : `[${printName(node.name)}] `;
    const outputs = node.outputs.map((value) => printName(value.name)).join(", ");
    const operator = `${domain}${printName(node.opType)}${overload === "" ? "" : `::${printName(overload)}`}`;
    const inputs = node.inputs.map((value) => printName(value?.name ?? "")).join(", ");
    return `${name}${outputs} = ${operator}${attributes.length ? ` <${attributes.join(", ")}>` : ""} (${inputs})`;
  }

  async #attribute(name: string, attribute: Attribute, indent: string): Promise<string> {
    const head = `${printName(name)}: ${attribute.type}`;
    const list = (texts: readonly string[]): string => `${head} = [${texts.join(", ")}]`;
    switch (attribute.type) {
      case "float":
        return `${head} = ${printFloat32(attribute.value)}`;
      case "int":
        return `${head} = ${attribute.value}`;
      case "string":
        return `${head} = ${printBytes(attribute.value)}`;
      case "tensor":
        return `${head} = ${await this.#tensor(attribute.value, attribute.name ?? "")}`;
      case "graph":
        return `${head} = ${(await this.graph(attribute.value, indent)).trimStart()}`;
      case "floats":
        return list(attribute.value.map(printFloat32));
      case "ints":
        return list(attribute.value.map(String));
      case "strings":
        return list(attribute.value.map(printBytes));
      case "tensors":
        return list(await Promise.all(attribute.value.map((tensor) => this.#tensor(tensor, ""))));
      case "graphs":
        return list(await Promise.all(attribute.value.map((graph) => this.graph(graph, indent))));
      case "reference":
        return `${head} = ${attribute.of} ${printName(attribute.value)}`;
      case "other": {
        const message = create(AttributeProtoSchema, attribute.value as AttributeProto);
        return `${head} = ${quote(base64(await collect(encodeSegments(AttributeProtoSchema, message))))}`;
      }
    }
  }

  async #tensor(tensor: Tensor, name: string): Promise<string> {
    const head = `${tensor.dtype}[${tensor.shape.join(", ")}] ${printName(name)} =`;
    const large = tensor.elements > INLINE_ELEMENTS;
    if (large && this.#weights === "elide") return `${head} ref ${quote(await tensorHash(tensor))}`;
    if (tensor.strings) return `${head} {${tensor.strings.map(printBytes).join(", ")}}`;
    const bytes = await tensor.bytes();
    return `${head} ${large ? `base64 ${quote(base64(bytes))}` : printElements(tensor.dtype, bytes)}`;
  }
}

function block(lines: readonly string[], indent: string): string {
  return lines.length === 0 ? "" : `\n${indent}<\n${lines.map((line) => `${indent}  ${line}`).join(",\n")}\n${indent}>`;
}

/** Bytes as a quoted text, or in hexadecimal where they are not UTF-8. */
function printBytes(bytes: Uint8Array): string {
  const text = textOf(bytes);
  return text === undefined ? hex(bytes) : quote(text);
}

function printValueType(value: Value, which: "info" | "outputInfo"): string {
  const original = originalOfValue(value);
  return printType(writeType(value, (original?.[which] ?? original?.info)?.type));
}

/** A type as text: `float32[2, n]`, `float32` of unknown rank, `seq(…)`, `optional(…)`, `map(…)`, `sparse(…)`, `none`. */
function printType(type: TypeProto | undefined): string {
  const { value } = type ?? create(TypeProtoSchema);
  switch (value.case) {
    case "tensorType":
      return printTensorType(value.value);
    case "sparseTensorType":
      return `sparse(${printTensorType(value.value)})`;
    case "sequenceType":
      return `seq(${printType(value.value.elemType)})`;
    case "optionalType":
      return `optional(${printType(value.value.elemType)})`;
    case "mapType":
      return `map(${dtypeName(value.value.keyType)}, ${printType(value.value.valueType)})`;
    case "opaqueType":
      return `opaque(${quote(value.value.domain)}, ${quote(value.value.name)})`;
    default:
      return "none";
  }
}

function printTensorType(
  type: Extract<TypeProto["value"], { case: "tensorType" | "sparseTensorType" }>["value"],
): string {
  if (!type.shape) return dtypeName(type.elemType);
  const dims = type.shape.dim.map(({ value }) =>
    value.case === "dimValue"
      ? String(value.value)
      : value.case === "dimParam" && value.value
        ? printName(value.value)
        : "?",
  );
  return `${dtypeName(type.elemType)}[${dims.join(", ")}]`;
}

function dtypeName(code: number): string {
  return dtypeFromCode(code) ?? `type${code}`;
}
