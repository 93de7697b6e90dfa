/** `pare vocabulary`: the tokenizer of a model that `prune-vocabulary` has cut, and which token has which number. */
import type { Command } from "commander";
import { existsSync } from "node:fs";
import { PareError } from "../../base/error.ts";
import { pruneTokenizer } from "../../data/prune-tokenizer.ts";
import { readJson } from "../../data/read-json.node.ts";
import { keptPorts } from "../../ir/kept-ports.ts";
import { loadFile } from "../../ir/load.node.ts";
import { writeWhole } from "../files.node.ts";
import { addCommonOptions, addOutputOptions, commonOptions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";

export function addVocabulary(program: Command): void {
  const verb = program
    .command("vocabulary <model>")
    .summary("the tokenizer of a model whose vocabulary was pruned")
    .description(
      "Writes the tokenizer.json (or list of characters) with the tokens that the model still has, under their new numbers. Without one: a list whose entry i is the old number of token i.",
    )
    .option("--tokenizer <path>", "the tokenizer of the model before its tokens were pruned");
  addOutputOptions(verb, "the file to write");
  addCommonOptions(verb).action((path: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async () => {
      const output = String(parsed["output"]);
      if (existsSync(output) && parsed["force"] !== true)
        throw new PareError("output", "The output exists already", {
          where: output,
          help: "Overwrite it with --force",
        });
      const [input, kept] = Object.entries(keptPorts(await loadFile(path))?.tokens ?? {})[0] ?? [];
      if (!kept)
        throw new PareError("bad-model", "The model's vocabulary was not pruned", {
          where: path,
          expected: "a model that 'pare prune-vocabulary' wrote",
        });
      const tokenizer = parsed["tokenizer"] as string | undefined;
      const content = tokenizer === undefined ? kept : pruneTokenizer(await readJson(tokenizer), kept, tokenizer);
      await writeWhole(output, `${JSON.stringify(content)}\n`);
      return {
        json: { path, output, input, tokens: kept.length, kept },
        text: `Wrote ${output}: ${kept.length} tokens of input '${input}'`,
      };
    }),
  );
}
