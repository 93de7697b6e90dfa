/** What an architecture is: a name, a summary, options as a schema, and a function that builds it with drawn weights. */
import { z } from "zod";
import { PareError } from "../base/error.ts";
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

/** Shape of one sample, as numbers or as "1x28x28"; without a fallback it may be left out. */
export function inputShape(fallback: readonly number[]): z.ZodType<number[]>;
export function inputShape(): z.ZodType<number[] | undefined>;
export function inputShape(fallback?: readonly number[]): z.ZodType<number[] | undefined> {
  const fromText = (text: unknown): unknown => (typeof text === "string" ? text.split("x").map(Number) : text);
  const shape = z.preprocess(fromText, z.array(z.int().positive()).min(1).optional());
  return (fallback ? shape.default([...fallback]) : shape.optional()).describe(
    "shape of one sample, such as 1x28x28",
  ) as unknown as z.ZodType<number[] | undefined>;
}

/** An image as the networks see it. */
export interface ImageSize {
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  /** The smaller side. */
  readonly smallest: number;
}

/** The input shape as an image; throws `bad-option` for other ranks and for less than `least` pixels a side. */
export function imageOf(name: string, shape: readonly number[], least = 1): ImageSize {
  const [channels, height, width, ...more] = shape;
  if (
    channels === undefined ||
    height === undefined ||
    width === undefined ||
    more.length > 0 ||
    Math.min(height, width) < least
  )
    throw new PareError(
      "bad-option",
      `${name} takes images${least > 1 ? ` of at least ${least}x${least} pixels` : ""}`,
      {
        where: "input",
        found: shape.join("x"),
        expected: "channels x height x width, such as 3x32x32",
      },
    );
  return { channels, height, width, smallest: Math.min(height, width) };
}

export const classes: z.ZodDefault<z.ZodInt> = classCount(10);

/** Number of outputs. */
export function classCount(fallback: number): z.ZodDefault<z.ZodInt> {
  return z.int().min(1).default(fallback).describe("number of outputs");
}

/** A factor on a published size. */
export function multiplier(what: string): z.ZodDefault<z.ZodNumber> {
  return z.number().positive().max(16).default(1).describe(`factor on the ${what}`);
}

/** A whole number from 1 up. */
export function count(fallback: number, what: string): z.ZodDefault<z.ZodInt> {
  return z.int().min(1).default(fallback).describe(what);
}

export function dropoutRatio(fallback: number): z.ZodDefault<z.ZodNumber> {
  return z.number().min(0).lt(1).default(fallback).describe("share of values dropped while training");
}

export const zeroScale: z.ZodDefault<z.ZodBoolean> = z
  .boolean()
  .default(false)
  .describe("start every residual branch with scale 0, as the identity (Goyal et al. 2017)");

/** Options of networks that read tokens. */
export function tokenOptions(fallback: { readonly vocabulary: number; readonly sequence: number }): {
  readonly vocabulary: z.ZodDefault<z.ZodInt>;
  readonly sequence: z.ZodDefault<z.ZodInt>;
} {
  return {
    vocabulary: count(fallback.vocabulary, "different tokens"),
    sequence: count(fallback.sequence, "tokens per sample"),
  };
}

/** The number of heads; throws `bad-option` where it does not divide the width. */
export function headsOf(name: string, width: number, heads: number): number {
  if (width % heads === 0) return heads;
  throw new PareError("bad-option", "The heads do not divide the width", {
    where: `${name} heads`,
    found: `${heads} heads, width ${width}`,
    expected: "a width that is a multiple of the heads",
  });
}
