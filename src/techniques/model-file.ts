/** Another model that a technique needs (a teacher, an original, a student), named by its file. */
import type { Model } from "../ir/model.ts";
import { prepareConstants } from "./prepare.ts";
import { Journal } from "./journal.ts";

/** Loads a model file. Only under Node: a page passes models in memory. Errors are the loader's. */
export async function loadModelFile(path: string): Promise<Model> {
  const { loadFile } = await import("../ir/load.node.ts");
  const model = await loadFile(path);
  prepareConstants(model, new Journal());
  return model;
}
