/** Options of an architecture that follow from the data it is to be trained on. */
import { elementCount } from "../base/shape.ts";
import type { Dataset } from "../data/dataset.ts";
import type { Architecture } from "./architecture.ts";

/**
 * Of `input`, `classes`, `vocabulary` and `sequence` those that the architecture has and the data decides: the shape of a
 * sample, how many classes or targets there are, how many tokens there are and how many a sample has.
 */
export function optionsFor(architecture: Architecture, data: Dataset): Record<string, unknown> {
  const [field] = data.fields;
  const targets = data.labels === "values" ? elementCount(data.labelShape ?? []) : data.classes?.length;
  const known: Record<string, unknown> = {
    input: field?.shape,
    classes: targets,
    vocabulary: field?.vocabulary ?? (data.labels === "tokens" ? data.classes?.length : undefined),
    sequence: field?.shape.length === 1 ? field.shape[0] : undefined,
  };
  const wanted = Object.entries(known).filter(
    ([name, value]) => value !== undefined && name in architecture.options.shape,
  );
  return Object.fromEntries(wanted);
}
