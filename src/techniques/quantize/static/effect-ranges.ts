/** Ranges value by value: the one that changes the model's outputs least, among those of all methods and shares of them. */
import type { Value } from "../../../ir/graph.ts";
import { type Calibration, type Observed, rangeOf } from "./calibrate.ts";
import type { GridQuestion, OutputEffects } from "./output-effects.ts";
import type { QdqPlan } from "./qdq-plan.ts";
import { type Grid, gridOf, type Range } from "./range-search.ts";

/** Methods whose ranges are among the candidates; the first covers everything. */
const METHODS: readonly (readonly [Calibration, number])[] = [
  ["min-max", 100],
  ["average", 100],
  ["percentile", 99.9],
  ["percentile", 99.99],
  ["percentile", 99.999],
  ["entropy", 100],
  ["mse", 100],
];
/** Shares of the whole range that are tried on each side: 1, 0.84, … 0.35. */
const SHARES = Array.from({ length: 7 }, (_, step) => 2 ** (-step / 4));
/**
 * Standard errors that are added to an effect before it is compared: cutting off rare numbers looks good on samples that
 * happen to hold none of them, and its effect differs from sample to sample.
 */
const CAUTION = 2;

/** For each group of the plan, grids to compare. */
export function gridQuestions(
  plan: QdqPlan,
  observed: ReadonlyMap<string, Observed>,
  options: { readonly activations: "uint8" | "int8"; readonly symmetric: boolean },
): GridQuestion[] {
  return [...new Set(plan.groups.values())].map((group) => {
    const ranges = METHODS.map(([calibration, percentile]) => groupRange(group, observed, calibration, percentile));
    const whole = ranges[0] as Range;
    for (const below of whole.low < 0 ? SHARES : [1])
      for (const above of whole.high > 0 ? SHARES : [1])
        ranges.push({ low: whole.low * below, high: whole.high * above });
    const grids = new Map(
      ranges.map((range) => {
        const grid = gridOf(range, options.activations, options.symmetric);
        return [`${grid.scale} ${grid.zeroPoint}`, grid];
      }),
    );
    return { values: Array.from(group, ({ name }) => name), grids: [...grids.values()] };
  });
}

/** The range that covers those of all values of a group, and zero. */
export function groupRange(
  group: ReadonlySet<Value>,
  observed: ReadonlyMap<string, Observed>,
  calibration: Calibration,
  percentile: number,
): Range {
  let [low, high] = [0, 0];
  for (const { name } of group) {
    const seen = observed.get(name);
    const found = seen && rangeOf(seen, calibration, percentile);
    low = Math.min(low, found?.low ?? 0);
    high = Math.max(high, found?.high ?? 0);
  }
  return { low, high };
}

/** A value's best grid, and what it does to the outputs: E‖J δ‖². */
export interface ChosenGrid {
  readonly grid: Grid;
  readonly effect: number;
}

/** The grid of least effect for each value of the questions; values of one group have one object in common. */
export function leastEffects(questions: readonly GridQuestion[], effects: OutputEffects): Map<string, ChosenGrid> {
  const chosen = new Map<string, ChosenGrid>();
  for (const [i, { values, grids }] of questions.entries()) {
    const { mean, error } = effects.grids[i] as OutputEffects["grids"][number];
    const bound = mean.map((effect, c) => effect + CAUTION * (error[c] as number));
    const best = bound.reduce((least, value, c) => (value < (bound[least] as number) ? c : least), 0);
    const one = { grid: grids[best] as Grid, effect: mean[best] as number };
    for (const name of values) chosen.set(name, one);
  }
  return chosen;
}
