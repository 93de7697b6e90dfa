/**
 * Learned rounding of one unit's weights: whether each code is rounded down or up is found by gradient steps on what the unit
 * computes (AdaRound, Nagel et al. 2020, arXiv 2004.10568; over residual blocks BRECQ, Li et al. 2021, arXiv 2102.05426).
 */
import { inferShapes } from "../../../analyse/shapes.ts";
import { PareError, throwIfAborted } from "../../../base/error.ts";
import { Rng } from "../../../base/rng.ts";
import { elementCount } from "../../../base/shape.ts";
import { Builder } from "../../../ir/builder.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Model } from "../../../ir/model.ts";
import { Tensor } from "../../../ir/tensor.ts";
import { add, mul, scalar, scale, type Site, sub } from "../../../ops/gradients/words.ts";
import { rowsOf } from "../../../run/arrays.ts";
import type { NdArray } from "../../../run/session.ts";
import { bindBatch } from "../../../train/bind-batch.ts";
import { imageBlock } from "../../../train/blocked/image-block.ts";
import { mean, square } from "../../../train/losses/words.ts";
import { objectiveStep } from "../../../train/objective-step.ts";
import { extract } from "../../../transform/extract.ts";
import { convertOpset } from "../../../transform/opset.ts";
import { engine } from "../../engine.ts";
import type { Context } from "../../technique.ts";
import { TRAINING_OPSET } from "../../training.ts";
import type { LinearCodes } from "./linear-weights.ts";
import { annealing, hardCodes, openness, roundingRate, softWeight } from "./soft-rounding.ts";
import { type StoredLayer, storedLayer } from "./stored-layer.ts";
import type { UnitSamples } from "./unit-samples.ts";
import type { Unit } from "./units.ts";

export interface LearnOptions {
  readonly iterations: number;
  readonly batch: number;
}

/** Biases move in units of the output's size: more slowly than the rounding. */
const BIAS_RATE = 0.05;

/** Codes and biases of a unit's layers that were learned. */
export interface Learned {
  readonly codes: readonly Int8Array[];
  readonly biases: readonly (Float32Array | undefined)[];
}

/**
 * min over V, b of ‖clip(unit(x; W̃, b)) − y‖² + λ·Σ(1 − |2h(V) − 1|^β), W̃ = s·clip(⌊W/s⌋ + h(V)), x what the unit reads in
 * the quantized model, y what the float model has in its place. Undefined where the unit cannot be cut out.
 */
