/** What a file said beyond what the IR holds, kept so that saving gives it back: the `original` fields, with their types. */
import type {
  AttributeProto,
  FunctionProto,
  GraphProto,
  ModelProto,
  NodeProto,
  SparseTensorProto,
  TensorProto,
  ValueInfoProto,
} from "../onnx/gen/onnx_pb.js";
import type { Attribute } from "./attribute.ts";
import type { FunctionBody, Model } from "./model.ts";
import type { Graph, Node, Value } from "./graph.ts";
import type { SparseForm } from "./sparse/sparse-form.ts";
import type { Tensor } from "./tensor.ts";

/** Messages of one value. They are shared by clones and must not be changed. */
export interface ValueOriginal {
  /** Its entry in the graph's inputs or `value_info`. */
  readonly info?: ValueInfoProto | undefined;
  /** Its entry in the graph's outputs. */
  readonly outputInfo?: ValueInfoProto | undefined;
  /** The initializer without elements: doc string, metadata, unknown fields. */
  readonly tensor?: TensorProto | undefined;
  /** The sparse initializer that `dense` was made from; saved as sparse while the value still holds `dense`. */
  readonly sparse?: { readonly message: SparseTensorProto; readonly dense: Tensor } | undefined;
  /** The sparse form that stands for `dense` in the file; saved so while the value still holds `dense`. */
  readonly form?: { readonly form: SparseForm; readonly dense: Tensor } | undefined;
}

export interface GraphOriginal {
  /** The graph without nodes, initializers, inputs, outputs and value infos. */
  readonly message: GraphProto;
  /** Value infos whose names occur nowhere in the graph. */
  readonly strays: readonly ValueInfoProto[];
  /** True if the file's nodes were not in topological order. */
  readonly unsorted: boolean;
}

/** Doc strings, metadata and unknown fields of an attribute and of the tensors in it. */
export interface AttributeOriginal {
  readonly message?: AttributeProto;
  readonly tensors?: readonly TensorProto[];
}

export function originalOfValue(value: Value): ValueOriginal | undefined {
  return value.original as ValueOriginal | undefined;
}

/** The node's message without inputs, outputs and attributes. */
export function originalOfNode(node: Node): NodeProto | undefined {
  return node.original as NodeProto | undefined;
}

export function originalOfGraph(graph: Graph): GraphOriginal | undefined {
  return graph.original as GraphOriginal | undefined;
}

export function originalOfAttribute(attribute: Attribute): AttributeOriginal | undefined {
  return attribute.original as AttributeOriginal | undefined;
}

/** The function's message without inputs, outputs, nodes and value infos. */
export function originalOfFunction(body: FunctionBody): FunctionProto | undefined {
  return body.original as FunctionProto | undefined;
}

/** The model's message without graph, functions, opset imports and metadata. */
export function originalOfModel(model: Model): ModelProto | undefined {
  return model.original as ModelProto | undefined;
}
