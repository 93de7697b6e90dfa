/** Options of everything that chooses formats layer by layer: what is tried, how it is stored, what it is judged on. */
import { z } from "zod";
import { keepOption } from "../keep-option.ts";
import { quantizeWeights } from "../quantize/weights/quantize-weights.ts";
import type { SensitivityOptions } from "./sensitivity.ts";
import { CELL_FORMATS, type CellFormat } from "./variant.ts";

/** How weights are stored, declared by `quantize-weights`. */
const STORED = ["block", "symmetric", "compute", "scales", "balance", "minElements"] as const;
const stored = Object.fromEntries(
  STORED.map((name) => [name, (quantizeWeights.options.shape as Record<string, z.ZodType>)[name]]),
) as unknown as { readonly [Name in (typeof STORED)[number]]: z.ZodType<StoredChoice[Name]> };

/** Methods that need no samples: what a single layer is tried with. */
const PLAIN_METHODS = ["rtn", "mse", "hqq"] as const;

interface StoredChoice {
  readonly block: number | string | undefined;
  readonly symmetric: boolean;
  readonly compute: string;
  readonly scales: string;
  readonly balance: boolean;
  readonly minElements: number;
}

export interface MeasuringChoice extends StoredChoice {
  readonly formats: CellFormat[];
  readonly by: string;
  readonly samples: number;
  readonly batch: number;
  readonly length: number;
  readonly method: string;
  readonly keep: string[];
  readonly cache: boolean;
}

/** Shared by the verb `sensitivity` and the technique `mix`. */
export const measuringOptions: { readonly [Name in keyof MeasuringChoice]: z.ZodType<MeasuringChoice[Name]> } = {
  formats: z
    .array(z.enum(CELL_FORMATS as [CellFormat, ...CellFormat[]]))
    .min(1)
    .default(["int8", "int4", "int3", "int2"])
    .describe("formats to try in each layer; w8a8: weights and activations in static 8-bit integers"),
  by: z
    .string()
    .default("auto")
    .describe(
      "measure that decides: a task metric (loss, accuracy, mse, perplexity, …), kl (divergence of the scores) or noise; auto: the task's loss with labels, else kl, else noise",
    ),
  samples: z.int().min(1).default(256).describe("samples that each variant is judged on"),
  batch: z.int().min(1).default(32).describe("samples per run"),
  length: z.int().min(2).default(64).describe("without data: tokens of each text that a language model writes itself"),
  method: z.enum(PLAIN_METHODS).default("mse").describe("how a layer is rounded, as in quantize-weights"),
  ...stored,
  keep: keepOption,
  cache: z.boolean().default(true).describe("keep what was measured in the cache folder ($PARE_CACHE), and use it"),
};

/** The choice as {@link SensitivityOptions}. */
export function sensitivityOptionsOf(chosen: MeasuringChoice): SensitivityOptions {
  const { formats, by, samples, batch, length, keep, cache, minElements } = chosen;
  const method = (PLAIN_METHODS as readonly string[]).includes(chosen.method) ? chosen.method : "mse";
  const weights = { method, ...Object.fromEntries(STORED.map((name) => [name, chosen[name]])) };
  const metrics = ["auto", "kl", "noise"].includes(by) ? [] : [by];
  return { formats, weights, keep, minElements, samples, batch, length, metrics, cache };
}
