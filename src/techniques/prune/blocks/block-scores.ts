/** Criteria for whole residual blocks: how much each changes what flows through it, what its removal does to the outputs, its weights. */
import type { ResidualUnit } from "../../../analyse/residual-blocks.ts";
import { isFloat } from "../../../base/dtype.ts";
import { throwIfAborted } from "../../../base/error.ts";
import { Rng } from "../../../base/rng.ts";
import { toFloat32 } from "../../../base/to-float32.ts";
import { Probe } from "../../../evaluate/probe.ts";
import { Builder } from "../../../ir/builder.ts";
import { cloneModel } from "../../../ir/clone.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { reduceSum } from "../../../ops/gradients/words.ts";
import { asFloat32 } from "../../../run/arrays.ts";
import type { Reducer } from "../../../run/reducers.ts";
import { calibrationOf } from "../../calibration.ts";
import { engine } from "../../engine.ts";
import { sourceOf } from "../../probe-source.ts";
import type { Context } from "../../technique.ts";

/** Importance of one unit in the library's own criterion: a finite number, less goes first. */
export type BlockScore = (unit: ResidualUnit) => number | Promise<number>;

export interface BlockScoring {
  readonly model: Model;
  readonly units: readonly ResidualUnit[];
  /** A copy of the model without that unit. */
  without(index: number): Model;
  readonly samples: number;
  readonly length: number;
  readonly context: Context;
}

type Scores = (scoring: BlockScoring) => Promise<number[]>;

/** What a unit reads and what it makes of it. */
function ends({ blocks }: ResidualUnit): { readonly x: Value | undefined; readonly y: Value | undefined } {
  const [first, last] = [blocks[0], blocks.at(-1)];
  const total = last?.sum.outputs[3];
  return { x: first?.sum.inputs[first.skip], y: total && total.name !== "" ? total : last?.sum.outputs[0] };
}

/**
 * Block influence: 1 − E[⟨x, y⟩ / (‖x‖‖y‖)] over tokens (pixels), x what goes in, y what comes out (Men et al. 2024, ShortGPT,
 * arXiv 2403.03853). Each vector lies along the last axis, of images along the channels.
 */
const influence: Scores = async ({ model, units, samples, length, context }) => {
  const copy = cloneModel(model);
  const byName = new Map([...copy.graph.values()].map((value) => [value.name, value]));
  const b = new Builder(copy.graph, { prefix: "influence/" });
  const site = { b, opset: copy.opset };
  const cosines = units.map((unit) => {
    const { x, y } = ends(unit);
    const [from, to] = [x && byName.get(x.name), y && byName.get(y.name)];
    if (!from || !to) return undefined;
    const rank = from.shape?.length ?? 1;
    const axes = [rank === 4 ? 1 : rank - 1];
    const dot = (a: Value, c: Value): Value => reduceSum(site, b.op("Mul", [a, c]), axes, true);
    const lengths = b.op("Sqrt", [b.op("Mul", [dot(from, from), dot(to, to)])]);
    const cosine = b.op("Div", [dot(from, to), lengths]);
    [cosine.dtype, cosine.shape] = [from.dtype, from.shape?.map((dim, axis) => (axes.includes(axis) ? 1 : dim))];
    return cosine;
  });
  const { stream, note } = await calibrationOf(model, { samples, length }, context);
  context.journal.note(note);
  const names = cosines.flatMap((cosine) => (cosine ? [cosine.name] : []));
  const { tap } = await engine();
  const means = await tap(copy, names, stream, meanReducer, {
    provider: context.provider,
    threads: context.threads,
    signal: context.signal,
  });
  return cosines.map((cosine) => 1 - (means.get(cosine?.name ?? "") ?? 0));
};

/** The mean of all elements that are numbers: vectors of zeros have no direction. */
function meanReducer(): Reducer<number> {
  let [sum, count] = [0, 0];
  return {
    add(array) {
      for (const x of asFloat32(array))
        if (Number.isFinite(x)) {
          sum += x;
          count++;
        }
    },
    result: () => sum / Math.max(1, count),
  };
}

/** What the outputs lose when the unit alone goes: on labels the loss, else the divergence of the scores, else the noise. */
const outputs: Scores = async ({ model, units, without, samples, length, context }) => {
  const { seed, provider, threads, signal, journal } = context;
  const { openSession } = await engine();
  const { source, on } = await sourceOf(model, { samples, length }, context);
  const probe = await Probe.open(model, source, { seed, provider, threads, signal, samples }, openSession);
  const scores: number[] = [];
  let measure: string | undefined;
  try {
    for (const index of units.keys()) {
      throwIfAborted(signal);
      context.onProgress({ stage: "prune-blocks: removal of each", done: index, total: units.length });
      const { damages } = await probe.judge(without(index));
      measure ??= ["loss", "mse", "kl", "noise"].find((name) => damages[name] !== undefined) ?? "noise";
      scores.push(damages[measure]?.value ?? Number.POSITIVE_INFINITY);
    }
  } finally {
    await probe.close();
  }
  journal.note(`Removal of each: ${measure ?? "noise"} on ${on}.`);
  return scores;
};

/** Σ|w| over the weights that go with the unit. */
const magnitude: Scores = ({ units }) =>
  Promise.all(
    units.map(async ({ blocks }) => {
      let sum = 0;
      for (const { tensor } of new Set(blocks.flatMap(({ weights }) => weights)))
        if (tensor && isFloat(tensor.dtype))
          for (const w of toFloat32(tensor.dtype, await tensor.bytes())) sum += Math.abs(w);
      return sum;
    }),
  );

/** Uniform random: the baseline that any criterion must beat. Seeded by the unit's name. */
const random: Scores = ({ units, context }) =>
  Promise.resolve(units.map(({ name }) => new Rng(context.seed).fork(name).uniform()));

const SCORES: Readonly<Record<string, Scores>> = { output: outputs, influence, magnitude, random };

export const BLOCK_SCORES: readonly string[] = Object.keys(SCORES);

/** Importance of each unit, in their order. */
export async function scoreBlocks(score: string | BlockScore, scoring: BlockScoring): Promise<number[]> {
  if (typeof score !== "string") return Promise.all(scoring.units.map((unit) => score(unit)));
  return (await SCORES[score]?.(scoring)) ?? [];
}
