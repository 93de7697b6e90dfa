/** Texts in the options of training: terms of a loss, groups of weights, projections. */
import { z } from "zod";
import { PareError, nearest } from "../base/error.ts";
import { lossNamed, type LossTerm, termOptions } from "../train/losses/table.ts";
import type { ParsedTexts } from "../train/training-schema.ts";
import { camelCase, fromText, kebabCase } from "./recipe.ts";

/** The texts of a declaration's options as data. Throws `bad-option` naming what is not understood. */
export function parseTrainingTexts(chosen: Readonly<Record<string, unknown>>): ParsedTexts {
  const list = (name: string): readonly string[] => (chosen[name] as readonly string[] | undefined) ?? [];
  return {
    terms: list("terms").map(parseTerm),
    groups: list("group").map((text) => {
      const { pattern, settings } = cut(text, "group", "pattern:rate=0.1,weight-decay=0");
      return { pattern, ...readSettings(settings, groupSchema, `group '${text}'`) };
    }),
    projections: list("project").map((text) => {
      const { pattern, settings } = cut(text, "project", "pattern:non-negative or pattern:max-norm=3");
      const { nonNegative, maxNorm } = readSettings(settings, projectionSchema, `project '${text}'`);
      if (nonNegative === true && maxNorm === undefined) return { pattern, kind: "non-negative" };
      if (maxNorm !== undefined && nonNegative === undefined) return { pattern, kind: "max-norm", limit: maxNorm };
      throw new PareError("bad-option", "A projection is one of non-negative and max-norm=limit", {
        where: `project '${text}'`,
      });
    }),
  };
}

const groupSchema = z.strictObject({ rate: z.number().min(0).optional(), weightDecay: z.number().min(0).optional() });
const projectionSchema = z.strictObject({
  nonNegative: z.boolean().optional(),
  maxNorm: z.number().positive().optional(),
});

/** Parses `soft-logits:weight=0.5,temperature=4`; numbers of a list are joined by `+`. */
export function parseTerm(text: string): LossTerm {
  const colon = text.indexOf(":");
  const kind = (colon < 0 ? text : text.slice(0, colon)).trim() as LossTerm["kind"];
  const settings = colon < 0 ? "" : text.slice(colon + 1);
  return { kind, ...readSettings(settings, termOptions(lossNamed(kind)), `term '${text}'`) };
}

/** Patterns may hold colons (`op:Conv`, `/a:b/`): the settings begin after the last one. */
function cut(text: string, where: string, expected: string): { pattern: string; settings: string } {
  const colon = text.lastIndexOf(":");
  const settings = text.slice(colon + 1);
  if (colon <= 0 || settings.trim() === "")
    throw new PareError("bad-option", "Not a setting of some weights", { where, found: `'${text}'`, expected });
  return { pattern: text.slice(0, colon), settings };
}

/** Reads `name=value,…` by a schema; a name alone is true. */
function readSettings<Schema extends z.ZodObject>(text: string, schema: Schema, where: string): z.output<Schema> {
  const raw: Record<string, unknown> = {};
  const known = Object.keys(schema.shape);
  for (const part of text.split(",").filter((each) => each.trim() !== "")) {
    const equals = part.indexOf("=");
    const key = camelCase((equals < 0 ? part : part.slice(0, equals)).trim());
    const field = schema.shape[key] as z.ZodType | undefined;
    if (!field) {
      const near = nearest(key, known);
      throw new PareError("bad-option", `Unknown setting '${kebabCase(key)}'`, {
        where,
        expected: known.map(kebabCase).join(", "),
        ...(near ? { help: `Did you mean '${kebabCase(near)}'?` } : {}),
      });
    }
    raw[key] = equals < 0 ? true : fromText(part.slice(equals + 1).trim(), field);
  }
  const parsed = schema.safeParse(raw);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new PareError("bad-option", issue?.message ?? "Invalid setting", {
    where: [where, ...(issue?.path ?? [])].join(": "),
  });
}
