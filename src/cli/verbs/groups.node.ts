/** `pare groups`: which channels can only be removed together, and which have to stay. */
import { type Command, Option } from "commander";
import { groupsText } from "../../analyse/groups-text.ts";
import { channelGroups, membersOf } from "../../analyse/groups.ts";
import type { GroupedQueries } from "../../analyse/positions.ts";
import { loadFile } from "../../ir/load.node.ts";
import { freezeDefaults, liftConstants } from "../../transform/constants.ts";
import { settleSizes } from "../../transform/settle-sizes.ts";
import { addCommonOptions, commonOptions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";

export function addGroups(program: Command): void {
  const verb = program
    .command("groups <model>")
    .summary("channels that can only be removed together, and what has to stay")
    .description("Reads the graph, not the weights. What is listed is what prune-channels can remove.")
    .option("--members", "the tensors, axes and positions of the first group of each family", false)
    .addOption(
      new Option("--queries <how>", "heads of queries that share a head of keys: with that head, or one of each head's")
        .choices(["together", "evenly"])
        .default("together"),
    )
    .option("--caches", "also heads whose keys and values are inputs and outputs of the model", false);
  addCommonOptions(verb).action((path: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async () => {
      const model = await loadFile(path);
      freezeDefaults(model);
      liftConstants(model);
      settleSizes(model);
      const queries = parsed["queries"] as GroupedQueries;
      const found = channelGroups(model, { queries, caches: parsed["caches"] === true });
      return {
        json: {
          path,
          families: found.families.map(({ name, kind, mixed, groups }) => ({
            name,
            kind,
            exact: mixed === undefined,
            reason: mixed,
            groups: groups.map((group) =>
              membersOf(group).map(({ value, axis, indices }) => ({ value: value.name, axis, indices })),
            ),
          })),
          frozen: found.frozen,
        },
        text: groupsText(found, { members: parsed["members"] === true }),
      };
    }),
  );
}
