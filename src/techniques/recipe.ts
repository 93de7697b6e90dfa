/** Recipes: lists of steps as people write them, on the command line (`name:option=value,…`), in YAML or in JSON. */
import { z } from "zod";
import { PareError, nearest } from "../base/error.ts";
import type { Step, Technique } from "./technique.ts";

/** Techniques by name. */
export type TechniqueTable = ReadonlyMap<string, Technique>;

/** A recipe as data: what `recipe.yaml` holds. */
export interface Recipe {
  /** Short identifier, used in file names. */
  readonly id?: string | undefined;
  /** What people read in tables; default: the steps in short. */
  readonly label?: string | undefined;
  readonly steps: readonly Step[];
}

/** Parses `quantize-weights:bits=4,block=32`. List options repeat with `+`: `keep=conv1+fc*`. */
export function parseStep(text: string, techniques: TechniqueTable): Step {
  const colon = text.indexOf(":");
  const name = colon < 0 ? text : text.slice(0, colon);
  const technique = techniqueNamed(name.trim(), techniques);
  const options: Record<string, unknown> = {};
  for (const part of colon < 0 ? [] : text.slice(colon + 1).split(",")) {
    if (part.trim() === "") continue;
    const equals = part.indexOf("=");
    const key = camelCase((equals < 0 ? part : part.slice(0, equals)).trim());
    options[key] = equals < 0 ? true : part.slice(equals + 1).trim();
  }
  return makeStep(technique, options);
}

/** A step from a technique and raw options: texts become numbers, booleans and lists as the schema asks. */
export function makeStep(technique: Technique, raw: Readonly<Record<string, unknown>>): Step {
  return { technique, options: checkOptions(technique.name, technique.options, raw) };
}

/** The options of a verb by its schema: texts become numbers, booleans and lists. Throws `bad-option` naming what is wrong. */
export function checkOptions(
  verb: string,
  schema: z.ZodObject,
  raw: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const shape = schema.shape as Record<string, z.ZodType>;
  const known = Object.keys(shape);
  const options: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(raw)) {
    const field = shape[key];
    if (!field) {
      const near = nearest(key, known);
      throw new PareError("bad-option", `Unknown option '${key}'`, {
        where: verb,
        expected: `one of ${known.join(", ") || "no options"}`,
        help: near ? `Did you mean '${near}'?` : `'pare ${verb} --help' lists the options`,
      });
    }
    options[key] = typeof value === "string" ? fromText(value, field) : listFromTexts(value, field);
  }
  const checked = schema.safeParse(options);
  if (checked.success) return checked.data as Readonly<Record<string, unknown>>;
  const issue = checked.error.issues[0];
  const key = issue?.path.join(".") ?? "";
  throw new PareError("bad-option", issue?.message ?? "Invalid option", {
    where: key ? `${verb} option '${key}'` : verb,
    ...(key && key in options ? { found: JSON.stringify(options[key]) } : {}),
    help: `'pare ${verb} --help' lists the options`,
  });
}

/** The items of a list that came as texts (a flag given several values) as what the list holds. */
function listFromTexts(value: unknown, field: z.ZodType): unknown {
  const inner = unwrapSchema(field);
  if (Array.isArray(value) && inner instanceof z.ZodRecord) return recordFromTexts(value);
  if (!Array.isArray(value) || !(inner instanceof z.ZodArray)) return value;
  return value.map((item) => (typeof item === "string" ? fromText(item, inner.element as z.ZodType) : item));
}

/** Texts `key=value` as a record; a key may hold equals signs itself, a value not. */
function recordFromTexts(texts: readonly unknown[]): unknown {
  return Object.fromEntries(
    texts.map((text) => {
      const [, key, value] = /^(.+)=([^=]*)$/.exec(String(text)) ?? [];
      if (key === undefined || value === undefined)
        throw new PareError("bad-option", "Not a pair", { found: `'${String(text)}'`, expected: "name=value" });
      return [key.trim(), value.trim()];
    }),
  );
}

