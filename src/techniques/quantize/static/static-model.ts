/** Writes a static int8 model: codes of weights and biases, grids of activations, in the places that the engine fuses. */
import { nameOf } from "../../../analyse/keep.ts";
import type { Node, Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { type Bounds, clampBounds } from "../../../transform/clamps.ts";
import { absorbClamp, holdFloat, padCodes, quantizeActivation } from "../../../transform/insert-qdq.ts";
import { removeDead } from "../../../transform/remove-dead.ts";
import type { Journal } from "../../journal.ts";
import { insertLinear, type LinearCodes, storedBits } from "./linear-weights.ts";
import type { QdqPlan } from "./qdq-plan.ts";
import type { Grid } from "./range-search.ts";

export interface StaticOptions {
  readonly activations: "uint8" | "int8";
}

/** Where a value of the float model is in the quantized one. */
export interface WrittenValue {
  /** What is quantized: the value, or what it was made of by a clamp that the grid took over. */
  readonly before: Value;
  /** What its readers see. */
  readonly after: Value;
  /** Smallest and largest number of its grid, within the bounds of a clamp that the grid took over. */
  readonly low: number;
  readonly high: number;
}

/** Rewrites the model on the given grids; `codes` are those of the plan's linear layers, in order. Returns its grids' values by name. */
export function writeStatic(
  model: Model,
  plan: QdqPlan,
  codes: readonly LinearCodes[],
  grids: ReadonlyMap<Value, Grid>,
  { activations }: StaticOptions,
  journal?: Journal,
): ReadonlyMap<string, WrittenValue> {
  for (const [index, linear] of plan.linear.entries()) {
    const grid = grids.get(linear.node.inputs[0] as Value);
    const own = codes[index] as LinearCodes;
    const result = insertLinear(model, linear, own, grid?.scale ?? 1);
    journal?.change({
      what: nameOf(linear.node),
      how: `weights ${describeWeights(own)}, input ${activations} over ${describe(grid)}`,
      ...result,
    });
  }
  // Behind an int8 operator, or the clamp that it absorbs, nobody may read the float any more.
  const pairs: { name: string; value: Value; quantizer: Node; after: Value; grid: Grid }[] = [];
  for (const [value, grid] of grids) {
    const { name } = value;
    const type = { dtype: activations, ...grid };
    const after = quantizeActivation(model.graph, value, type, plan.nodes, plan.results.has(value));
    pairs.push({ name, value, quantizer: after.producer?.inputs[0]?.producer as Node, after, grid });
  }
  for (const node of plan.nodes) if (node.opType === "Pad") padCodes(model.graph, node);
  const clamped = new Map<Value, Bounds>();
  for (const [value, grid] of grids) {
    const { producer } = value;
    const bounds = producer && clampBounds(model, producer);
    if (producer && typeof bounds === "object" && absorbClamp(model.graph, producer, bounds, grid))
      clamped.set(value, bounds);
  }
  holdFloat(model.graph);
  removeDead(model);
  return new Map(
    pairs.flatMap(({ name, value, quantizer, after, grid }) => {
      const before = quantizer.inputs[0]; // none where a Pad took the codes over
      const bounds = clamped.get(value) ?? { low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY };
      const low = Math.max(bounds.low, (grid.lowest - grid.zeroPoint) * grid.scale);
      const high = Math.min(bounds.high, (grid.highest - grid.zeroPoint) * grid.scale);
      return before ? [[name, { before, after, low, high } as WrittenValue] as const] : [];
    }),
  );
}

function describeWeights({ high, layout }: LinearCodes): string {
  const bits = storedBits({ high }) === 4 ? "int4" : high < 127 ? "int8 in 7 bits" : "int8";
  return `${bits} ${layout.channels > 1 ? "per channel" : "per tensor"}`;
}

function describe(grid: Grid | undefined): string {
  if (!grid) return "an unknown range";
  const low = (grid.lowest - grid.zeroPoint) * grid.scale;
  const high = (grid.highest - grid.zeroPoint) * grid.scale;
  return `[${low.toPrecision(3)}, ${high.toPrecision(3)}]`;
}