export async function learnUnit(
  model: Model,
  unit: Unit,
  samples: UnitSamples,
  weights: readonly Pick<LinearCodes, "weights" | "low" | "high">[],
  options: LearnOptions,
  context: Context,
): Promise<Learned | undefined> {
  const part = extract(model, [unit.input], [unit.output]);
  if (!part) return undefined;
  if (part.opset < TRAINING_OPSET) convertOpset(part, TRAINING_OPSET);
  const rows = samples.input.shape[0] ?? 1;
  const batch = Math.min(options.batch, rows);
  const rest = samples.input.shape.slice(1);
  for (const input of part.graph.inputs) input.shape = [batch, ...rest];
  bindBatch(part.graph, batch);
  const { openSession } = await engine();
  const site: Site = { b: new Builder(part.graph, { prefix: "learn/" }), opset: part.opset };
  const layers: { stored: StoredLayer; rounding: Value; shift: Value | undefined; unit: number }[] = [];
  const spread = Math.sqrt(meanSquare(samples.target)) || 1;
  const nodes = new Map(part.graph.nodes.map((node) => [node.name, node]));
  const before = (name: string): Site => ({
    b: new Builder(part.graph, { prefix: `learn/${name}/`, before: part.graph.nodes[0] }),
    opset: part.opset,
  });
  const pulls: Value[] = [];
  const beta = site.b.input("beta", "float32", []);
  const pull = site.b.input("pull", "float32", []);
  for (const [index, { linear }] of unit.layers.entries()) {
    const node = nodes.get(linear.node.name);
    const stored = node && (await storedLayer(node, linear.channelAxis));
    const own = weights[index];
    if (!node || !stored || !own) return undefined;
    const soft = softWeight(before(node.name), stored, own);
    node.setInput(1, soft.weight);
    let shift: Value | undefined;
    if (stored.biases) {
      const s = before(`${node.name}/bias`);
      shift = s.b.constant("shift", Tensor.float32([stored.biases.length], new Float32Array(stored.biases.length)));
      const stay = s.b.constant("stay", Tensor.float32([stored.biases.length], stored.biases));
      node.setInput(2, add(s, stay, scale(s, shift, spread, "float32")));
    }
    layers.push({ stored, rounding: soft.rounding, shift, unit: spread });
    pulls.push(mean(site, openness(site, soft.share, beta), stored.shape));
  }
  const output = part.graph.outputs[0] as Value;
  const targetShape = [batch, ...samples.target.shape.slice(1)];
  const target = site.b.input("target", "float32", targetShape);
  const clipped = Number.isFinite(unit.low)
    ? site.b.op("Clip", [output, scalar(site, "float32", unit.low), scalar(site, "float32", unit.high)])
    : output;
  const error = errorOf(samples, unit);
  const relative = scale(
    site,
    mean(site, square(site, sub(site, clipped, target)), targetShape),
    1 / (error || 1),
    "float32",
  );
  const total = pulls.length === 1 ? (pulls[0] as Value) : site.b.op("Sum", pulls);
  const objective = add(site, relative, mul(site, total, pull));
  part.graph.outputs.splice(0, part.graph.outputs.length, objective);
  inferShapes(part);
  const learned = layers.flatMap(({ rounding, shift }) => [rounding.name, ...(shift ? [shift.name] : [])]);
  const shifts = new Set(layers.map(({ shift }) => shift?.name));
  const step = objectiveStep(part, {
    parameters: learned,
    optimizer: "adam",
    groupOf: (name) => (shifts.has(name) ? { rate: BIAS_RATE } : undefined),
    block: await imageBlock(openSession, context.provider),
  });
  const session = await openSession(step.model, { threads: context.threads, signal: context.signal });
  try {
    const resident = await session.resident(await step.initialState(), step.links);
    const rng = new Rng(context.seed).fork(`learn ${unit.name}`);
    const number = (value: number): NdArray => ({ dtype: "float32", shape: [], data: Float32Array.of(value) });
    const inputName = (part.graph.inputs[0] as Value).name;
    for (let i = 0; i < options.iterations; i++) {
      throwIfAborted(context.signal);
      const annealed = annealing(i / Math.max(1, options.iterations));
      const drawn = Array.from({ length: batch }, () => rng.below(rows));
      const feeds = {
        ...step.scalars(i, roundingRate(options.iterations)),
        [inputName]: picked(samples.input, drawn),
        [target.name]: picked(samples.target, drawn),
        [beta.name]: number(annealed.beta),
        [pull.name]: number(annealed.pull),
      };
      await resident.step(feeds, []);
    }
    const state = await resident.read(learned);
    const codes = layers.map(({ stored, rounding }, index) =>
      hardCodes(stored, weights[index] as (typeof weights)[number], state[rounding.name]?.data as Float32Array),
    );
    const biases = layers.map(({ stored, shift }) => {
      const moved = shift && (state[shift.name]?.data as Float32Array);
      return moved && stored.biases?.map((b, c) => b + spread * (moved[c] ?? 0));
    });
    return { codes, biases };
  } finally {
    await session.close();
  }
}

/** Rows of an array, copied. */
function picked(array: NdArray, rows: readonly number[]): NdArray {
  const width = elementCount(array.shape.slice(1));
  const data = new Float32Array(rows.length * width);
  for (const [i, row] of rows.entries()) data.set(rowsOf(array, row, row + 1).data as Float32Array, i * width);
  return { dtype: "float32", shape: [rows.length, ...array.shape.slice(1)], data };
}

function meanSquare({ data }: NdArray): number {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += Number(data[i]) ** 2;
  return sum / Math.max(1, data.length);
}

/** Mean of (clip(output) − target)². */
export function errorOf({ output, target }: Pick<UnitSamples, "output" | "target">, { low, high }: Unit): number {
  const [y, z] = [output.data as Float32Array, target.data as Float32Array];
  if (y.length !== z.length) throw new PareError("internal", "A unit and its target differ in shape");
  let sum = 0;
  for (let i = 0; i < y.length; i++) {
    const clipped = Math.min(high, Math.max(low, y[i] as number));
    sum += (clipped - (z[i] as number)) ** 2;
  }
  return sum / Math.max(1, y.length);
}
