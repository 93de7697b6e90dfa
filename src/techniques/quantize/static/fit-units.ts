/** Fits a statically quantized model to the float model, unit by unit: biases in closed form, or rounding and biases by learning. */
import { throwIfAborted } from "../../../base/error.ts";
import type { Model } from "../../../ir/model.ts";
import type { FeedStream } from "../../../run/feed-stream.ts";
import type { NdArray } from "../../../run/session.ts";
import { joinRows, rowsOf } from "../../../run/arrays.ts";
import { extract } from "../../../transform/extract.ts";
import { engine } from "../../engine.ts";
import type { Context } from "../../technique.ts";
import { errorOf, learnUnit, type LearnOptions } from "./learn-unit.ts";
import type { LinearCodes } from "./linear-weights.ts";
import type { LinearNode } from "./qdq-plan.ts";
import type { WrittenValue } from "./static-model.ts";
import { keptLayer, storedLayer, writeLayer } from "./stored-layer.ts";
import { UnitSampler, type UnitSamples } from "./unit-samples.ts";
import { type Unit, unitsOf } from "./units.ts";

export interface FitOptions {
  /** "biases": shifts of biases in closed form; "layers", "blocks": rounding and biases learned per layer or residual block. */
  readonly fit: "biases" | "layers" | "blocks";
  readonly samples: number;
  readonly learn: LearnOptions;
}

export interface FitModels {
  readonly quantized: Model;
  /** The float model that was quantized, with the same names. */
  readonly reference: Model;
  readonly linear: readonly LinearNode[];
  readonly codes: readonly LinearCodes[];
  readonly written: ReadonlyMap<string, WrittenValue>;
}

/** Samples in a run of a check. */
const CHECK_BATCH = 16;

/**
 * Units in order, each fed by those before it in their final form. A change is kept where it lowers the unit's own error,
 * behind its clamp and the range of its grid: what matching means before it would add for the sake of values that are cut
 * off anyway. Returns the mean over units of the error left, relative to that before.
 */
export async function fitUnits(
  models: FitModels,
  stream: FeedStream,
  options: FitOptions,
  context: Context,
): Promise<number> {
  const { quantized, reference, linear, codes, written } = models;
  const units = unitsOf(reference, quantized, linear, written, options.fit === "blocks");
  const sampler = new UnitSampler(quantized, reference, stream, options.samples, context);
  let left = 0;
  for (const [done, unit] of units.entries()) {
    throwIfAborted(context.signal);
    context.onProgress({ stage: `quantize: fitting ${unit.name}`, done, total: units.length });
    const samples = await sampler.collect(units.slice(done));
    const before = errorOf(samples, unit);
    let { output } = samples;
    let after = before;
    if (options.fit !== "biases") {
      const restore = unit.layers.map(({ linear: { node } }) => keptLayer(node));
      await learn(models, unit, samples, options, codes, context);
      const learned = await outputOf(quantized, unit, samples, context);
      const error = learned ? errorOf({ output: learned, target: samples.target }, unit) : before;
      if (learned && error < before) [output, after] = [learned, error];
      else for (const each of restore) each();
    }
    after = await correctBias(unit, { ...samples, output }, after);
    const better = after < before;
    const share = before > 0 ? (better ? Math.sqrt(after / before) : 1) : 1;
    left += share / units.length;
    context.journal.change({
      what: unit.name,
      how: better
        ? `error of its output ${(100 * share).toFixed(1)} % of that before`
        : "stays: nothing was found that lowers its error",
    });
  }
  return left;
}

async function learn(
  { quantized }: FitModels,
  unit: Unit,
  samples: UnitSamples,
  options: FitOptions,
  codes: readonly LinearCodes[],
  context: Context,
): Promise<void> {
  const own = unit.layers.map(({ index }) => {
    const { weights, low, high } = codes[index] as LinearCodes;
    return { weights, low, high };
  });
  const learned = await learnUnit(quantized, unit, samples, own, options.learn, context);
  if (!learned) {
    context.journal.skip(unit.name, "it reads more than one value");
    return;
  }
  for (const [
    i,
    {
      linear: { node },
    },
  ] of unit.layers.entries())
    await writeLayer(node, learned.codes[i], learned.biases[i]);
}

/**
 * b ← b + mean(y − ŷ) over the elements of each channel that the range does not cut off, the Gauss-Newton step of the squared
 * error behind the range; where that lowers it. Returns the error, given the one before.
 */
async function correctBias(unit: Unit, { output, target }: UnitSamples, before: number): Promise<number> {
  const last = unit.layers.at(-1)?.linear;
  const stored = last && (await storedLayer(last.node, last.channelAxis));
  if (!last || !stored?.biases) return before;
  const { biases } = stored;
  const channels = biases.length;
  const axis = last.traits?.linear === "conv" ? 1 : output.shape.length - 1;
  const inner = output.shape.slice(axis + 1).reduce((product, size) => product * size, 1);
  const [y, z] = [output.data as Float32Array, target.data as Float32Array];
  const channelOf = (i: number): number => Math.floor(i / inner) % channels;
  const sums = new Float64Array(channels);
  const counts = new Float64Array(channels);
  for (let i = 0; i < y.length; i++) {
    const value = y[i] as number;
    if (value <= unit.low || value >= unit.high) continue;
    const c = channelOf(i);
    sums[c] = (sums[c] as number) + (z[i] as number) - value;
    counts[c] = (counts[c] as number) + 1;
  }
  const shift = sums.map((sum, c) => ((counts[c] ?? 0) > 0 ? sum / (counts[c] as number) : 0));
  const shifted = y.map((value, i) => value + (shift[channelOf(i)] as number));
  const after = errorOf({ output: { ...output, data: shifted }, target }, unit);
  if (!(after < before)) return before;
  await writeLayer(
    last.node,
    undefined,
    biases.map((b, c) => b + (shift[c] as number)),
  );
  return after;
}

/** What the unit gives with its present codes; undefined where it cannot be cut out. */
async function outputOf(
  model: Model,
  unit: Unit,
  samples: UnitSamples,
  context: Context,
): Promise<NdArray | undefined> {
  const part = extract(model, [unit.input], [unit.output]);
  if (!part) return undefined;
  const { openSession } = await engine();
  const session = await openSession(part, { threads: context.threads, signal: context.signal });
  try {
    const name = session.inputs[0]?.name ?? "";
    const rows = samples.input.shape[0] ?? 0;
    const parts: NdArray[] = [];
    for (let from = 0; from < rows; from += CHECK_BATCH) {
      const feeds = { [name]: rowsOf(samples.input, from, Math.min(rows, from + CHECK_BATCH)) };
      const [output] = Object.values(await session.run(feeds));
      if (output) parts.push(output);
    }
    return joinRows(parts);
  } finally {
    await session.close();
  }
}
