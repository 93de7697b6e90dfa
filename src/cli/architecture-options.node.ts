/** Flags of the architectures' options, made from their schemas: one flag per name, whichever architectures have it. */
import type { Command } from "commander";
import { z } from "zod";
import type { Architecture } from "../architectures/architecture.ts";
import { ARCHITECTURES } from "../architectures/build.ts";
import { PareError } from "../base/error.ts";
import { fromText, kebabCase, unwrapSchema } from "../techniques/recipe.ts";
import { addSchemaOptions, schemaOptions } from "./options.node.ts";

/** Every option of every architecture, described by what it means to each. */
const ALL: z.ZodObject = z.object(
  Object.fromEntries(
    [...new Set([...ARCHITECTURES.values()].flatMap(({ options }) => Object.keys(options.shape)))].map((name) => {
      const fields = [...ARCHITECTURES.values()].flatMap(({ options }) => (options.shape[name] as z.ZodType) ?? []);
      const meanings = new Set(fields.map((field) => (field.description ?? "").replace(/ \(default: .*\)$/, "")));
      return [name, flagOf(fields[0] as z.ZodType).describe(`architecture: ${[...meanings].join("; or ")}`)];
    }),
  ),
);

/** A schema that makes the right kind of flag; values are checked by the architecture's own. */
function flagOf(field: z.ZodType): z.ZodType {
  const inner = unwrapSchema(field);
  if (inner instanceof z.ZodBoolean || inner instanceof z.ZodNumber || inner instanceof z.ZodEnum) return inner;
  return z.string();
}

/** Adds the flags, and below the help a list of the architectures with their defaults. */
export function addArchitectureOptions(command: Command): void {
  addSchemaOptions(command, ALL);
  command.addHelpText("after", () => {
    const lines = [...ARCHITECTURES.values()].map(({ name, summary, options }) => {
      const defaults = Object.entries(options.shape as Record<string, z.ZodType>).flatMap(([option, field]) => {
        const { data } = field.safeParse(undefined);
        if (data === undefined) return [`--${kebabCase(option)}`];
        return [`--${kebabCase(option)} ${Array.isArray(data) ? data.join(option === "input" ? "x" : "-") : data}`];
      });
      return `  ${name}\n      ${summary}\n      ${defaults.join(" ")}`;
    });
    return `\nArchitectures and their options (sizes that the data decides need not be given):\n${lines.join("\n")}`;
  });
}

/** What the flags say about the architecture's options. Unknown ones are left for the architecture to refuse. */
export function architectureOptions(
  parsed: Readonly<Record<string, unknown>>,
  architecture: Architecture,
): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(schemaOptions(parsed, ALL)).map(([name, value]) => {
      const schema = architecture.options.shape[name] as z.ZodType | undefined;
      return [name, schema ? fromText(String(value), schema) : value];
    }),
  );
}

/** Throws `bad-option` if a flag of an architecture is given where a model file is trained. */
export function refuseArchitectureOptions(parsed: Readonly<Record<string, unknown>>, file: string): void {
  const [name] = Object.keys(schemaOptions(parsed, ALL));
  if (name !== undefined)
    throw new PareError("bad-option", "An option of architectures does not apply to a model file", {
      where: `--${kebabCase(name)}`,
      found: file,
      help: "Leave it out, or name an architecture: 'pare train --help' lists them",
    });
}
