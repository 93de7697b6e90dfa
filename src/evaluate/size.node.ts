/** The size of a model: bytes on disk and as downloaded, parameters, non-zeros, multiply-accumulates and bit operations. */
import { stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { costOf } from "../analyse/cost.ts";
import { encodeModel } from "../ir/encode.ts";
import { loadFile } from "../ir/load.node.ts";
import type { Model } from "../ir/model.ts";
import { writeModel } from "../ir/write-graph.ts";
import { ModelProtoSchema } from "../onnx/gen/onnx_pb.js";
import { besideFile, fileByteSource } from "../onnx/file-source.node.ts";
import { isExternal, checkLocation } from "../onnx/external.ts";
import { scan } from "../onnx/scan.ts";
import { encodeSegments } from "../onnx/segments.ts";
import { walkTensors } from "../onnx/walk.ts";
import { type ByteRange, downloadSize } from "./download-size.node.ts";
import { parameterTensors } from "../analyse/parameters.ts";

export interface SizeReport {
  /** Of all files: the model and its external data. */
  readonly bytes: number;
  readonly gzipBytes: number;
  readonly brotliBytes: number;
  /** Quality at which brotli ran, 0 to 11. */
  readonly brotliQuality: number;
  /** Part of the bytes that was compressed; below 1, gzip and brotli bytes are estimates. */
  readonly sampled: number;
  /** Learned numbers, packed or not; see {@link parameterTensors}. */
  readonly parameters: number;
  /** Parameters that are not zero; undefined for models whose weights are too large to be read for it. */
  readonly nonzero: number | undefined;
  /** Multiply-accumulates of one run with symbolic dimensions taken as 1. */
  readonly macs: number;
  /** Σ macs · bits of weights · bits of activations. */
  readonly bops: number;
}

export interface SizeOptions {
  /** Quality of brotli; default by size: 11 to 1 MiB, 9 to 32 MiB, else 5. */
  readonly brotliQuality?: number | undefined;
  /** Bytes of weights up to which zeros are counted. Default 256 MiB. */
  readonly countBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const COUNT_BYTES = 256 * 2 ** 20;
/** A model in memory up to this is encoded whole; beyond, its parts are read one by one. */
const ENCODE_BYTES = 256 * 2 ** 20;

/** Measures a file with its external data, or a model in memory as it would be saved. */
export async function sizeOf(subject: Model | string, options: SizeOptions = {}): Promise<SizeReport> {
  const model = typeof subject === "string" ? await loadFile(subject) : subject;
  const ranges = typeof subject === "string" ? await rangesOfFile(subject) : await rangesOfModel(subject);
  const bytes = ranges.reduce((sum, range) => sum + range.byteLength, 0);
  const download = await downloadSize(ranges, { quality: options.brotliQuality, signal: options.signal });
  const counts = await countParameters(model, options.countBytes ?? COUNT_BYTES);
  const { macs, bops } = costOf(model);
  return { bytes, ...download, ...counts, macs, bops };
}

/** Bytes of a model file and of every external file that it names. */
export async function bytesOnDisk(path: string): Promise<number> {
  const names = await externalFiles(path);
  let bytes = 0;
  for (const file of [path, ...names.map((name) => join(dirname(path), name))]) bytes += (await stat(file)).size;
  return bytes;
}

/** Locations of external data that a model file names, each once. */
export async function externalFiles(path: string): Promise<string[]> {
  // Read anew, since loading a model lets go of where its bytes lay.
  const { bytes } = await scan(await fileByteSource(path), ModelProtoSchema);
  const proto = fromBinary(ModelProtoSchema, bytes);
  const names = new Set<string>();
  walkTensors(ModelProtoSchema, proto, (tensor) => {
    const location = isExternal(tensor) ? tensor.externalData.find(({ key }) => key === "location")?.value : undefined;
    if (location === undefined) return;
    checkLocation(location);
    names.add(location);
  });
  return [...names];
}

/** Parameters and non-zeros of a model; non-zeros only if its parameters take at most `countBytes`. */
export async function countParameters(
  model: Model,
  countBytes: number = COUNT_BYTES,
): Promise<{ readonly parameters: number; readonly nonzero: number | undefined }> {
  const tensors = parameterTensors(model);
  const parameters = tensors.reduce((sum, entry) => sum + entry.parameters, 0);
  if (tensors.reduce((sum, { tensor }) => sum + tensor.byteLength, 0) > countBytes)
    return { parameters, nonzero: undefined };
  let zeros = 0;
  for (const entry of tensors) zeros += await entry.zeros();
  return { parameters, nonzero: parameters - zeros };
}

async function rangesOfFile(path: string): Promise<ByteRange[]> {
  const sources = [fileByteSource(path)];
  const resolve = besideFile(path);
  for (const name of await externalFiles(path)) sources.push(resolve(name));
  return Promise.all(sources);
}

async function rangesOfModel(model: Model): Promise<ByteRange[]> {
  const { parts, byteLength } = encodeSegments(ModelProtoSchema, writeModel(model));
  if (byteLength <= ENCODE_BYTES) {
    const bytes = await encodeModel(model);
    return [{ byteLength: bytes.byteLength, read: async (offset, length) => bytes.subarray(offset, offset + length) }];
  }
  return parts.map((part) => ({
    byteLength: part.byteLength,
    read: async (offset, length) => {
      const bytes =
        part instanceof Uint8Array ? part.subarray(offset, offset + length) : await part.read(offset, length);
      return bytes;
    },
  }));
}
