/** A generated model file with everything in it that pare keeps but does not look into, and a generator of random bytes. */
import { create, toBinary } from "@bufbuild/protobuf";
import { Rng } from "../../src/base/rng.ts";
import {
  AttributeProtoSchema,
  AttributeProto_AttributeType,
  DeviceConfigurationProtoSchema,
  FunctionProtoSchema,
  GraphProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  SparseTensorProtoSchema,
  StringStringEntryProtoSchema,
  TensorAnnotationSchema,
  TensorProtoSchema,
  TrainingInfoProtoSchema,
  TypeProtoSchema,
  ValueInfoProtoSchema,
} from "../../src/onnx/gen/onnx_pb.js";

export function randomBytes(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const rng = new Rng(seed);
  return Uint8Array.from({ length }, () => rng.below(256));
}

/** Unknown fields, sparse and typed attributes, annotations, training graphs, device configurations, functions, metadata. */
export function strangeFile(): Uint8Array {
  const unknown = (no: number) => [{ no, wireType: 2, data: Uint8Array.of(3, 7, 8, 9) }];
  const big = (name: string, seed: number) =>
    create(TensorProtoSchema, { name, dims: [500n], dataType: 1, rawData: randomBytes(2000, seed), docString: "big" });
  const entry = (key: string, value: string) => create(StringStringEntryProtoSchema, { key, value });
  const floatType = create(TypeProtoSchema, {
    value: {
      case: "tensorType",
      value: { elemType: 1, shape: { dim: [{ value: { case: "dimParam", value: "n" }, denotation: "DATA_BATCH" }] } },
    },
    denotation: "TENSOR",
  });
  const sequence = create(TypeProtoSchema, { value: { case: "sequenceType", value: { elemType: floatType } } });
  const sparse = create(SparseTensorProtoSchema, {
    values: { name: "sp", dims: [300n], dataType: 1, rawData: randomBytes(1200, 9).map((byte) => byte & 0x3f) },
    indices: {
      dims: [300n],
      dataType: 7,
      rawData: new Uint8Array(BigInt64Array.from({ length: 300 }, (_, i) => BigInt(i * 3)).buffer),
    },
    dims: [1000n],
  });
  const node = create(NodeProtoSchema, {
    opType: "Strange",
    domain: "my.domain",
    overload: "v2",
    name: "strange",
    docString: "a node",
    input: ["x", "", "w"],
    output: ["y", "", "s"],
    metadataProps: [entry("node", "meta")],
    deviceConfigurations: [{ configurationId: "c", pipelineStage: 2 }],
    attribute: [
      create(AttributeProtoSchema, {
        name: "sparse",
        type: AttributeProto_AttributeType.SPARSE_TENSOR,
        sparseTensor: sparse,
      }),
      create(AttributeProtoSchema, { name: "type", type: AttributeProto_AttributeType.TYPE_PROTO, tp: sequence }),
      create(AttributeProtoSchema, {
        name: "list",
        type: AttributeProto_AttributeType.TENSORS,
        tensors: [big("a", 2), big("b", 3)],
        docString: "doc",
      }),
      create(AttributeProtoSchema, { name: "huge", type: AttributeProto_AttributeType.INT, i: 2n ** 62n }),
      create(AttributeProtoSchema, {
        name: "texts",
        type: AttributeProto_AttributeType.STRINGS,
        strings: [Uint8Array.of(255), Uint8Array.of(65)],
      }),
    ],
  });
  node.$unknown = unknown(77);
  const initializer = big("w", 4);
  initializer.$unknown = unknown(78);
  const graph = create(GraphProtoSchema, {
    name: "g",
    docString: "graph doc",
    node: [node],
    initializer: [initializer],
    sparseInitializer: [sparse],
    input: [
      create(ValueInfoProtoSchema, {
        name: "x",
        type: floatType,
        docString: "input doc",
        metadataProps: [entry("v", "m")],
      }),
    ],
    output: [
      create(ValueInfoProtoSchema, { name: "y", type: floatType }),
      create(ValueInfoProtoSchema, { name: "s", type: sequence }),
    ],
    valueInfo: [create(ValueInfoProtoSchema, { name: "stray", type: floatType })],
    quantizationAnnotation: [
      create(TensorAnnotationSchema, { tensorName: "w", quantParameterTensorNames: [entry("SCALE_TENSOR", "w")] }),
    ],
    metadataProps: [entry("graph", "meta")],
  });
  graph.$unknown = unknown(79);
  const model = create(ModelProtoSchema, {
    irVersion: 11n,
    producerName: "test",
    opsetImport: [
      create(OperatorSetIdProtoSchema, { domain: "", version: 21n }),
      create(OperatorSetIdProtoSchema, { domain: "my.domain", version: 3n }),
    ],
    graph,
    metadataProps: [entry("k", "v")],
    trainingInfo: [create(TrainingInfoProtoSchema, { algorithm: { name: "train", initializer: [big("t", 5)] } })],
    configuration: [create(DeviceConfigurationProtoSchema, { name: "c", numDevices: 2, device: ["a", "b"] })],
    functions: [
      create(FunctionProtoSchema, {
        name: "Twice",
        domain: "my.domain",
        overload: "o",
        docString: "function doc",
        input: ["a"],
        output: ["b"],
        attribute: ["k"],
        attributeProto: [
          create(AttributeProtoSchema, { name: "alpha", type: AttributeProto_AttributeType.FLOAT, f: 0.5 }),
        ],
        opsetImport: [create(OperatorSetIdProtoSchema, { domain: "", version: 21n })],
        metadataProps: [entry("f", "m")],
        valueInfo: [create(ValueInfoProtoSchema, { name: "b", type: floatType })],
        node: [
          create(NodeProtoSchema, {
            opType: "LeakyRelu",
            input: ["a"],
            output: ["b"],
            attribute: [
              create(AttributeProtoSchema, {
                name: "alpha",
                refAttrName: "alpha",
                type: AttributeProto_AttributeType.FLOAT,
              }),
            ],
          }),
        ],
      }),
    ],
  });
  model.$unknown = unknown(80);
  return toBinary(ModelProtoSchema, model);
}
