/** Tensors to and from TensorProto. */
import { create } from "@bufbuild/protobuf";
import { dtypeCode } from "../base/dtype.ts";
import { type TensorProto, TensorProtoSchema } from "../onnx/gen/onnx_pb.js";
import { MAX_RESIDENT_PAYLOAD_BYTES } from "../onnx/limits.ts";
import { copyMessage } from "../onnx/message.ts";
import { setPayload } from "../onnx/payload.ts";
import { unpackTensor } from "../onnx/tensor-proto.ts";
import { Tensor } from "./tensor.ts";

/** The tensor of a message; its bytes stay where they are. */
export function readTensor(message: TensorProto): Tensor {
  const { dtype, dims, payload, strings } = unpackTensor(message);
  return new Tensor(dtype, dims, payload, strings);
}

/** What a message says beyond name, dtype, dims and elements (with its name), or undefined when that is nothing. */
export function tensorRest(message: TensorProto): TensorProto | undefined;
/** The same, also when there is nothing. */
export function tensorRest(message: TensorProto, always: true): TensorProto;
export function tensorRest(message: TensorProto, always = false): TensorProto | undefined {
  const plain =
    message.docString === "" &&
    message.metadataProps.length === 0 &&
    message.externalData.length === 0 &&
    message.segment === undefined &&
    message.$unknown === undefined;
  if (plain && !always) return undefined;
  return copyMessage(message, {
    dims: [],
    dataType: undefined,
    dataLocation: undefined,
    rawData: undefined,
    floatData: [],
    doubleData: [],
    int32Data: [],
    int64Data: [],
    uint64Data: [],
    stringData: [],
  });
}

/**
 * A tensor as a message: small resident elements in `raw_data`, larger ones tied to it as a payload that the writer pumps.
 * `rest` is from {@link tensorRest}.
 */
export function writeTensor(tensor: Tensor, name: string, rest?: TensorProto): TensorProto {
  const message = rest ? copyMessage(rest) : create(TensorProtoSchema);
  message.dims = tensor.shape.map(BigInt);
  message.dataType = dtypeCode(tensor.dtype);
  if (name === "") Reflect.deleteProperty(message, "name");
  else message.name = name;
  if (tensor.strings) message.stringData = [...tensor.strings];
  else if (tensor.source.resident && tensor.byteLength <= MAX_RESIDENT_PAYLOAD_BYTES)
    message.rawData = tensor.source.resident;
  else setPayload(message, tensor.source);
  return message;
}
