/** Opens a model from memory, a Blob, a URL or any byte source. Reads the graph, not the weights. */
import { PareError } from "../base/error.ts";
import {
  type ByteSource,
  type ExternalResolver,
  blobByteSource,
  httpByteSource,
  memoryByteSource,
} from "../onnx/byte-source.ts";
import { readModelProto } from "../onnx/read.ts";
import type { Model } from "./model.ts";
import { readModel } from "./read-graph.ts";

export interface LoadOptions {
  /** Finds external data by its location. Default: beside a URL; an error that says what is missing for anything else. */
  readonly external?: ExternalResolver;
}

/**
 * Loads a model. Tensors above a kilobyte stay where they are and are read when asked, so `input` must stay as it is while
 * the model is in use. Throws `not-onnx` (saying what the file is), `bad-model`, `missing-file` or `unsupported`.
 */
export async function load(
  input: Uint8Array | ArrayBuffer | Blob | URL | ByteSource,
  options: LoadOptions = {},
): Promise<Model> {
  const source = await sourceOf(input);
  const resolve = options.external ?? (input instanceof URL ? besideUrl(input) : nothingBeside(source));
  return readModel(await readModelProto(source, resolve));
}

async function sourceOf(input: Uint8Array | ArrayBuffer | Blob | URL | ByteSource): Promise<ByteSource> {
  if (input instanceof Uint8Array) return memoryByteSource(input);
  if (input instanceof ArrayBuffer) return memoryByteSource(new Uint8Array(input));
  if (input instanceof Blob) return blobByteSource(input);
  if (input instanceof URL) return httpByteSource(input);
  return input;
}

function besideUrl(url: URL): ExternalResolver {
  const known = new Map<string, Promise<ByteSource>>();
  return (location) => {
    const found = known.get(location) ?? httpByteSource(new URL(location, url));
    known.set(location, found);
    return found;
  };
}

function nothingBeside(source: ByteSource): ExternalResolver {
  return (location) => {
    throw new PareError("missing-file", "The model keeps weights in another file, which was not given", {
      where: source.name,
      found: `external data '${location}'`,
      help: "Pass the `external` option, or load the model by its path",
    });
  };
}
