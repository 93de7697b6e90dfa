/** Groups of channels as people read them: families, what each group holds, and what stays with the reason. */
import { type ChannelGroups, type Family, membersOf } from "./groups.ts";

/** Indices beyond this many are counted, not listed. */
const MOST_INDICES = 8;

/** One line for each family and each layer that stays; with `members`, the values and positions of its first group. */
export function groupsText({ families, frozen }: ChannelGroups, options: { readonly members?: boolean } = {}): string {
  const lines = families.flatMap((family) => [lineOf(family), ...(options.members ? memberLines(family) : [])]);
  const total = families.reduce((sum, { groups }) => sum + groups.length, 0);
  const stay = frozen.map(
    ({ name, count, size, reason }) =>
      `  ${name}: ${count === size ? `all ${size}` : `${count} of ${size}`}: ${reason}`,
  );
  return [
    `${families.length} families, ${total} groups`,
    ...lines,
    ...(stay.length > 0 ? ["Channels that stay:", ...stay] : []),
  ].join("\n");
}

function lineOf(family: Family): string {
  const { name, kind, groups, mixed } = family;
  const members = groups[0] ? membersOf(groups[0]).length : 0;
  return `  ${name} ${kind}: ${groups.length} groups of ${members} members${mixed === undefined ? "" : ` (not exact: ${mixed})`}`;
}

function memberLines({ groups }: Family): string[] {
  return (groups[0] ? membersOf(groups[0]) : []).map(({ value, axis, indices }) => {
    const shown = indices.slice(0, MOST_INDICES).join(", ");
    const more = indices.length > MOST_INDICES ? ` and ${indices.length - MOST_INDICES} more` : "";
    return `    ${value.name} axis ${axis}: ${shown}${more}`;
  });
}
