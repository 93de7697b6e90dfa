/** The weights that make each channel, as groups that training shrinks together. */
import { type Family, membersOf } from "../../analyse/groups.ts";
import type { Model } from "../../ir/model.ts";
import { Tensor } from "../../ir/tensor.ts";
import { trainableParameters } from "../../train/parameters.ts";
import type { ShrinkGroups, ShrinkMember } from "../../train/shrinkage.ts";

/** What a channel is shrunk by: everything that makes it, or the scales of its normalizations, which their shifts follow. */
export type ShrinkBy = "all" | "scale";

/**
 * Groups of a family, in its order: filters, biases, scales and shifts along its channels in every layer that is tied (all), or
 * scales alone, whose shifts go when they are zero (scale). A channel whose group is zero is zero itself, so that removing it
 * changes nothing; the weights that read it are not part of it. Undefined where nothing of the kind is trained.
 */
export function shrinkGroupsOf(model: Model, family: Family, by: ShrinkBy): ShrinkGroups | undefined {
  const trained = new Set(trainableParameters(model).map(({ name }) => name));
  const found = new Map<string, { readonly weight: string; readonly axis: number; readonly groupOf: Int32Array }>();
  for (const [at, group] of family.groups.entries())
    for (const { value, axis, indices } of membersOf(group)) {
      const reads = family.consumers.some((each) => each.value === value && each.axis === axis);
      if (reads || !trained.has(value.name)) continue;
      const key = `${axis} ${value.name}`;
      let member = found.get(key);
      if (!member) {
        const size = value.tensor?.shape[axis] ?? 0;
        member = { weight: value.name, axis, groupOf: new Int32Array(size).fill(-1) };
        found.set(key, member);
      }
      for (const index of indices) member.groupOf[index] = at;
    }
  const members = by === "all" ? [...found.values()] : scalesFirst(family, [...found.values()]);
  return members.some(({ follows }: ShrinkMember) => !follows) ? { count: family.groups.length, members } : undefined;
}

/** Scales, and the shifts of the same nodes as followers. */
function scalesFirst(family: Family, members: readonly ShrinkMember[]): ShrinkMember[] {
  const scales = family.companions.filter(({ weight }) => weight.role === "scale");
  const nodes = new Set(scales.map(({ node }) => node));
  const shifts = family.companions.filter(({ node, weight }) => weight.role === "bias" && nodes.has(node));
  const has = (list: typeof scales, { weight, axis }: ShrinkMember): boolean =>
    list.some((each) => each.value.name === weight && each.axis === axis);
  return members.flatMap((member) =>
    has(scales, member) ? [member] : has(shifts, member) ? [{ ...member, follows: true }] : [],
  );
}

/** How many of the groups are zero in all of their weights. */
export async function countZeroGroups(model: Model, { count, members }: ShrinkGroups): Promise<number> {
  const alive = new Uint8Array(count);
  for (const member of members)
    await eachElement(model, member, (weights, at, group) => {
      if (weights[at] !== 0) alive[group] = 1;
    });
  return count - alive.reduce((sum, each) => sum + each, 0);
}

/** Sets the marked groups to zero. */
export async function zeroGroups(model: Model, { members }: ShrinkGroups, marked: ArrayLike<number>): Promise<void> {
  for (const member of members) {
    const value = model.graph.initializers.get(member.weight);
    if (!value?.tensor) continue;
    const data = ((await value.tensor.data()) as Float32Array).slice();
    await eachElement(model, member, (_, at, group) => {
      if (marked[group]) data[at] = 0;
    });
    value.tensor = Tensor.float32(value.tensor.shape, data);
  }
}

async function eachElement(
  model: Model,
  { weight, axis, groupOf }: ShrinkMember,
  visit: (weights: Float32Array, at: number, group: number) => void,
): Promise<void> {
  const tensor = model.graph.initializers.get(weight)?.tensor;
  if (!tensor) return;
  const weights = (await tensor.data()) as Float32Array;
  const inner = tensor.shape.slice(axis + 1).reduce((product, size) => product * size, 1);
  for (let at = 0; at < weights.length; at++) {
    const group = groupOf[Math.floor(at / inner) % groupOf.length] as number;
    if (group >= 0) visit(weights, at, group);
  }
}
