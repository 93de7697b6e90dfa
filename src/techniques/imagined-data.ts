/** Samples that a network's own normalizations ask for: calibration data for those who have none. */
import { inferShapes } from "../analyse/shapes.ts";
import { PareError, throwIfAborted } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { elementCount, isConcrete } from "../base/shape.ts";
import { datasetOf } from "../data/arrays.ts";
import type { Dataset } from "../data/dataset.ts";
import { Builder } from "../ir/builder.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Node, Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { Tensor } from "../ir/tensor.ts";
import { constantArray, mul, reduceMean, type Site, sub } from "../ops/gradients/words.ts";
import type { NdArray } from "../run/session.ts";
import { bindBatch } from "../train/bind-batch.ts";
import { imageBlock } from "../train/blocked/image-block.ts";
import { mean, plus, square } from "../train/losses/words.ts";
import { objectiveStep } from "../train/objective-step.ts";
import { convertOpset } from "../transform/opset.ts";
import { constantTensor } from "../transform/constants.ts";
import { engine } from "./engine.ts";
import { Journal } from "./journal.ts";
import { prepareConstants } from "./prepare.ts";
import type { Context } from "./technique.ts";

export interface ImaginedOptions {
  /** Default 64. */
  readonly samples?: number | undefined;
  /**
   * Share of them that stays noise. Default ½: what is made has the ranges of real samples between normalizations, but a narrow input
   * and nothing that a class would be sure of; noise covers those.
   */
  readonly noise?: number | undefined;
  /** Samples that are made together: statistics are theirs. Default 32. */
  readonly batch?: number | undefined;
  /** Steps of Adam for each batch. Default 200. */
  readonly iterations?: number | undefined;
}

/** Gradients are written in operators of this opset. */
const GRADIENT_OPSET = 17;
/** Rate of Adam's first step, relative to the deviation of the numbers that it begins with; it falls to 0 on a cosine. */
const RATE = 0.1;
const EPSILON = 1e-5;
/** What samples may look like before they are changed: the one that fits the statistics best is begun with. */
const STARTS: readonly { readonly mean: number; readonly deviation: number }[] = [
  { mean: 0, deviation: 1 },
  { mean: 128, deviation: 64 },
  { mean: 0, deviation: 64 },
];

/** True where {@link imaginedData} can say something: one float input of known sizes, and normalizations with statistics. */
export function canImagine(model: Model): boolean {
  const [input, ...others] = model.graph.inputs.filter(({ tensor }) => !tensor);
  const known = input?.shape?.slice(1).every((dim) => typeof dim === "number") ?? false;
  return others.length === 0 && input?.dtype === "float32" && known && normalizations(model).length > 0;
}

/**
 * Samples whose activations have the means and variances that BatchNormalization was trained with: noise, changed by gradient
 * steps on min_x mean over layers and channels of ((μ_c(x) − μ_c)² + (σ_c(x) − σ_c)²)/σ_c², with μ(x), σ(x) the statistics of a batch
 * in front of each normalization; some stay noise. They have no labels and show nothing, but their ranges are those of real samples.
 * Paper: Cai et al. 2020, "ZeroQ: A Novel Zero Shot Quantization Framework" (arXiv 2001.00281).
 * Throws `unsupported` where {@link canImagine} is false, and what gradients throw.
 */
export async function imaginedData(model: Model, options: ImaginedOptions, context: Context): Promise<Dataset> {
  if (!canImagine(model))
    throw new PareError(
      "unsupported",
      "Samples can be made only for one float input and BatchNormalization with statistics",
    );
  const { samples = 64, noise = 0.5, batch = 32, iterations = 200 } = options;
  const { threads, signal, provider } = context;
  const { openSession } = await engine();
  const judge = await statisticsLoss(model, batch);
  const input = judge.graph.inputs[0] as Value;
  const shape = input.shape as readonly number[];
  const rng = new Rng(context.seed).fork("imagined");
  const drawn = ({ mean: center, deviation }: (typeof STARTS)[number]): Float32Array =>
    Float32Array.from({ length: elementCount(shape) }, () => rng.normal(center, deviation));
  const start = await bestStart(judge, drawn, context);
  const learned = cloneModel(judge);
  const place = learned.graph.inputs[0] as Value;
  learned.graph.inputs.length = 0;
  const images = learned.graph.addInitializer("imagined", Tensor.float32(shape, drawn(start)));
  place.replaceUses(images);
  const block = await imageBlock(openSession, provider);
  const step = objectiveStep(learned, { parameters: [images.name], optimizer: "adam", block });
  const session = await openSession(step.model, { threads, signal });
  const made = Math.max(1, Math.round(samples * (1 - noise)));
  const runs = Math.ceil(made / (shape[0] ?? batch));
  const data = new Float32Array(runs * elementCount(shape));
  try {
    for (let run = 0; run < runs; run++) {
      const state = {
        ...(await step.initialState()),
        [images.name]: { dtype: "float32", shape, data: drawn(start) } as NdArray,
      };
      const resident = await session.resident(state, step.links);
      for (let i = 0; i < iterations; i++) {
        throwIfAborted(signal);
        context.onProgress({ stage: "making samples", done: run * iterations + i, total: runs * iterations });
        const rate = RATE * start.deviation * 0.5 * (1 + Math.cos((Math.PI * i) / iterations));
        await resident.step(step.scalars(i, rate), []);
      }
      const { [images.name]: made } = await resident.read([images.name]);
      data.set(made?.data as Float32Array, run * elementCount(shape));
    }
  } finally {
    await session.close();
  }
  // Spread evenly, so that any part of the samples has both
  const sampleSize = elementCount(shape.slice(1));
  const mixed = new Float32Array(samples * sampleSize);
  for (let i = 0, used = 0; i < samples; i++) {
    const own = Math.floor(((i + 1) * made) / samples) > used;
    const sample = own
      ? data.subarray(used * sampleSize, (used + 1) * sampleSize)
      : Float32Array.from({ length: sampleSize }, () => rng.normal(start.mean, start.deviation));
    mixed.set(sample, i * sampleSize);
    if (own) used++;
  }
  const all = [samples, ...shape.slice(1)];
  return datasetOf({ fields: { [input.name]: { dtype: "float32", shape: all, data: mixed } } }, "imagined:");
}

