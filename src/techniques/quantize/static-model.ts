/** Writes a static int8 model: codes of weights and biases, grids of activations, in the places that the engine fuses. */
import { nameOf } from "../../analyse/keep.ts";
import type { Value } from "../../ir/graph.ts";
import type { Model } from "../../ir/model.ts";
import { clampBounds } from "../../transform/clamps.ts";
import { absorbClamp, padCodes, quantizeActivation } from "../../transform/insert-qdq.ts";
import { removeDead } from "../../transform/remove-dead.ts";
import type { Journal } from "../journal.ts";
import { insertLinear, type LinearCodes } from "./linear-weights.ts";
import type { QdqPlan } from "./qdq-plan.ts";
import type { Grid } from "./range-search.ts";

export interface StaticOptions {
  readonly activations: "uint8" | "int8";
  readonly perChannel: boolean;
}

/** Rewrites the model on the given grids; `codes` are those of the plan's linear layers, in order. */
export function writeStatic(
  model: Model,
  plan: QdqPlan,
  codes: readonly LinearCodes[],
  grids: ReadonlyMap<Value, Grid>,
  { activations, perChannel }: StaticOptions,
  journal?: Journal,
): void {
  for (const [index, linear] of plan.linear.entries()) {
    const grid = grids.get(linear.node.inputs[0] as Value);
    const result = insertLinear(model, linear, codes[index] as LinearCodes, grid?.scale ?? 1);
    journal?.change({
      what: nameOf(linear.node),
      how: `weights int8 ${perChannel ? "per channel" : "per tensor"}, input ${activations} over ${describe(grid)}`,
      ...result,
    });
  }
  // Behind an int8 operator, or the clamp that it absorbs, nobody may read the float any more.
  for (const [value, grid] of grids)
    quantizeActivation(model.graph, value, { dtype: activations, ...grid }, plan.nodes, plan.results.has(value));
  for (const node of plan.nodes) if (node.opType === "Pad") padCodes(model.graph, node);
  for (const [{ producer }, grid] of grids) {
    const bounds = producer && clampBounds(model, producer);
    if (producer && typeof bounds === "object") absorbClamp(model.graph, producer, bounds, grid);
  }
  removeDead(model);
}

function describe(grid: Grid | undefined): string {
  if (!grid) return "an unknown range";
  const low = (grid.lowest - grid.zeroPoint) * grid.scale;
  const high = (grid.highest - grid.zeroPoint) * grid.scale;
  return `[${low.toPrecision(3)}, ${high.toPrecision(3)}]`;
}
