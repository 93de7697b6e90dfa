/** What every technique on weights does first: one kind of constant, and types of all values. */
import { inferShapes } from "../analyse/shapes.ts";
import type { Model } from "../ir/model.ts";
import { freezeDefaults, liftConstants } from "../transform/constants.ts";
import { captureInvariants } from "../transform/loop-invariants.ts";
import type { Journal } from "./journal.ts";

/**
 * Constants become initializers that nobody can feed, also inside of loops that carry them; dtypes and shapes are inferred. Notes
 * what callers can no longer do.
 */
export function prepareConstants(model: Model, journal: Journal): void {
  const frozen = freezeDefaults(model);
  if (frozen.length > 0)
    journal.note(
      `${frozen.length} inputs with a default value (weights, as older exporters list them) became constants: ${shortList(frozen)}.`,
    );
  liftConstants(model);
  captureInvariants(model);
  inferShapes(model);
}

/** The first few names. */
export function shortList(names: readonly string[], most = 4): string {
  return names.length > most ? `${names.slice(0, most).join(", ")} and ${names.length - most} more` : names.join(", ");
}
