/** Computes constants through the engine: the outputs of a model that has no inputs, as tensors. */
import type { Model } from "../ir/model.ts";
import type { Tensor } from "../ir/tensor.ts";
import { tensorOf } from "./arrays.ts";
import { openSession } from "./open-session.node.ts";

/**
 * Outputs of a model without inputs, by name. The engine's own folding is off, so that what runs is what was asked. Errors:
 * `engine` when it has no kernel for an operator or type.
 */
export async function evaluateConstants(
  model: Model,
  options: { readonly inProcess?: boolean; readonly signal?: AbortSignal | undefined } = {},
): Promise<ReadonlyMap<string, Tensor>> {
  const session = await openSession(model, {
    optimize: "none",
    inProcess: options.inProcess ?? true,
    signal: options.signal,
  });
  try {
    const results = await session.run({});
    return new Map(Object.entries(results).map(([name, array]) => [name, tensorOf(array)]));
  } finally {
    await session.close();
  }
}
