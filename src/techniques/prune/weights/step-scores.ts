/** Importance of weights by what steps of training do to them: their sensitivity before training (SNIP), and their movement during it. */
import { PareError, throwIfAborted } from "../../../base/error.ts";
import type { Model } from "../../../ir/model.ts";
import { Stepper } from "../../../train/stepper.ts";
import { checkTrainOptions, type TrainOptions } from "../../../train/train-options.ts";
import type { WeightSite } from "../../../transform/weight-sites.ts";
import { engine } from "../../engine.ts";
import type { Context } from "../../technique.ts";
import { inOpset, TRAINING_OPSET } from "../../training.ts";
import type { StepScore } from "./scores.ts";

/** Samples per step: SNIP takes its gradient over large batches, movement trains as fine-tuning of transformers does. */
const BATCH: Readonly<Record<StepScore, number>> = { snip: 128, movement: 32 };

/** What lies between the weights that are zero and the least of the others, as a share of the scores' span. */
const ABOVE_ZERO = 1e-6;

export interface StepScoreOptions {
  /** Labelled samples that are stepped over, once. */
  readonly samples: number;
  /** movement: highest learning rate of the pass. */
  readonly learningRate: number;
}

/**
 * snip: |w·∂L/∂w| over the samples with the weights as they are, BatchNorm using the statistics of each batch as it would in
 * training (Lee et al. 2019, arXiv 1810.02340). movement: −Σ w·∂L/∂w over the steps of one pass of training on a copy, which is
 * large where weights grow away from zero (Sanh et al. 2020, arXiv 2005.07683), shifted so that none is negative. Weights that are
 * zero score 0, the least. By names of weights; float32 weights of the main graph only. Throws `bad-option` without data, `bad-data`
 * without labels, and as training does.
 */
export async function stepScores(
  model: Model,
  sites: readonly WeightSite[],
  kind: StepScore,
  options: StepScoreOptions,
  context: Context,
): Promise<Map<string, Float32Array>> {
  const { data, seed, journal, signal, threads, provider, onProgress } = context;
  if (!data)
    throw new PareError("bad-option", `The score ${kind} needs labelled samples`, { help: "Name them with --data" });
  const part = Math.min(1, options.samples / data.size);
  const used = part < 1 ? data.subset({ part: [0, part], seed }) : data;
  const own = new Map(
    sites
      .filter(({ graph, tensor }) => graph === model.graph && tensor.dtype === "float32")
      .map(({ value, tensor }) => [value.name, tensor]),
  );
  const training: TrainOptions = {
    epochs: 1,
    batch: BATCH[kind],
    learningRate: kind === "movement" ? options.learningRate : 0,
    momentum: kind === "movement" ? 0.9 : 0,
    loss: used.labels === "values" ? "mse" : "cross-entropy",
    maskThreshold: 0,
    movements: true,
    frozen: kind === "snip" ? (name) => !own.has(name) : undefined,
    seed,
    threads,
    provider,
    signal,
  };
  checkTrainOptions(training, used);
  const { openSession } = await engine();
  const stepper = await Stepper.open(inOpset(model, TRAINING_OPSET), used, training, openSession);
  try {
    const { stepsPerEpoch: steps, graph, resident } = stepper;
    const order = stepper.order(0);
    for (let step = 0; step < steps; step++) {
      throwIfAborted(signal);
      onProgress({ stage: kind, done: step, total: steps });
      const rate = (training.learningRate ?? 0) * (1 - step / steps);
      await stepper.step(await stepper.prepare(step, order), step, rate);
    }
    const states = [...graph.movements].filter(([name]) => own.has(name));
    const read = await resident.read(states.map(([, state]) => state));
    const scores = new Map(states.map(([name, state]) => [name, read[state]?.data as Float32Array]));
    journal.note(`Scores by ${kind} from ${steps} steps on ${steps * stepper.batch} samples of ${data.name}.`);
    if (kind === "snip") return new Map([...scores].map(([name, sums]) => [name, sums.map(Math.abs)]));
    let [least, most] = [0, 0];
    for (const sums of scores.values())
      for (const sum of sums) [least, most] = [Math.min(least, sum), Math.max(most, sum)];
    const origin = least - ABOVE_ZERO * (most - least);
    for (const [name, sums] of scores) {
      const weights = (await own.get(name)?.data()) as Float32Array;
      scores.set(
        name,
        sums.map((sum, i) => (weights[i] === 0 ? 0 : sum - origin)),
      );
    }
    return scores;
  } finally {
    await stepper.close();
  }
}
