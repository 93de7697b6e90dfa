/** Criteria of structured pruning that read weights alone: one function each, from the filters of a family to the importance of its groups. */
import type { ChannelGroups, Family, WeightAxis } from "../../../analyse/groups.ts";
import { isFloat } from "../../../base/dtype.ts";
import { Rng } from "../../../base/rng.ts";
import { elementCount } from "../../../base/shape.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import type { Model } from "../../../ir/model.ts";
import type { Context } from "../../technique.ts";
import { indicesIn } from "./group-positions.ts";
import type { LossOptions } from "../loss-gradients.ts";

export interface ChannelScoreContext {
  readonly seed: number;
  /** Tensors as floats; the caller may keep them for a while. */
  floats(weight: WeightAxis): Promise<Float32Array>;
}

/** Importance of each group of a family, not negative, in the family's order; undefined where nothing is stored to tell by. */
export type ChannelScore = (family: Family, context: ChannelScoreContext) => Promise<ArrayLike<number> | undefined>;

/** What scores of all families together are computed from. */
export interface Scoring {
  readonly model: Model;
  readonly groups: ChannelGroups;
  readonly families: readonly Family[];
  /** Samples, and the loss whose gradient tells. */
  readonly options: LossOptions;
  readonly context: Context;
}

/** A criterion that needs the model to run: importance by family; those that it cannot tell of are left out. */
export type FamilyScores = (scoring: Scoring) => Promise<ReadonlyMap<Family, Float64Array>>;

/** A stored float weight. */
function isStored({ value }: WeightAxis): boolean {
  return value.tensor !== undefined && isFloat(value.tensor.dtype);
}

/** Σ |w|^p of each position of the weight's axis. */
function powerSums(data: Float32Array, shape: readonly number[], axis: number, power: 1 | 2): Float64Array {
  const size = shape[axis] ?? 1;
  const inner = elementCount(shape.slice(axis + 1));
  const sums = new Float64Array(size);
  for (let start = 0, at = 0; start < data.length; start += inner, at = (at + 1) % size) {
    let sum = 0;
    for (let i = start; i < start + inner; i++) {
      const w = data[i] as number;
      sum += power === 1 ? Math.abs(w) : w * w;
    }
    sums[at] = (sums[at] as number) + sum;
  }
  return sums;
}

/** Sums of Σ |w|^p over the positions of each group in each of these weights. */
async function groupSums(
  family: Family,
  weights: readonly WeightAxis[],
  power: 1 | 2,
  { floats }: ChannelScoreContext,
): Promise<Float64Array | undefined> {
  const stored = weights.filter(isStored);
  if (stored.length === 0) return undefined;
  const totals = new Float64Array(family.groups.length);
  for (const weight of stored) {
    const sums = powerSums(await floats(weight), weight.value.tensor?.shape ?? [], weight.axis, power);
    for (const [group, indices] of indicesIn(family, weight).entries())
      for (const index of indices) totals[group] = (totals[group] as number) + (sums[index] as number);
  }
  return totals;
}

/** Filters that make the channels; where none is stored (a pruned input of a merge), the weights that read them. */
function told(family: Family): readonly WeightAxis[] {
  return family.producers.some(isStored) ? family.producers : family.consumers;
}

/** ‖W_g‖₁ over all filters of the group (Li et al. 2017, arXiv 1608.08710). */
const l1: ChannelScore = (family, context) => groupSums(family, told(family), 1, context);

/** ‖W_g‖₂ over all filters of the group. */
const l2: ChannelScore = async (family, context) => (await groupSums(family, told(family), 2, context))?.map(Math.sqrt);

/** |γ_g|: scales of normalization layers along the channels; undefined without any (Liu et al. 2017, arXiv 1708.06519). */
const scale: ChannelScore = (family, context) =>
  groupSums(
    family,
    family.companions.filter(({ weight }) => weight.role === "scale"),
    1,
    context,
  );

/**
 * Σ_h ‖W_g − W_h‖₂ over the other filters of the first stored layer: filters near the geometric median can be told by the
 * others (He et al. 2019, FPGM, arXiv 1811.00250). With ‖W_g − W_h‖² = ‖W_g‖² + ‖W_h‖² − 2⟨W_g, W_h⟩.
 */
const geometricMedian: ChannelScore = async (family, context) => {
  const weight = told(family).find(isStored);
  const shape = weight?.value.tensor?.shape;
  if (!weight || !shape) return undefined;
  const data = await context.floats(weight);
  const inner = elementCount(shape.slice(weight.axis + 1));
  const size = shape[weight.axis] ?? 1;
  const outer = data.length / (inner * size);
  const rows = indicesIn(family, weight).map((indices) => {
    const row = new Float32Array(indices.length * outer * inner);
    let at = 0;
    for (const index of indices)
      for (let o = 0; o < outer; o++, at += inner) {
        const start = (o * size + index) * inner;
        row.set(data.subarray(start, start + inner), at);
      }
    return row;
  });
  const scores = new Float64Array(rows.length);
  for (const [g, a] of rows.entries())
    for (let h = g + 1; h < rows.length; h++) {
      const b = rows[h] as Float32Array;
      let squares = 0;
      for (let i = 0; i < a.length; i++) squares += ((a[i] as number) - (b[i] as number)) ** 2;
      const distance = Math.sqrt(squares);
      scores[g] = (scores[g] as number) + distance;
      scores[h] = (scores[h] as number) + distance;
    }
  return scores;
};

/** Uniform random: the baseline that any criterion must beat. Seeded by the family's name. */
const random: ChannelScore = (family, { seed }) => {
  const rng = new Rng(seed).fork(family.name);
  return Promise.resolve(Float64Array.from(family.groups, () => rng.uniform(Number.EPSILON, 1)));
};

export const WEIGHT_CHANNEL_SCORES: Readonly<Record<string, ChannelScore>> = {
  l1,
  l2,
  scale,
  "geometric-median": geometricMedian,
  random,
};

/** Reads tensors as floats and keeps the last few: families of one layer follow each other. */
export function floatReader(): ChannelScoreContext["floats"] {
  const recent = new Map<unknown, Float32Array>();
  return async ({ value }) => {
    const tensor = value.tensor;
    if (!tensor) return new Float32Array(0);
    const known = recent.get(tensor);
    if (known) return known;
    const data = toFloat32(tensor.dtype, await tensor.bytes());
    recent.set(tensor, data);
    if (recent.size > 4) recent.delete(recent.keys().next().value);
    return data;
  };
}
