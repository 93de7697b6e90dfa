/** What the engine is given for a model in memory: its bytes, or beyond a size a temporary file with external data. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeModel } from "../ir/encode.ts";
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";

/** Models with more tensor bytes go through a file: protobuf ends at 2 GiB, and the engine maps a file without a copy. */
const INLINE_BYTES = 2 ** 30;

export interface ModelSource {
  readonly source: Uint8Array | string;
  /** Removes the temporary file, if there is one. */
  dispose(): Promise<void>;
}

/** Encodes a model for the engine. */
export async function modelSource(model: Model, inlineBytes: number = INLINE_BYTES): Promise<ModelSource> {
  if (tensorBytes(model) <= inlineBytes) {
    return { source: await encodeModel(model), dispose: () => Promise.resolve() };
  }
  const { saveFile } = await import("../ir/save.node.ts");
  const folder = await mkdtemp(join(tmpdir(), "pare-session-"));
  const dispose = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    const path = join(folder, "model.onnx");
    await saveFile(model, path, { force: true, externalDataThreshold: 1024 });
    return { source: path, dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** Bytes of all initializers and tensor attributes, each tensor once. */
export function tensorBytes(model: Model): number {
  const tensors = new Set<Tensor>();
  for (const graph of model.graph.allGraphs()) {
    for (const value of graph.initializers.values()) if (value.tensor) tensors.add(value.tensor);
    for (const node of graph.nodes)
      for (const attribute of node.attributes.values()) if (attribute.type === "tensor") tensors.add(attribute.value);
  }
  let bytes = 0;
  for (const tensor of tensors) bytes += tensor.byteLength;
  return bytes;
}
