/** The option `reduceRange`: 7-bit weights where 8-bit products would saturate. */
import { z } from "zod";
import { productsSaturate } from "../../run/saturation.ts";
import { engine } from "../engine.ts";
import type { Context } from "../technique.ts";

export const reduceRangeOption: z.ZodDefault<z.ZodUnion<readonly [z.ZodBoolean, z.ZodLiteral<"auto">]>> = z
  .union([z.boolean(), z.literal("auto")])
  .default("auto")
  .describe(
    "7-bit weights: x86 processors before VNNI add pairs of 8-bit products in 16 bits, which saturate; auto: where this engine does so. true for models that will run on such processors",
  );

/** Largest weight code: two products 255·63 fit into 16 bits (32,130 of 32,767), two products 255·127 do not. */
export const REDUCED_HIGH = 63;

/** Decides "auto" by trying the engine, and says so where it reduces. */
export async function reducesRange(
  chosen: boolean | "auto",
  { journal, threads, provider, signal }: Context,
): Promise<boolean> {
  if (chosen !== "auto") return chosen;
  const { openSession } = await engine();
  const saturates = await productsSaturate(openSession, { threads, provider, signal });
  if (saturates)
    journal.note(
      "Weights have 7 bits (reduce-range auto): this processor adds pairs of 8-bit products in 16 bits, which saturate. With VNNI or on ARM the whole range is better: --reduce-range false.",
    );
  return saturates;
}
