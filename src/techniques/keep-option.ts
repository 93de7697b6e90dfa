/** The option `keep`, the same words in every technique. */
import { z } from "zod";
import { type Keep, matchKeep } from "../analyse/keep.ts";
import type { Model } from "../ir/model.ts";
import type { Journal } from "./journal.ts";

/** Names, globs, /regular expressions/ or op:Type of layers and tensors that stay as they are. */
export const keepOption: z.ZodDefault<z.ZodArray<z.ZodString>> = z
  .array(z.string())
  .default([])
  .describe("layers or tensors to leave alone: names, globs, /regular expressions/ or op:Type");

/** The matcher of a technique's patterns; a pattern that matches nothing is noted in the journal. */
export function keepOf(patterns: readonly string[], model: Model, journal: Journal): Keep {
  const keep = matchKeep(patterns, model);
  for (const warning of keep.warnings) journal.note(warning);
  return keep;
}
