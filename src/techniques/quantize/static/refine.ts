/** What follows the choice of one method for all ranges: ranges value by value, and layers that stay in floating point. */
import { PareError } from "../../../base/error.ts";
import { loadKernels } from "../../../kernels/kernels.ts";
import type { Context } from "../../technique.ts";
import { gridQuestions, leastEffects } from "./effect-ranges.ts";
import { floatLayers } from "./float-layers.ts";
import { outputEffects } from "./output-effects.ts";
import { type Choice, type ChoiceOptions, errorOf, type Reference } from "./static-choice.ts";

export interface RefineOptions extends ChoiceOptions {
  readonly to: "int8" | "int4";
  readonly samples: number;
  readonly floatShare: number;
}

/** Samples whose gradients are taken: each costs about ten runs of the model. */
const SAMPLES = 48;
/** ‖ŷ − y‖/‖y − mean y‖ up to which nothing stays in floating point. */
const FINE = 0.05;

/**
 * Takes the grids of least effect on the outputs, and then leaves layers in floating point while the error is above 5 %; each where
 * it brings the outputs nearer to the original's. The choice stays where the model has no gradient: the journal says so.
 */
export async function refine(
  uniform: Choice,
  options: RefineOptions,
  reference: Reference,
  context: Context,
): Promise<Choice> {
  const { data, journal } = context;
  const { model, plan, observed } = uniform.variant;
  if (!data) return uniform;
  const questions = gridQuestions(plan, observed, options);
  const samples = Math.min(SAMPLES, options.samples);
  const kernels = await loadKernels();
  let chosen: ReturnType<typeof leastEffects>;
  try {
    chosen = leastEffects(questions, await outputEffects(model, data, questions, kernels, samples, context));
  } catch (error) {
    if (!(error instanceof PareError) || !["not-differentiable", "unsupported"].includes(error.code)) throw error;
    journal.skip("ranges value by value", `their effect on the outputs is not known: ${error.message}`);
    return uniform;
  }
  let best = uniform;
  const consider = async (choice: Omit<Choice, "error">): Promise<void> => {
    const error = await errorOf(choice, options, reference);
    if (error < (best.error ?? Number.POSITIVE_INFINITY)) best = { ...choice, error };
  };
  const grids = new Map(Array.from(chosen, ([name, { grid }]) => [name, grid]));
  await consider({ ...uniform, method: "ranges value by value, by their effect on the outputs", grids });
  if (options.to !== "int8" || (best.error ?? 0) <= FINE) return best;
  const floats = floatLayers(model, options.planning, chosen, options.floatShare);
  if (floats.size > 0)
    await consider({ ...best, method: `${best.method}, ${floats.size} operators in floating point`, floats });
  return best;
}
