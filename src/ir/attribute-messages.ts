/** Attributes to and from AttributeProto. */
import { create } from "@bufbuild/protobuf";
import { PareError } from "../base/error.ts";
import {
  type AttributeProto,
  AttributeProtoSchema,
  AttributeProto_AttributeType as Type,
  type GraphProto,
} from "../onnx/gen/onnx_pb.js";
import { copyMessage } from "../onnx/message.ts";
import type { Attribute } from "./attribute.ts";
import type { Graph } from "./graph.ts";
import { type AttributeOriginal, originalOfAttribute } from "./original.ts";
import { readTensor, tensorRest, writeTensor } from "./tensor-messages.ts";

/** The attribute of a message; `readGraph` builds subgraphs. */
export function readAttribute(message: AttributeProto, readGraph: (graph: GraphProto) => Graph): Attribute {
  const attribute = readKind(message, readGraph);
  const original = originalFor(message, attribute);
  return original ? { ...attribute, original } : attribute;
}

function readKind(message: AttributeProto, readGraph: (graph: GraphProto) => Graph): Attribute {
  const where = `attribute '${message.name}'`;
  const missing = (): never => {
    throw new PareError("bad-model", "An attribute without the value that its type names", { where });
  };
  const type = message.type || guessType(message);
  if (message.refAttrName !== "") return { type: "reference", value: message.refAttrName, of: type };
  switch (type) {
    case Type.FLOAT:
      return { type: "float", value: message.f };
    case Type.INT:
      return { type: "int", value: toInt(message.i) };
    case Type.STRING:
      return { type: "string", value: message.s };
    case Type.TENSOR: {
      const tensor = message.t ?? missing();
      return { type: "tensor", value: readTensor(tensor), ...(tensor.name === "" ? {} : { name: tensor.name }) };
    }
    case Type.GRAPH:
      return { type: "graph", value: readGraph(message.g ?? missing()) };
    case Type.FLOATS:
      return { type: "floats", value: message.floats };
    case Type.INTS:
      return { type: "ints", value: message.ints.map(toInt) };
    case Type.STRINGS:
      return { type: "strings", value: message.strings };
    case Type.TENSORS:
      return { type: "tensors", value: message.tensors.map(readTensor) };
    case Type.GRAPHS:
      return { type: "graphs", value: message.graphs.map(readGraph) };
    default:
      return { type: "other", value: message };
  }
}

/** Files before IR version 2 leave the type out; the field that is set tells it. */
function guessType(message: AttributeProto): Type {
  if (message.t) return Type.TENSOR;
  if (message.g) return Type.GRAPH;
  if (message.floats.length > 0) return Type.FLOATS;
  if (message.ints.length > 0) return Type.INTS;
  if (message.strings.length > 0) return Type.STRINGS;
  if (message.tensors.length > 0) return Type.TENSORS;
  if (message.graphs.length > 0) return Type.GRAPHS;
  if (Object.hasOwn(message, "f")) return Type.FLOAT;
  if (Object.hasOwn(message, "i")) return Type.INT;
  if (Object.hasOwn(message, "s")) return Type.STRING;
  return Type.UNDEFINED;
}

function toInt(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function originalFor(message: AttributeProto, attribute: Attribute): AttributeOriginal | undefined {
  const plain = message.docString === "" && message.$unknown === undefined;
  const rest = plain
    ? undefined
    : copyMessage(message, { f: undefined, i: undefined, s: undefined, t: undefined, g: undefined, ...EMPTY_LISTS });
  const tensors = attribute.type === "tensor" && message.t ? [message.t] : message.tensors;
  const named = attribute.type === "tensors" && tensors.some(({ name }) => name !== "");
  const keepsTensors = named || tensors.some((tensor) => tensorRest(tensor) !== undefined);
  if (!rest && !keepsTensors) return undefined;
  return {
    ...(rest ? { message: rest } : {}),
    ...(keepsTensors ? { tensors: tensors.map((tensor) => tensorRest(tensor, true)) } : {}),
  };
}

const EMPTY_LISTS = { floats: [], ints: [], strings: [], tensors: [], graphs: [] };

/** An attribute as a message. */
export function writeAttribute(
  name: string,
  attribute: Attribute,
  writeGraph: (graph: Graph) => GraphProto,
): AttributeProto {
  if (attribute.type === "other") return copyMessage(attribute.value as AttributeProto, { name });
  const original = originalOfAttribute(attribute);
  const rest = original?.message;
  const message = rest ? copyMessage(rest, { name }) : create(AttributeProtoSchema, { name });
  switch (attribute.type) {
    case "reference":
      message.refAttrName = attribute.value;
      message.type = attribute.of;
      break;
    case "float":
      message.f = attribute.value;
      message.type = Type.FLOAT;
      break;
    case "int":
      message.i = BigInt(attribute.value);
      message.type = Type.INT;
      break;
    case "string":
      message.s = attribute.value;
      message.type = Type.STRING;
      break;
    case "tensor":
      message.t = writeTensor(attribute.value, attribute.name ?? "", original?.tensors?.[0]);
      message.type = Type.TENSOR;
      break;
    case "graph":
      message.g = writeGraph(attribute.value);
      message.type = Type.GRAPH;
      break;
    case "floats":
      message.floats = [...attribute.value];
      message.type = Type.FLOATS;
      break;
    case "ints":
      message.ints = attribute.value.map(BigInt);
      message.type = Type.INTS;
      break;
    case "strings":
      message.strings = [...attribute.value];
      message.type = Type.STRINGS;
      break;
    case "tensors":
      message.tensors = attribute.value.map((tensor, i) =>
        writeTensor(tensor, original?.tensors?.[i]?.name ?? "", original?.tensors?.[i]),
      );
      message.type = Type.TENSORS;
      break;
    case "graphs":
      message.graphs = attribute.value.map(writeGraph);
      message.type = Type.GRAPHS;
      break;
  }
  return message;
}
