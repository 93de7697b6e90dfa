/** Weights that a model computes from constants before an operator reads them: computed once, so that what is read can be stored in few bits. */
import type { Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { specOf } from "../../../ops/registry.ts";
import { foldConstants } from "../../../transform/fold-constants.ts";
import { weightSites, weightsOf } from "../../../transform/weight-sites.ts";
import { engine } from "../../engine.ts";
import type { Journal } from "../../journal.ts";

/**
 * Exporters reshape weights, or put the gates of a recurrent layer in ONNX's order, in operators (Slice, Concat, Unsqueeze). Those
 * that nothing else depends on become the constant that they compute; the journal says which stay and why.
 */
export async function foldComputedWeights(model: Model, journal: Journal): Promise<void> {
  const stored = new Set(
    weightSites(model).flatMap(({ uses }) => uses.map(({ node, input }) => node.inputs[input] as Value)),
  );
  const computed = new Set<Value>();
  for (const node of model.graph.allNodes()) {
    const spec = specOf(node, model.opsets.get(node.domain) ?? 1);
    for (const { role, input } of spec ? weightsOf(spec, node) : []) {
      const value = node.inputs[input];
      if ((role === "kernel" || role === "table") && value?.producer && !stored.has(value)) computed.add(value);
    }
  }
  if (computed.size === 0) return;
  const { evaluateConstants } = await engine();
  const { nodes, skipped } = await foldConstants(model, {
    evaluate: evaluateConstants,
    growthBytes: 0,
    only: (value) => computed.has(value),
  });
  if (nodes > 0) journal.note(`${nodes} operators that make weights out of constants were computed and went.`);
  for (const { what, why } of skipped) journal.skip(what, why);
}
