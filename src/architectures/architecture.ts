/** What an architecture is: a name, a summary, options as a schema, and a function that builds it with drawn weights. */
import { z } from "zod";
import type { Model } from "../ir/model.ts";

export interface Architecture<Options extends z.ZodObject = z.ZodObject> {
  readonly name: string;
  readonly summary: string;
  readonly options: Options;
  /** Builds the network; the same options and seed give the same weights. */
  build(options: z.output<Options>, seed: number): Model;
}

/** Declares an architecture. */
export function defineArchitecture<Options extends z.ZodObject>(architecture: Architecture<Options>): Architecture {
  return architecture as unknown as Architecture;
}

/** Shape of one sample, as numbers or as "1x28x28". */
export function inputShape(fallback: readonly number[]): z.ZodType<number[]> {
  const fromText = (text: unknown): unknown => (typeof text === "string" ? text.split("x").map(Number) : text);
  return z
    .preprocess(fromText, z.array(z.int().positive()).min(1))
    .default([...fallback])
    .describe("shape of one sample, such as 1x28x28") as unknown as z.ZodType<number[]>;
}

export const classes: z.ZodDefault<z.ZodInt> = z.int().min(1).default(10).describe("number of outputs");
