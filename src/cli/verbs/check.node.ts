/** `pare check`: is the model valid, and does it open here? */
import type { Command } from "commander";
import { messageOf } from "../../base/error.ts";
import { checkModel } from "../../ir/check.ts";
import { checkWeights } from "../../ir/check-weights.ts";
import { loadFile } from "../../ir/load.node.ts";
import { openSession } from "../../run/open-session.node.ts";
import { addCommonOptions, commonOptions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";

export function addCheck(program: Command): void {
  const verb = program
    .command("check <model>")
    .summary("find what is wrong with a model")
    .description(
      "Checks structure and types, opens a session, and with --weights looks for NaN and infinity. Exit code 1 when a problem is found.",
    )
    .option("--weights", "read every weight and look for values that are not finite", false)
    .option("--no-session", "do not open the model on the engine");
  addCommonOptions(verb).action((path: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async ({ signal }) => {
      const { provider, threads } = commonOptions(parsed);
      const model = await loadFile(path);
      const problems = [...checkModel(model), ...(parsed["weights"] === true ? await checkWeights(model, signal) : [])];
      let session: string | undefined;
      if (parsed["session"] !== false) {
        try {
          await (await openSession(path, { provider, threads, signal })).close();
        } catch (error) {
          session = messageOf(error);
        }
      }
      const bad = session !== undefined || problems.some(({ severity }) => severity === "error");
      return {
        json: { path, problems, session: parsed["session"] === false ? undefined : (session ?? "opens") },
        text: [
          ...problems.map(({ severity, code, where, message }) => `${severity}: ${where}: ${message} [${code}]`),
          ...(session === undefined ? [] : [`error: the engine does not open it: ${session}`]),
          ...(bad || problems.length > 0 ? [] : [`${path}: no problem found`]),
        ].join("\n"),
        exitCode: bad ? 1 : 0,
      };
    }),
  );
}
