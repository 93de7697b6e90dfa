/** Criteria of structured pruning by the gradient of the loss: what removing a group costs, to first order and by the Fisher information. */
import type { Family, WeightAxis } from "../../../analyse/groups.ts";
import { Builder } from "../../../ir/builder.ts";
import type { Model } from "../../../ir/model.ts";
import { mul, reduceSum } from "../../../ops/gradients/words.ts";
import { grad, gradientName } from "../../../train/grad.ts";
import type { FamilyScores, Scoring } from "./channel-scores.ts";
import { distinct, indicesIn } from "./group-positions.ts";
import { eachLossGradient, type LossModel } from "../loss-gradients.ts";

/** Samples whose gradients are averaged before they are squared: a batch of training. */
const TAYLOR_BATCH = 32;

/** A weight's axis whose sums of gradient times weight are taken. */
interface Place extends WeightAxis {
  /** Name of the output that holds them. */
  readonly output: string;
}

/**
 * Weights whose sums Σ g·w along the family are the derivative of the loss with respect to a factor on each of its groups.
 * Those that read the group: as Σ_o W_oi·∂L/∂W_oi = Σ a_i·∂L/∂a_i, their sum over all readers is exactly that, whatever
 * normalization and activation lie before. Where none reads it (queries and keys of attention), those that make it, with their biases.
 */
function tellingWeights(family: Family): readonly WeightAxis[] {
  const usable = (weights: readonly WeightAxis[]): WeightAxis[] =>
    distinct(weights).filter(({ value }) => value.dtype === "float32" && value.shape !== undefined);
  const readers = usable(family.consumers);
  if (readers.length > 0) return readers;
  const makers = new Set(family.producers.map(({ node }) => node));
  const biases = family.companions.filter(({ node, weight }) => weight.role === "bias" && makers.has(node));
  return usable([...family.producers, ...biases]);
}

/** The model whose outputs are Σ g·w over all axes but the place's own, one vector for each place. */
function sumsModel({ model, loss }: LossModel, places: readonly Place[]): Model {
  const result = grad(model, { of: loss, wrt: [...new Set(places.map(({ value }) => value.name))] });
  const { graph } = result;
  const byName = new Map([...graph.values()].map((value) => [value.name, value]));
  const b = new Builder(graph, { prefix: "sums/" });
  const outputs = places.map(({ value, axis, output }) => {
    const [w, g] = [byName.get(value.name), byName.get(gradientName(value.name))];
    const others = (value.shape ?? []).flatMap((_, i) => (i === axis ? [] : [i]));
    const site = { b, opset: result.opset };
    const product = w && g && mul(site, w, g);
    const sum = product && b.op("Identity", [reduceSum(site, product, others, false)]);
    return { sum, output, size: value.shape?.[axis] };
  });
  graph.outputs.splice(0);
  for (const { sum, output, size } of outputs) {
    if (!sum) continue;
    [sum.dtype, sum.shape] = ["float32", [size ?? null]];
    b.output(sum, output);
  }
  return result;
}

/** Mean over batches of so many samples of (Σ g·w of a group, averaged over the batch)². */
async function meanSquares(scoring: Scoring, batch: number): Promise<Map<Family, Float64Array>> {
  const { model, families, options, context } = scoring;
  // Gradients are taken in the main graph alone.
  const own = new Set(model.graph.values());
  const told = new Map<Family, Place[]>();
  for (const [i, family] of families.entries()) {
    const weights = tellingWeights(family).filter(({ value }) => own.has(value));
    if (weights.length > 0)
      told.set(
        family,
        weights.map((weight, j) => ({ ...weight, output: `pare_sums_${i}_${j}` })),
      );
  }
  const places = [...told.values()].flat();
  if (places.length === 0) return new Map();
  const positions = new Map(
    [...told].flatMap(([family, list]) => list.map((place) => [place, indicesIn(family, place)])),
  );
  const empty = (): Map<Family, Float64Array> =>
    new Map([...told.keys()].map((family) => [family, new Float64Array(family.groups.length)]));
  const totals = empty();
  let [sums, inBatch] = [empty(), 0];
  const square = (): void => {
    for (const [family, sum] of sums) {
      const total = totals.get(family) as Float64Array;
      for (let g = 0; g < sum.length; g++)
        total[g] = (total[g] as number) + ((sum[g] as number) / inBatch) ** 2 * inBatch;
    }
    [sums, inBatch] = [empty(), 0];
  };
  const count = await eachLossGradient(
    model,
    (lossModel) => sumsModel(lossModel, places),
    options,
    context,
    (results) => {
      for (const [family, list] of told) {
        const sum = sums.get(family) as Float64Array;
        for (const place of list) {
          const values = results[place.output]?.data as Float32Array | undefined;
          for (const [g, indices] of (positions.get(place) ?? []).entries())
            for (const index of indices) sum[g] = (sum[g] as number) + (values?.[index] ?? 0);
        }
      }
      if (++inBatch === batch) square();
    },
  );
  if (inBatch > 0) square();
  for (const total of totals.values()) for (let g = 0; g < total.length; g++) total[g] = (total[g] as number) / count;
  return totals;
}

/**
 * E[(Σ_s g_s·w_s)²] over batches of samples, the sum over all that reads the group: the squared change of the loss to first
 * order when the group goes (Molchanov et al. 2019, arXiv 1906.10771).
 */
export const taylor: FamilyScores = (scoring) => meanSquares(scoring, TAYLOR_BATCH);

/**
 * E[(∂L/∂m)²] over single samples, m a factor on the group at all layers that read it: the Fisher information of the factor,
 * twice the change of the loss to second order (Theis et al. 2018, arXiv 1801.05787; tied layers as in Liu et al. 2021,
 * arXiv 2108.00708).
 */
export const fisher: FamilyScores = (scoring) => meanSquares(scoring, 1);
