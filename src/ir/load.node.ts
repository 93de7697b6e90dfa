/** Opens a model file by its path. */
import { besideFile, fileByteSource } from "../onnx/file-source.node.ts";
import { load } from "./load.ts";
import type { Model } from "./model.ts";

/**
 * Loads the model at `path` without its weights, with external data found beside it. Throws what {@link load} throws, and
 * `missing-file`.
 */
export async function loadFile(path: string): Promise<Model> {
  const model = await load(await fileByteSource(path), { external: besideFile(path) });
  model.path = path;
  return model;
}
