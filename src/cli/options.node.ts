/** Flags from schemas: what a technique declares once becomes its command-line options. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { z } from "zod";
import { PareError } from "../base/error.ts";
import { kebabCase, unwrapSchema } from "../techniques/recipe.ts";
import type { CommonOptions } from "./run.node.ts";

/** Adds `--json --seed --threads --provider` to a verb. */
export function addCommonOptions(command: Command): Command {
  return command
    .option("--json", "print one JSON document on stdout", false)
    .option("--seed <n>", "seed of everything random", wholeNumber, 1)
    .option("--threads <n>", "threads of the engine; 0: all cores", wholeNumber, 0)
    .addOption(new Option("--provider <name>", "execution provider").choices(["cpu", "webgpu", "cuda"]).default("cpu"));
}

/** Adds `-o, --output` and `--force`. */
export function addOutputOptions(command: Command, what = "the model to write"): Command {
  return command.requiredOption("-o, --output <path>", what).option("--force", "overwrite what is there", false);
}

export function commonOptions(options: Record<string, unknown>): CommonOptions {
  return options as unknown as CommonOptions;
}

/** Adds one flag per option of a schema; values are kept as text and checked by the schema later. */
export function addSchemaOptions(command: Command, schema: z.ZodObject): void {
  for (const [name, field] of Object.entries(schema.shape as Record<string, z.ZodType>)) {
    const description = field.description ?? unwrapSchema(field).description ?? "";
    const base = field.safeParse(undefined);
    const fallback = base.success && base.data !== undefined && !isEmpty(base.data);
    const note = fallback ? ` (default: ${String(base.data)})` : "";
    const inner = unwrapSchema(field);
    const flag = kebabCase(name);
    if (inner instanceof z.ZodBoolean) {
      const on = base.success && base.data === true;
      command.option(`--${flag} [boolean]`, `${description}${note}`);
      if (on) command.option(`--no-${flag}`, `turn ${flag} off`);
      // Declaring --no-x makes commander default x to true; undefined leaves the default to the schema.
      command.setOptionValue(name, undefined);
    } else if (
      inner instanceof z.ZodUnion &&
      (inner.options as z.ZodType[]).some((one) => one instanceof z.ZodBoolean)
    ) {
      command.option(`--${flag} [${placeholder(inner)}]`, `${description}${note}`); // alone it means true
    } else if (inner instanceof z.ZodArray) {
      command.option(`--${flag} <item...>`, `${description}${note}`);
    } else if (inner instanceof z.ZodRecord) {
      command.option(`--${flag} <name=value...>`, `${description}${note}`);
    } else {
      command.option(`--${flag} <${placeholder(inner)}>`, `${description}${note}`);
    }
  }
}

/** The options of a parsed command that belong to the schema, as raw texts. */
export function schemaOptions(parsed: Readonly<Record<string, unknown>>, schema: z.ZodObject): Record<string, unknown> {
  const raw: Record<string, unknown> = {};
  for (const name of Object.keys(schema.shape)) if (parsed[name] !== undefined) raw[name] = parsed[name];
  return raw;
}

function isEmpty(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

function placeholder(schema: z.ZodType): string {
  if (schema instanceof z.ZodEnum) return schema.options.join("|");
  if (schema instanceof z.ZodUnion)
    return (schema.options as z.ZodType[]).map((option) => placeholder(option)).join("|");
  if (schema instanceof z.ZodLiteral) return [...schema.values].join("|");
  if (schema instanceof z.ZodNumber) return "n";
  if (schema instanceof z.ZodBoolean) return "true|false";
  return "text";
}

/** Parses a non-negative whole number, for commander. */
export function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || text.trim() === "")
    throw new InvalidArgumentError(`Found '${text}', expected a whole number from 0 up.`);
  return value;
}

/** Parses a whole number from 1 up, for commander. */
export function countingNumber(text: string): number {
  const value = wholeNumber(text);
  if (value === 0) throw new InvalidArgumentError(`Found '${text}', expected a whole number from 1 up.`);
  return value;
}

/** Parses a number greater than zero, for commander. */
export function positiveNumber(text: string): number {
  const value = Number(text);
  if (!(value > 0) || !Number.isFinite(value))
    throw new InvalidArgumentError(`Found '${text}', expected a number above 0.`);
  return value;
}

/** Parses a number from 0 to 1, for commander. */
export function fraction(text: string): number {
  const value = Number(text);
  if (!(value >= 0 && value <= 1) || text.trim() === "")
    throw new InvalidArgumentError(`Found '${text}', expected a number from 0 to 1.`);
  return value;
}

/** Parses `--dim name=size` options. */
export function dimensions(texts: readonly string[]): Record<string, number> {
  return Object.fromEntries(
    texts.map((text) => {
      const [, name, size] = /^(.+)=(\d+)$/.exec(text) ?? [];
      if (name === undefined)
        throw new PareError("bad-option", "Not a dimension", {
          where: "--dim",
          found: `'${text}'`,
          expected: "name=size, such as batch=8",
        });
      return [name, Number(size)];
    }),
  );
}

/** Parses `--fix-input name=16000` options: one number, or several with commas. */
export function inputValues(texts: readonly string[]): Record<string, number[]> {
  return namedNumbers(texts, ",", "--fix-input", "name=value, such as rate=16000, or name=1,2,3");
}

/** Parses `--fix-shape name=1x576` options. */
export function inputShapes(texts: readonly string[]): Record<string, number[]> {
  const shapes = namedNumbers(texts, "x", "--fix-shape", "name=sizes, such as input=1x576");
  for (const [name, shape] of Object.entries(shapes))
    if (!shape.every((size) => Number.isSafeInteger(size) && size > 0))
      throw new PareError("bad-option", "Not a shape", {
        where: "--fix-shape",
        found: `'${name}=${shape.join("x")}'`,
        expected: "whole numbers above 0",
      });
  return shapes;
}

function namedNumbers(
  texts: readonly string[],
  separator: string,
  where: string,
  expected: string,
): Record<string, number[]> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.lastIndexOf("=");
      const parts = text.slice(at + 1).split(separator);
      const numbers = parts.map(Number);
      if (at < 1 || parts.includes("") || numbers.includes(Number.NaN))
        throw new PareError("bad-option", "Not a name and numbers", { where, found: `'${text}'`, expected });
      return [text.slice(0, at), numbers];
    }),
  );
}
