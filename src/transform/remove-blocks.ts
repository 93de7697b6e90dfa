/** Takes residual blocks out of a graph: what they are added to takes the place of the sum. */
import { nameOf } from "../analyse/keep.ts";
import type { ResidualBlock } from "../analyse/residual-blocks.ts";
import { PareError } from "../base/error.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { specOf } from "../ops/registry.ts";
import { removeDead } from "./remove-dead.ts";
import { removeIdentities } from "./remove-identities.ts";

/**
 * Removes the branches of these blocks with everything that nothing else needs. The model computes what it would with the
 * branches' results at zero. Throws `bad-option` for a block that cannot go.
 */
export function removeBlocks(model: Model, blocks: Iterable<ResidualBlock>): void {
  for (const block of blocks) {
    if (block.reason !== undefined)
      throw new PareError("bad-option", "A block cannot be removed", { where: block.name, found: block.reason });
    removeBranch(model, block);
  }
  removeIdentities(model);
  removeDead(model);
}

function removeBranch(model: Model, { sum, skip, branch }: ResidualBlock): void {
  const x = sum.inputs[skip] as Value;
  const trait = specOf(sum, model.opsets.get(sum.domain) ?? 1)?.traits?.sum;
  const others = sum.inputs.filter((input, at): input is Value => input !== undefined && at !== branch);
  if (!trait) throw new PareError("internal", "A block does not end in a sum", { where: nameOf(sum) });
  if (trait.alone !== undefined) {
    // (branch, skip, scale, bias of the normalization, bias of the branch): the rest is (skip, scale, bias).
    const [scale, bias] = [sum.inputs[2], trait.alone === "LayerNormalization" ? sum.inputs[3] : undefined];
    const total = sum.outputs[3];
    if (total && total.name !== "") total.replaceUses(x);
    sum.detach();
    [sum.opType, sum.domain] = [trait.alone, ""];
    for (const [at, input] of [x, scale, bias].entries()) sum.setInput(at, input);
    sum.outputs.splice(1);
    return;
  }
  sum.detach();
  if (others.length === 1) sum.opType = "Identity";
  for (const [at, input] of others.entries()) sum.setInput(at, input);
}