/** The technique of that name, or an error that names the nearest. */
export function techniqueNamed(name: string, techniques: TechniqueTable): Technique {
  const technique = techniques.get(name);
  if (technique) return technique;
  const near = nearest(name, techniques.keys());
  throw new PareError("bad-option", `Unknown technique '${name}'`, {
    help: near ? `Did you mean '${near}'?` : `Known: ${[...techniques.keys()].join(", ")}`,
  });
}

const stepText = z.string();
const stepObject = z.record(z.string(), z.union([z.null(), z.record(z.string(), z.unknown())]));
const recipeSchema = z.strictObject({
  id: z.string().optional(),
  label: z.string().optional(),
  steps: z.array(z.union([stepText, stepObject])).min(1),
});

/**
 * A recipe from parsed YAML or JSON: `{ steps: ["simplify", { "quantize-weights": { bits: 4 } }] }`.
 * `where` names the file in errors.
 */
export function recipeFromData(data: unknown, techniques: TechniqueTable, where: string): Recipe {
  const parsed = recipeSchema.safeParse(Array.isArray(data) ? { steps: data } : data);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new PareError("bad-option", `Not a recipe: ${issue?.message ?? ""}`, {
      where: issue?.path.length ? `${where}: ${issue.path.join(".")}` : where,
      expected: "steps: a list of technique names or of 'name: { option: value }'",
    });
  }
  const steps = parsed.data.steps.flatMap((step) =>
    typeof step === "string"
      ? [parseStep(step, techniques)]
      : Object.entries(step).map(([name, options]) =>
          makeStep(
            techniqueNamed(name, techniques),
            Object.fromEntries(Object.entries(options ?? {}).map(([key, value]) => [camelCase(key), value])),
          ),
        ),
  );
  return { id: parsed.data.id, label: parsed.data.label, steps };
}

/** One step as `name:option=value,…`, options at their defaults left out; {@link parseStep} reads it back. */
export function formatStep(step: Step): string {
  const defaults = step.technique.options.safeParse({});
  const base = (defaults.success ? defaults.data : {}) as Record<string, unknown>;
  const parts = Object.entries(step.options)
    .filter(([key, value]) => value !== undefined && JSON.stringify(value) !== JSON.stringify(base[key]))
    .map(([key, value]) => `${kebabCase(key)}=${optionText(value)}`);
  return parts.length > 0 ? `${step.technique.name}:${parts.join(",")}` : step.technique.name;
}

/** An option's value as {@link fromText} reads it. */
function optionText(value: unknown): string {
  if (Array.isArray(value)) return value.join("+");
  if (typeof value === "function") return value.name || "function";
  if (typeof value !== "object" || value === null) return String(value);
  return Object.entries(value)
    .map(([key, item]) => `${key}=${String(item)}`)
    .join("+");
}

/** A recipe as the options of `pare compress` that run it. */
export function formatSteps(steps: readonly Step[]): string {
  return steps.map((step) => `--step '${formatStep(step)}'`).join(" ");
}

export function camelCase(name: string): string {
  return name.replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

export function kebabCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** What an option's schema holds, under its defaults and optional marks. */
export function unwrapSchema(schema: z.ZodType): z.ZodType {
  let inner = schema;
  while (inner instanceof z.ZodDefault || inner instanceof z.ZodOptional || inner instanceof z.ZodNullable)
    inner = inner.def.innerType as z.ZodType;
  return inner;
}

/** Turns an option's text into what its schema expects; what does not fit stays text and fails the schema with its message. */
export function fromText(text: string, schema: z.ZodType): unknown {
  const inner = unwrapSchema(schema);
  if (inner instanceof z.ZodUnion) {
    for (const option of inner.options as z.ZodType[]) {
      const value = fromText(text, option);
      if (option.safeParse(value).success) return value;
    }
    return text;
  }
  if (inner instanceof z.ZodNumber) return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  if (inner instanceof z.ZodLiteral) return inner.values.has(Number(text)) && text.trim() !== "" ? Number(text) : text;
  if (inner instanceof z.ZodBoolean) return text === "true" ? true : text === "false" ? false : text;
  if (inner instanceof z.ZodRecord) return recordFromTexts(text.split("+").filter((item) => item.trim() !== ""));
  if (inner instanceof z.ZodArray) return text.split("+").map((item) => fromText(item, inner.element as z.ZodType));
  return text;
}
