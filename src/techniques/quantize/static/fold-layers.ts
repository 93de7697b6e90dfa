/** What comes before every change of layers' scales: constants in one form, and normalizations folded into the layers before them. */
import { inferShapes } from "../../../analyse/shapes.ts";
import type { Model } from "../../../ir/model.ts";
import { foldAffine } from "../../../transform/fold-affine.ts";
import { removeDead } from "../../../transform/remove-dead.ts";
import { removeIdentities } from "../../../transform/remove-identities.ts";
import type { Journal } from "../../journal.ts";
import { prepareConstants } from "../../prepare.ts";

/** Lifts constants, removes identities and folds BatchNormalization and the like into layers, with journal entries. */
export async function foldLayers(model: Model, journal: Journal): Promise<void> {
  prepareConstants(model, journal);
  removeIdentities(model);
  const { folded, skipped } = await foldAffine(model);
  if (folded.length > 0) journal.note(`${folded.length} normalizations, scales and shifts folded into layers first.`);
  for (const { what, why } of skipped) journal.skip(what, why);
  removeDead(model);
  inferShapes(model);
}
