/** The oracle of structured pruning: a model whose groups are set to zero instead of being cut out. */
import { type Group, membersOf } from "../../src/analyse/groups.ts";
import { bytesOf, dtypeBits, isFloat } from "../../src/base/dtype.ts";
import { Rng } from "../../src/base/rng.ts";
import type { ChannelGroups, Family } from "../../src/analyse/groups.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Tensor } from "../../src/ir/tensor.ts";

/** Numbers that are not summed but divided by or raised to: zeros there are not the absence of a channel. */
const NOT_LINEAR: ReadonlySet<string> = new Set(["Div", "Pow", "Sqrt", "Reciprocal", "Log"]);

/** Zero of integer codes: their stored zero point where all channels share one, which all models here do. */
function zeroOf(value: Value): number {
  for (const { node, index } of value.uses)
    for (const at of [index + 2])
      if (/Linear/.test(node.opType)) return node.inputs[at]?.tensor?.peekNumbers()?.[0] ?? 0;
  return 0;
}

/** Sets every stored number that belongs to one of these groups to zero, in place. */
export async function maskGroups(groups: Iterable<Group>): Promise<void> {
  const gone = new Map<Value, Map<number, Set<number>>>();
  for (const group of groups)
    for (const { value, axis, indices } of membersOf(group)) {
      if (!value.tensor) continue;
      if (value.uses.every(({ node, index }) => NOT_LINEAR.has(node.opType) && index > 0)) continue;
      if (!isFloat(value.tensor.dtype) && !["int8", "uint8", "int32"].includes(value.tensor.dtype)) continue;
      const axes = gone.get(value) ?? new Map<number, Set<number>>();
      axes.set(axis, new Set([...(axes.get(axis) ?? []), ...indices]));
      gone.set(value, axes);
    }
  for (const [value, axes] of gone) {
    const tensor = value.tensor as Tensor;
    const width = dtypeBits(tensor.dtype) / 8;
    const bytes = bytesOf((await tensor.data()).slice());
    const fill = isFloat(tensor.dtype) ? 0 : zeroOf(value) & 255;
    for (const [axis, indices] of axes) {
      const inner = tensor.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
      const size = tensor.shape[axis] as number;
      for (let i = 0; i < tensor.elements; i++)
        if (indices.has(Math.floor(i / inner) % size)) bytes.fill(fill, i * width, (i + 1) * width);
    }
    value.tensor = new Tensor(tensor.dtype, tensor.shape, {
      byteLength: bytes.byteLength,
      resident: bytes,
      read: (offset = 0, length = bytes.byteLength - offset) =>
        Promise.resolve(bytes.subarray(offset, offset + length)),
    });
  }
}

/** A share of the groups of each family, drawn by the seed; at least one stays. */
export function someGroups(
  { families }: ChannelGroups,
  seed: number,
  share = 0.4,
  pick: (family: Family) => boolean = () => true,
): Group[] {
  return families.filter(pick).flatMap(({ name, groups }) => {
    const rng = new Rng(seed).fork(name);
    const order = groups.map((group) => ({ group, at: rng.uniform() })).sort((a, b) => a.at - b.at);
    return order.slice(0, Math.min(groups.length - 1, Math.ceil(share * groups.length))).map(({ group }) => group);
  });
}