/** BatchNormalization of the main graph with stored statistics. */
function normalizations(model: Model): { node: Node; mean: Tensor; variance: Tensor }[] {
  return model.graph.nodes.flatMap((node) => {
    if (node.domain !== "" || node.opType !== "BatchNormalization") return [];
    const [center, variance] = [node.inputs[3], node.inputs[4]].map((value) => constantTensor(model, value));
    return center && variance ? [{ node, mean: center, variance }] : [];
  });
}

/** A model of one input, `batch` samples, whose output is how far their statistics are from those of the normalizations. */
async function statisticsLoss(model: Model, batch: number): Promise<Model> {
  const copy = cloneModel(model);
  prepareConstants(copy, new Journal());
  if (copy.opset < GRADIENT_OPSET) convertOpset(copy, GRADIENT_OPSET);
  const { graph } = copy;
  const own = graph.inputs.find(({ tensor }) => !tensor)?.shape?.[0];
  bindBatch(graph, typeof own === "number" ? own : batch);
  inferShapes(copy);
  const s: Site = { b: new Builder(graph, { prefix: "imagined/" }), opset: copy.opset };
  const terms: Value[] = [];
  for (const { node, mean: center, variance } of normalizations(copy)) {
    const [x] = node.inputs;
    if (!x?.shape || !isConcrete(x.shape)) continue;
    const axes = x.shape.map((_, axis) => axis).filter((axis) => axis !== 1);
    const [channels = 1] = center.shape;
    const flat = x.shape.map((_, axis) => (axis === 1 ? channels : 1));
    const own = (await center.data()) as Float32Array;
    const inverse = Float32Array.from((await variance.data()) as Float32Array, (v) => 1 / Math.sqrt(v + EPSILON));
    const scaled = (value: Value): Value => mul(s, value, constantArray(s, "float32", flat, inverse));
    const average = reduceMean(s, x, axes, true);
    const spread = s.b.op("Sqrt", [plus(s, reduceMean(s, square(s, sub(s, x, average)), axes, true), EPSILON)]);
    const shift = scaled(sub(s, average, constantArray(s, "float32", flat, own)));
    terms.push(mean(s, square(s, shift), flat), mean(s, square(s, plus(s, scaled(spread), -1)), flat));
  }
  const sum = terms.length === 1 ? (terms[0] as Value) : s.b.op("Mean", terms);
  [sum.dtype, sum.shape] = ["float32", []];
  graph.outputs.splice(0, graph.outputs.length, sum);
  return copy;
}

async function bestStart(
  judge: Model,
  drawn: (start: (typeof STARTS)[number]) => Float32Array,
  { threads, signal }: Context,
): Promise<(typeof STARTS)[number]> {
  const { openSession } = await engine();
  const session = await openSession(judge, { threads, signal });
  const [input] = judge.graph.inputs as [Value];
  let best = { start: STARTS[0] as (typeof STARTS)[number], loss: Number.POSITIVE_INFINITY };
  try {
    for (const start of STARTS) {
      const array: NdArray = { dtype: "float32", shape: input.shape as readonly number[], data: drawn(start) };
      const [result] = Object.values(await session.run({ [input.name]: array }));
      const loss = Number(result?.data[0]);
      if (loss < best.loss) best = { start, loss };
    }
  } finally {
    await session.close();
  }
  return best.start;
}
