/** A model as one run of bytes, external data included: what a session is opened from. */
import { ModelProtoSchema } from "../onnx/gen/onnx_pb.js";
import { type Segments, checkMessageSize, encodeSegments } from "../onnx/segments.ts";
import type { Model } from "./model.ts";
import { writeModel } from "./write-graph.ts";

/**
 * The model as an ONNX file in memory, every weight inline. Throws `unsupported` above protobuf's limit of 2 GiB: save
 * such a model to files instead.
 */
export async function encodeModel(model: Model): Promise<Uint8Array<ArrayBuffer>> {
  const segments = encodeSegments(ModelProtoSchema, writeModel(model));
  checkMessageSize(segments.byteLength);
  return collect(segments);
}

/** All segments in one piece; payloads are read. */
export async function collect(segments: Segments): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(segments.byteLength);
  let at = 0;
  for (const part of segments.parts) {
    if (part instanceof Uint8Array) bytes.set(part, at);
    else if (part.readInto) await part.readInto(bytes.subarray(at, at + part.byteLength), 0);
    else bytes.set(await part.read(), at);
    at += part.byteLength;
  }
  return bytes;
}
