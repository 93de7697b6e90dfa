/** One verb per technique, made from its declaration. */
import type { Command } from "commander";
import { TECHNIQUES } from "../../catalog.ts";
import { makeStep } from "../../techniques/recipe.ts";
import type { Technique } from "../../techniques/technique.ts";
import { addSchemaOptions, schemaOptions } from "../options.node.ts";
import { addCompressOptions, runCompress } from "./compress.node.ts";

export function addTechniqueVerbs(program: Command): void {
  for (const technique of TECHNIQUES.values()) addTechniqueVerb(program, technique);
}

function addTechniqueVerb(program: Command, technique: Technique): void {
  const verb = program.command(`${technique.name} <model>`).summary(technique.summary).description(technique.summary);
  addSchemaOptions(verb, technique.options);
  addCompressOptions(verb);
  verb.action((model: string, parsed: Record<string, unknown>) =>
    runCompress(model, parsed, () => [makeStep(technique, schemaOptions(parsed, technique.options))]),
  );
}
