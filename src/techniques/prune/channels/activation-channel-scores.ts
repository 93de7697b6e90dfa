/** Criteria of structured pruning by statistics of activations on samples: how large, how varied, how often zero. */
import type { Family } from "../../../analyse/groups.ts";
import { elementCount } from "../../../base/shape.ts";
import { asFloat32 } from "../../../run/arrays.ts";
import type { Reducer } from "../../../run/reducers.ts";
import { calibrationOf } from "../../calibration.ts";
import { engine } from "../../engine.ts";
import type { FamilyScores, Scoring } from "./channel-scores.ts";
import { activationsOf, type AxisOfValue, indicesIn } from "./group-positions.ts";

/** Per position of an axis. */
interface ChannelActivity {
  readonly meanAbs: Float64Array;
  readonly variance: Float64Array;
  /** Share of elements that are not zero. */
  readonly active: Float64Array;
}

/** Sums of |x|, x, x² and counts of x ≠ 0 per position of each of these axes. */
function activityReducer(axes: readonly number[]): Reducer<ReadonlyMap<number, ChannelActivity>> {
  const all = new Map<number, { sums: Float64Array[]; count: number }>();
  return {
    add(array) {
      const data = asFloat32(array);
      for (const axis of axes) {
        const size = array.shape[axis] ?? 1;
        const inner = elementCount(array.shape.slice(axis + 1));
        let total = all.get(axis);
        if (!total) all.set(axis, (total = { sums: [0, 1, 2, 3].map(() => new Float64Array(size)), count: 0 }));
        const [abs, sum, squares, active] = total.sums as [Float64Array, Float64Array, Float64Array, Float64Array];
        for (let start = 0, at = 0; start < data.length; start += inner, at = (at + 1) % size) {
          let [a, s, q, n] = [0, 0, 0, 0];
          for (let i = start; i < start + inner; i++) {
            const x = data[i] as number;
            a += Math.abs(x);
            s += x;
            q += x * x;
            if (x !== 0) n++;
          }
          abs[at] = (abs[at] as number) + a;
          sum[at] = (sum[at] as number) + s;
          squares[at] = (squares[at] as number) + q;
          active[at] = (active[at] as number) + n;
        }
        total.count += data.length / size;
      }
    },
    result() {
      return new Map(
        [...all].map(([axis, { sums, count }]) => {
          const [meanAbs, mean, meanSquare, active] = sums.map((each) => each.map((x) => x / count));
          const variance = (meanSquare as Float64Array).map((x, i) => Math.max(0, x - (mean?.[i] ?? 0) ** 2));
          return [axis, { meanAbs, variance, active } as ChannelActivity];
        }),
      );
    },
  };
}

/** The statistic of each group: its mean over the group's positions, in all activations that its readers see. */
async function activity(scoring: Scoring, statistic: keyof ChannelActivity): Promise<Map<Family, Float64Array>> {
  const { model, groups, families, options, context } = scoring;
  const own = new Set(model.graph.values());
  const told = new Map<Family, AxisOfValue[]>();
  const axes = new Map<string, number[]>();
  for (const family of families) {
    const places = activationsOf(family, groups).filter(({ value }) => own.has(value));
    if (places.length > 0) told.set(family, places);
    for (const { value, axis } of places) axes.set(value.name, [...new Set([...(axes.get(value.name) ?? []), axis])]);
  }
  if (told.size === 0) return new Map();
  const { stream, note } = await calibrationOf(model, options, context);
  context.journal.note(note);
  const { tap } = await engine();
  const found = await tap(model, [...axes.keys()], stream, (name) => activityReducer(axes.get(name) ?? []), {
    provider: context.provider,
    threads: context.threads,
    signal: context.signal,
    onBatch: ({ pass, passes }) => context.onProgress({ stage: "activations", done: pass, total: passes }),
  });
  const scores = new Map<Family, Float64Array>();
  for (const [family, places] of told) {
    const [sums, counts] = [new Float64Array(family.groups.length), new Float64Array(family.groups.length)];
    for (const place of places) {
      const values = found.get(place.value.name)?.get(place.axis)?.[statistic];
      for (const [g, indices] of indicesIn(family, place).entries())
        for (const index of indices) {
          sums[g] = (sums[g] as number) + (values?.[index] ?? 0);
          counts[g] = (counts[g] as number) + 1;
        }
    }
    scores.set(
      family,
      sums.map((sum, g) => sum / Math.max(1, counts[g] as number)),
    );
  }
  return scores;
}

/** E|a| of the group's activations (Molchanov et al. 2017, arXiv 1611.06440, who sum them behind rectifiers). */
export const activationMean: FamilyScores = (scoring) => activity(scoring, "meanAbs");

/** Var a: what hardly varies is a bias, which fine-tuning moves elsewhere (Polyak and Wolf 2015). */
export const activationVariance: FamilyScores = (scoring) => activity(scoring, "variance");

/**
 * 1 − APoZ, the share of activations that are not zero (Hu et al. 2016, arXiv 1607.03250). Families whose activations are never
 * zero, for want of rectifiers, are not told apart and left out.
 */
export const percentageOfZeros: FamilyScores = async (scoring) =>
  new Map([...(await activity(scoring, "active"))].filter(([, scores]) => scores.some((score) => score < 1)));
