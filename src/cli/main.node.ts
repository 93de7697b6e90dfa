#!/usr/bin/env node
/** The command `pare`: one verb per technique, generated from the catalog, plus the instruments. */
import { Command } from "commander";
import { nearest } from "../base/error.ts";
import { VERSION } from "../base/version.ts";
import { addInstruments } from "./verbs/instruments.node.ts";
import { addTechniqueVerbs } from "./verbs/technique.node.ts";

const program = new Command("pare")
  .description("Pare an ONNX model down to the Pareto frontier of accuracy, size, latency, memory and energy.")
  .version(VERSION)
  .showHelpAfterError("('pare --help' lists the verbs, 'pare VERB --help' its options)")
  .showSuggestionAfterError(true)
  .configureHelp({ sortSubcommands: false })
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, "pare: ")) })
  .exitOverride((error) => {
    // Help and version end with 0; every mistake in the words of a command ends with 2.
    process.exit(error.exitCode === 0 ? 0 : 2);
  });

program.commandsGroup("Look and measure:");
addInstruments(program);
program.commandsGroup("Techniques (one step each; 'pare compress' runs several):");
addTechniqueVerbs(program);

program.on("command:*", ([name]: string[]) => {
  const near = nearest(
    name ?? "",
    program.commands.map((command) => command.name()),
  );
  process.stderr.write(
    `pare: Unknown verb '${name}'.${near ? ` Did you mean '${near}'?` : ""} 'pare --help' lists the verbs\n`,
  );
  process.exit(2);
});

if (process.argv.length <= 2) {
  program.outputHelp();
  process.exit(0);
}
await program.parseAsync();
