/** Bytes to messages: a model file becomes a ModelProto whose large tensors stay where they are. */
import { type DescMessage, type MessageShape, fromBinary } from "@bufbuild/protobuf";
import { dtypeFromCode } from "../base/dtype.ts";
import { PareError, messageOf } from "../base/error.ts";
import type { ByteSource, ExternalResolver } from "./byte-source.ts";
import { GraphProtoSchema, type ModelProto, ModelProtoSchema, TensorProtoSchema } from "./gen/onnx_pb.js";
import { HEAD_BYTES, identify } from "./identify.ts";
import { scan } from "./scan.ts";
import { tiePayload } from "./tensor-proto.ts";
import { walkTensors } from "./walk.ts";

/**
 * Reads a model without its weights: every tensor larger than a kilobyte is a range of `source` (or of the external file
 * that `resolve` finds, opened when it is first read). Throws `not-onnx` saying what the file is instead, or `bad-model`.
 */
export async function readModelProto(source: ByteSource, resolve: ExternalResolver): Promise<ModelProto> {
  const head = await source.read(0, Math.min(HEAD_BYTES, source.byteLength));
  const kind = identify(head, source.byteLength);
  if (kind) throw notOnnx(source, kind.name, kind.help);
  let model: ModelProto;
  let ranges: Awaited<ReturnType<typeof scan>>["ranges"];
  try {
    const skeleton = await scan(source, ModelProtoSchema);
    ranges = skeleton.ranges;
    model = decode(source, skeleton.bytes);
  } catch (error) {
    if (!(error instanceof PareError && error.code === "bad-model")) throw error;
    const other = await otherMessage(source);
    if (other) throw notOnnx(source, other, "A whole .onnx model is wanted here", error);
    if (beginsLikeModel(head)) throw error;
    throw notOnnx(
      source,
      "not an ONNX model",
      "Expected an .onnx file as torch.onnx.export or tf2onnx write it",
      error,
    );
  }
  if (!model.graph) {
    const other = await otherMessage(source);
    throw notOnnx(source, other ?? "no ONNX model: it holds no graph", "A whole .onnx model is wanted here");
  }
  walkTensors(ModelProtoSchema, model, (tensor) => tiePayload(tensor, source, ranges, resolve));
  return model;
}

function decode(source: ByteSource, bytes: Uint8Array): ModelProto {
  try {
    return fromBinary(ModelProtoSchema, bytes);
  } catch (error) {
    throw new PareError("bad-model", "The file cannot be decoded", {
      where: source.name,
      found: messageOf(error),
      help: "It is damaged: fetch it again",
      cause: error,
    });
  }
}

/** What the file is if it is another message of the ONNX schema. */
async function otherMessage(source: ByteSource): Promise<string | undefined> {
  const tensor = await tryDecode(source, TensorProtoSchema);
  if (tensor && tensor.dims.length > 0 && tensor.dataType > 0 && dtypeFromCode(tensor.dataType))
    return "a single saved tensor (TensorProto), no model";
  const graph = await tryDecode(source, GraphProtoSchema);
  if (graph && graph.node.some((node) => node.opType !== "") && graph.output.length > 0)
    return "a graph without its model (GraphProto)";
  return undefined;
}

async function tryDecode<Schema extends DescMessage>(
  source: ByteSource,
  schema: Schema,
): Promise<MessageShape<Schema> | undefined> {
  try {
    const skeleton = await scan(source, schema);
    return skeleton.known ? fromBinary(schema, skeleton.bytes) : undefined;
  } catch {
    return undefined;
  }
}

/** Exporters write `ir_version`, field 1, first: 0x08 and a small number. */
function beginsLikeModel(head: Uint8Array): boolean {
  return head[0] === 0x08 && (head[1] ?? 0xff) < 64;
}

function notOnnx(source: ByteSource, kind: string, help: string, cause?: PareError): PareError {
  return new PareError("not-onnx", `This is ${kind}`, { where: source.name, help, ...(cause ? { cause } : {}) });
}
