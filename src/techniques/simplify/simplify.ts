/**
 * Removes what a trained network no longer needs: same outputs, fewer operators and bytes.
 *
 * Helps: size (duplicate and unused constants), load time, latency where the engine does not fold by itself; makes other
 * techniques see plain layers (BatchNorm folded before quantization, tied weights found).
 * Hurts: nothing; outputs change by float rounding only where BatchNorm or scales are folded.
 * Needs: nothing.
 * Cost: seconds; constants are computed by the engine.
 * Maths: BatchNorm after a linear operator: y = γ·(W·x + b − μ)/√(σ² + ε) + β = (a·W)·x + (a·b + β − a·μ), a = γ/√(σ² + ε).
 * Paper: Ioffe and Szegedy 2015, "Batch Normalization" (arXiv 1502.03167); Jacob et al. 2018, section 3.2 on folding
 * (arXiv 1712.05877).
 */
import { z } from "zod";
import { throwIfAborted } from "../../base/error.ts";
import { inferShapes } from "../../analyse/shapes.ts";
import type { Model } from "../../ir/model.ts";
import { liftConstants } from "../../transform/constants.ts";
import { foldAffine } from "../../transform/fold-affine.ts";
import { foldConstants } from "../../transform/fold-constants.ts";
import { inlineBranches } from "../../transform/inline-branches.ts";
import { mergeDuplicateConstants, mergeDuplicateNodes } from "../../transform/merge-duplicates.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import { removeIdentities } from "../../transform/remove-identities.ts";
import { engine } from "../engine.ts";
import type { Journal } from "../journal.ts";
import { prepareConstants } from "../prepare.ts";
import { type TechniqueFunction, defineTechnique } from "../technique.ts";

/** Rounds until nothing changes; each round removes something, so that this is never reached in practice. */
const MOST_ROUNDS = 32;

export const simplify: TechniqueFunction = defineTechnique({
  name: "simplify",
  family: "simplify",
  summary: "Fold constants and BatchNorm, merge duplicates, remove what does nothing.",
  needs: [],
  options: z.object({
    constants: z.boolean().default(true).describe("compute what depends on constants alone"),
    batchNorm: z.boolean().default(true).describe("fold BatchNorm, scales and shifts into the layer before them"),
    identities: z.boolean().default(true).describe("remove operators that change nothing"),
    duplicates: z.boolean().default(true).describe("merge equal operators and equal constants"),
    growthBytes: z
      .number()
      .int()
      .min(0)
      .default(1024)
      .describe("a folded constant may be so much larger than what it replaces"),
  }),
  async run(model, options, context) {
    const { journal } = context;
    const nodesBefore = countNodes(model);
    prepareConstants(model, journal);
    const skipped = new Map<string, string>();
    for (let round = 0; round < MOST_ROUNDS; round++) {
      throwIfAborted(context.signal);
      context.onProgress({ stage: "simplify", done: round, total: round + 1 });
      const before = countNodes(model);
      inferShapes(model);
      if (options.identities)
        for (const [operator, count] of Object.entries(removeIdentities(model).removed))
          journal.change({ what: operator, how: `${count} removed: they change nothing` });
      if (options.batchNorm) {
        const { folded, skipped: left } = await foldAffine(model);
        for (const { folded: what, into } of folded) journal.change({ what, how: `folded into ${into}` });
        for (const { what, why } of left) skipped.set(what, why);
      }
      if (options.constants) {
        const decided = inlineBranches(model);
        if (decided > 0) {
          journal.change({
            what: "conditions",
            how: `${decided} that are the same at every run gave way to their branch`,
          });
          liftConstants(model);
        }
        const { evaluateConstants } = await engine();
        const found = await foldConstants(model, { evaluate: evaluateConstants, growthBytes: options.growthBytes });
        if (found.nodes > 0) journal.change({ what: "constants", how: `${found.nodes} operators computed and stored` });
        for (const { what, why } of found.skipped) skipped.set(what, why);
      }
      if (options.duplicates) {
        await mergeConstants(model, journal, round === 0);
        const merged = mergeDuplicateNodes(model);
        if (merged > 0) journal.change({ what: "operators", how: `${merged} equal operators merged` });
      }
      const dead = removeDead(model);
      if (dead.nodes > 0)
        journal.change({ what: "operators", how: `${dead.nodes} without effect on an output removed` });
      if (dead.initializers > 0)
        journal.change({
          what: "constants",
          how: `${dead.initializers} that nothing reads removed`,
          bytesBefore: dead.bytes,
          bytesAfter: 0,
        });
      if (countNodes(model) === before && dead.initializers === 0) break;
    }
    inferShapes(model);
    for (const [what, why] of skipped) journal.skip(what, why);
    if (model.functions.length > 0)
      journal.skip(`${model.functions.length} model-local functions`, "bodies of functions are left as they are");
    journal.note(`${nodesBefore} operators became ${countNodes(model)}.`);
    return model;
  },
});

async function mergeConstants(model: Model, journal: Journal, notes: boolean): Promise<void> {
  const { groups, transposed } = await mergeDuplicateConstants(model);
  for (const { kept, merged, bytes } of groups)
    journal.change({
      what: kept,
      how: `equal to ${merged.join(", ")}: stored once`,
      bytesBefore: bytes,
      bytesAfter: 0,
    });
  if (notes)
    for (const [left, right] of transposed)
      journal.note(`${left} is the transpose of ${right}: they are tied but stored twice.`);
}

function countNodes(model: Model): number {
  let count = 0;
  for (const node of model.graph.allNodes()) count += node ? 1 : 0;
  return count;
}
