/** Reads the text form back into a model. */
import { create, fromBinary } from "@bufbuild/protobuf";
import { type DType, DTYPES, dtypeCode } from "../base/dtype.ts";
import { PareError } from "../base/error.ts";
import {
  type AttributeProto,
  AttributeProtoSchema,
  AttributeProto_AttributeType as Type,
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
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  type TensorShapeProto,
  TensorShapeProtoSchema,
  TensorShapeProto_DimensionSchema,
  type TypeProto,
  TypeProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "../onnx/gen/onnx_pb.js";
import { MAX_MESSAGE_DEPTH } from "../onnx/limits.ts";
import { setPayload } from "../onnx/payload.ts";
import type { Model } from "./model.ts";
import { readModel } from "./read-graph.ts";
import type { Tensor } from "./tensor.ts";
import { Lexer } from "./text-lexer.ts";
import { parseBase64, parseElements, parseFloatText, parseHex } from "./text-literal.ts";

/** An elided tensor of the text. */
export interface TensorReference {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** As {@link tensorHash} gives it. */
  readonly hash: string;
}

export interface ParseOptions {
  /** Finds the tensor that an elided one stands for. Without it such a text is an error. */
  readonly resolve?: (reference: TensorReference) => Tensor | undefined;
}

/** Parses what `printModel` printed, or a text written by hand. Throws `bad-model` naming line and column. */
export function parseModel(text: string, options: ParseOptions = {}): Model {
  return readModel(new Parser(text, options).model());
}

const ATTRIBUTE_TYPES: Readonly<Record<string, Type>> = {
  float: Type.FLOAT,
  int: Type.INT,
  string: Type.STRING,
  tensor: Type.TENSOR,
  graph: Type.GRAPH,
  floats: Type.FLOATS,
  ints: Type.INTS,
  strings: Type.STRINGS,
  tensors: Type.TENSORS,
  graphs: Type.GRAPHS,
};

class Parser {
  readonly #lexer: Lexer;
  readonly #options: ParseOptions;
  #depth = 0;

  constructor(text: string, options: ParseOptions) {
    this.#lexer = new Lexer(text);
    this.#options = options;
  }

  model(): ModelProto {
    const lexer: Lexer = this.#lexer;
    const model = create(ModelProtoSchema);
    lexer.expect("<");
    lexer.list(">", () => this.#modelField(model));
    model.graph = this.#graph();
    while (lexer.accept("function")) model.functions.push(this.#function());
    if (lexer.next.kind !== "end") lexer.fail("a function or the end of the text");
    return model;
  }

  #modelField(model: ModelProto): void {
    const lexer: Lexer = this.#lexer;
    const at = lexer.next;
    const field = lexer.word("a field of the model");
    lexer.expect(":");
    switch (field) {
      case "ir_version":
        model.irVersion = this.#integer();
        break;
      case "opset_import":
        model.opsetImport = this.#opsets();
        break;
      case "producer_name":
        model.producerName = lexer.string("a string");
        break;
      case "producer_version":
        model.producerVersion = lexer.string("a string");
        break;
      case "domain":
        model.domain = lexer.string("a string");
        break;
      case "model_version":
        model.modelVersion = this.#integer();
        break;
      case "doc_string":
        model.docString = lexer.string("a string");
        break;
      case "metadata_props":
        lexer.expect("[");
        model.metadataProps = lexer.list("]", () => {
          const key = lexer.string("a key");
          lexer.expect(":");
          return create(StringStringEntryProtoSchema, { key, value: lexer.string("a value") });
        });
        break;
      default:
        lexer.fail("ir_version, opset_import, producer_name, metadata_props or another field of the model", at);
    }
  }

  #opsets(): OperatorSetIdProto[] {
    const lexer: Lexer = this.#lexer;
    lexer.expect("[");
    return lexer.list("]", () => {
      const domain = lexer.string("a domain in quotes");
      lexer.expect(":");
      return create(OperatorSetIdProtoSchema, { domain, version: this.#integer() });
    });
  }

  #integer(): bigint {
    const at = this.#lexer.next;
    const word = this.#lexer.word("an integer");
    if (!/^[+-]?\d+$/.test(word)) this.#lexer.fail("an integer", at);
    return BigInt(word);
  }

  #float(): number {
    const at = this.#lexer.next;
    const value = parseFloatText(this.#lexer.word("a number"));
    if (value === undefined) this.#lexer.fail("a number", at);
    return value;
  }

  /** Runs `parse` one level deeper; nesting is bounded as in files. */
  #nested<T>(parse: () => T): T {
    if (++this.#depth > MAX_MESSAGE_DEPTH) this.#lexer.fail(`at most ${MAX_MESSAGE_DEPTH} levels of nesting`);
    const result = parse();
    this.#depth--;
    return result;
  }

  #graph(): GraphProto {
    const lexer: Lexer = this.#lexer;
    const graph = create(GraphProtoSchema, { name: lexer.name("the graph's name") });
    lexer.expect("(");
    graph.input = lexer.list(")", () => this.#port());
    lexer.expect("=>");
    lexer.expect("(");
    graph.output = lexer.list(")", () => this.#port());
    if (lexer.accept("<"))
      lexer.list(">", () => {
        const declared = this.#declaration();
        if (declared.$typeName === "onnx.TensorProto") graph.initializer.push(declared);
        else graph.valueInfo.push(declared);
      });
    graph.node = this.#nodes();
    return graph;
  }

  #port(): ValueInfoProto {
    const declared = this.#declaration();
    if (declared.$typeName === "onnx.TensorProto") this.#lexer.fail("a type and a name");
    return declared;
  }

  /** `type name`, or `type name = elements`. */
  #declaration(): ValueInfoProto | TensorProto {
    const lexer: Lexer = this.#lexer;
    const at = lexer.next;
    const type = this.#type();
    const name = lexer.name("a name");
    if (!lexer.accept("=")) return create(ValueInfoProtoSchema, { name, ...(type ? { type } : {}) });
    if (type?.value.case !== "tensorType") lexer.fail("a tensor type", at);
    const dims = type.value.value.shape?.dim.map(({ value }) => (value.case === "dimValue" ? value.value : -1n));
    if (!dims || dims.includes(-1n)) lexer.fail("a tensor type with sizes", at);
    const { elemType } = type.value.value;
    const tensor = create(TensorProtoSchema, { name, dims, dataType: elemType });
    this.#elements(tensor, DTYPES.find((dtype) => dtypeCode(dtype) === elemType) ?? "undefined");
    return tensor;
  }

  #elements(tensor: TensorProto, dtype: DType): void {
    const lexer: Lexer = this.#lexer;
    const at = lexer.next;
    if (lexer.accept("ref")) {
      const reference = { name: tensor.name, dtype, shape: tensor.dims.map(Number), hash: lexer.string("a hash") };
      const found = this.#options.resolve?.(reference);
      if (!found)
        throw new PareError("bad-option", "The text leaves this tensor's elements out", {
          where: `tensor '${tensor.name}'`,
          found: `a reference to ${reference.hash}`,
          help: "Print with weights inline, or give a resolver",
        });
      if (found.strings) tensor.stringData = [...found.strings];
      else setPayload(tensor, found.source);
    } else if (lexer.accept("base64")) {
      const bytes = parseBase64(lexer.string("base64 in quotes"));
      if (!bytes) lexer.fail("base64 in quotes", at);
      tensor.rawData = bytes;
    } else if (lexer.accept("{")) {
      if (dtype === "string") tensor.stringData = lexer.list("}", () => this.#bytes());
      else {
        const bytes = parseElements(
          dtype,
          lexer.list("}", () => lexer.word("a number")),
        );
        if (!bytes) lexer.fail(`elements of ${dtype}`, at);
        tensor.rawData = bytes;
      }
    } else {
      const bytes = parseHex(lexer.word("elements in braces, 0x…, base64 or ref"));
      if (!bytes) lexer.fail("elements in braces, 0x…, base64 or ref", at);
      tensor.rawData = bytes;
    }
  }

  #bytes(): Uint8Array {
    const lexer: Lexer = this.#lexer;
    if (lexer.next.kind === "string") return new TextEncoder().encode(lexer.take().text);
    const at = lexer.next;
    const bytes = parseHex(lexer.word("a string"));
    if (!bytes) lexer.fail("a string, or its bytes as 0x…", at);
    return bytes;
  }

  #nodes(): NodeProto[] {
    const lexer: Lexer = this.#lexer;
    const nodes: NodeProto[] = [];
    lexer.expect("{");
    while (!lexer.accept("}")) nodes.push(this.#node());
    return nodes;
  }

  #node(): NodeProto {
    const lexer: Lexer = this.#lexer;
    const node = create(NodeProtoSchema);
    if (lexer.accept("[")) {
      node.name = lexer.name("the node's name");
      lexer.expect("]");
    }
    node.output = lexer.list("=", () => lexer.name("an output"));
    const path = [lexer.name("an operator")];
    while (lexer.accept("::")) path.push(lexer.name("an operator"));
    if (path.length > 1) node.domain = path.shift() ?? "";
    node.opType = path[0] ?? "";
    if (path[1]) node.overload = path[1];
    if (lexer.accept("<")) node.attribute = lexer.list(">", () => this.#attribute(lexer.name("an attribute")));
    lexer.expect("(");
    node.input = lexer.list(")", () => lexer.name("an input"));
    return node;
  }

  #attribute(name: string): AttributeProto {
    const lexer: Lexer = this.#lexer;
    lexer.expect(":");
    const at = lexer.next;
    const kind = lexer.word("an attribute type");
    lexer.expect("=");
    if (kind === "other") return this.#otherAttribute(name);
    if (kind === "reference") {
      const type = Number(this.#integer());
      return create(AttributeProtoSchema, { name, type, refAttrName: lexer.name("an attribute of the function") });
    }
    const type = ATTRIBUTE_TYPES[kind];
    if (type === undefined) lexer.fail(Object.keys(ATTRIBUTE_TYPES).join(", "), at);
    const message = create(AttributeProtoSchema, { name, type });
    const list = <T>(item: () => T): T[] => {
      lexer.expect("[");
      return lexer.list("]", item);
    };
    if (kind === "float") message.f = this.#float();
    else if (kind === "int") message.i = this.#integer();
    else if (kind === "string") message.s = this.#bytes();
    else if (kind === "tensor") message.t = this.#tensor();
    else if (kind === "graph") message.g = this.#nested(() => this.#graph());
    else if (kind === "floats") message.floats = list(() => this.#float());
    else if (kind === "ints") message.ints = list(() => this.#integer());
    else if (kind === "strings") message.strings = list(() => this.#bytes());
    else if (kind === "tensors") message.tensors = list(() => this.#tensor());
    else message.graphs = list(() => this.#nested(() => this.#graph()));
    return message;
  }

  #otherAttribute(name: string): AttributeProto {
    const at = this.#lexer.next;
    const bytes = parseBase64(this.#lexer.string("base64 in quotes"));
    try {
      if (bytes) return Object.assign(fromBinary(AttributeProtoSchema, bytes), { name });
    } catch {
      // Reported below.
    }
    return this.#lexer.fail("an attribute message in base64", at);
  }

  #tensor(): TensorProto {
    const declared = this.#declaration();
    if (declared.$typeName !== "onnx.TensorProto") this.#lexer.fail("'=' and elements");
    return declared;
  }

  #type(): TypeProto | undefined {
    const lexer: Lexer = this.#lexer;
    const at = lexer.next;
    const word = lexer.word("a type");
    const elem = (): { elemType?: TypeProto } => {
      lexer.expect("(");
      const elemType = this.#nested(() => this.#type());
      lexer.expect(")");
      return elemType ? { elemType } : {};
    };
    switch (word) {
      case "none":
        return undefined;
      case "seq":
        return create(TypeProtoSchema, { value: { case: "sequenceType", value: elem() } });
      case "optional":
        return create(TypeProtoSchema, { value: { case: "optionalType", value: elem() } });
      case "map": {
        lexer.expect("(");
        const keyAt = lexer.next;
        const keyType = this.#dtypeCode(lexer.word("a key type")) ?? lexer.fail("a key type", keyAt);
        lexer.expect(",");
        const valueType = this.#nested(() => this.#type());
        lexer.expect(")");
        return create(TypeProtoSchema, {
          value: { case: "mapType", value: { keyType, ...(valueType ? { valueType } : {}) } },
        });
      }
      case "sparse": {
        lexer.expect("(");
        const inner = this.#nested(() => this.#type());
        lexer.expect(")");
        if (inner?.value.case !== "tensorType") lexer.fail("a tensor type", at);
        const { elemType, shape } = inner.value.value;
        return create(TypeProtoSchema, {
          value: { case: "sparseTensorType", value: { elemType, ...(shape ? { shape } : {}) } },
        });
      }
      case "opaque": {
        lexer.expect("(");
        const domain = lexer.string("a domain");
        lexer.expect(",");
        const name = lexer.string("a name");
        lexer.expect(")");
        return create(TypeProtoSchema, { value: { case: "opaqueType", value: { domain, name } } });
      }
      default: {
        const elemType = this.#dtypeCode(word) ?? lexer.fail("a type", at);
        const shape = lexer.accept("[") ? this.#shape() : undefined;
        return create(TypeProtoSchema, {
          value: { case: "tensorType", value: { elemType, ...(shape ? { shape } : {}) } },
        });
      }
    }
  }

  #dtypeCode(word: string): number | undefined {
    if (/^type\d+$/.test(word)) return Number(word.slice(4));
    const dtype = DTYPES.find((candidate) => candidate === word);
    return dtype && dtypeCode(dtype);
  }

  #shape(): TensorShapeProto {
    const lexer: Lexer = this.#lexer;
    const dim = lexer.list("]", () => {
      const token = lexer.next;
      const text = lexer.name("a size, a name or ?");
      if (token.kind === "word" && text === "?") return create(TensorShapeProto_DimensionSchema);
      if (token.kind === "word" && /^-?\d+$/.test(text))
        return create(TensorShapeProto_DimensionSchema, { value: { case: "dimValue", value: BigInt(text) } });
      return create(TensorShapeProto_DimensionSchema, { value: { case: "dimParam", value: text } });
    });
    return create(TensorShapeProtoSchema, { dim });
  }

  #function(): FunctionProto {
    const lexer: Lexer = this.#lexer;
    const body = create(FunctionProtoSchema);
    lexer.expect("<");
    lexer.list(">", () => {
      const at = lexer.next;
      const field = lexer.word("a field of the function");
      lexer.expect(":");
      if (field === "domain") body.domain = lexer.string("a domain");
      else if (field === "overload") body.overload = lexer.string("an overload");
      else if (field === "opset_import") body.opsetImport = this.#opsets();
      else lexer.fail("domain, overload or opset_import", at);
    });
    body.name = lexer.name("the function's name");
    if (lexer.accept("<"))
      lexer.list(">", () => {
        const name = lexer.name("an attribute");
        if (lexer.next.text === ":") body.attributeProto.push(this.#attribute(name));
        else body.attribute.push(name);
      });
    lexer.expect("(");
    body.input = lexer.list(")", () => lexer.name("an input"));
    lexer.expect("=>");
    lexer.expect("(");
    body.output = lexer.list(")", () => lexer.name("an output"));
    if (lexer.accept("<")) body.valueInfo = lexer.list(">", () => this.#port());
    body.node = this.#nodes();
    return body;
  }
}
