/** The learning-rate finder: the loss while the rate rises from very small to too large. */
import { PareError, throwIfAborted } from "../base/error.ts";
import type { Dataset } from "../data/dataset.ts";
import type { Model } from "../ir/model.ts";
import type { OpenSession } from "./evaluator.ts";
import { Stepper } from "./stepper.ts";
import { checkTrainOptions, type TrainOptions } from "./train-options.ts";

export interface RatePoint {
  readonly rate: number;
  /** Loss of the step. */
  readonly loss: number;
  /** Moving average of the losses so far. */
  readonly smoothed: number;
}

export interface FoundRate {
  readonly points: readonly RatePoint[];
  /** A tenth of the rate of the lowest smoothed loss: a safe highest rate of a schedule. */
  readonly suggestion: number;
  /** Where the smoothed loss falls fastest per decade. */
  readonly steepest: number;
  readonly lowest: number;
}

export interface RateRange {
  /** Default 1e-6 and 10. */
  readonly from?: number | undefined;
  readonly to?: number | undefined;
  /** Steps between them; default 100. */
  readonly steps?: number | undefined;
}

const SMOOTHING = 0.9; // share of the old average per step
const DIVERGED = 4; // times the lowest smoothed loss, from which on training is taken to diverge

/**
 * Trains for one step at each of a geometric series of rates (Smith 2017) and says at which the loss falls. The model is not
 * changed. Throws as {@link trainModel}, and `unsupported` where the loss never falls.
 */
export async function findLearningRate(
  model: Model,
  dataset: Dataset,
  options: TrainOptions & RateRange,
  open: OpenSession,
): Promise<FoundRate> {
  checkTrainOptions(options, dataset);
  const { from = 1e-6, to = 10, steps = 100 } = options;
  const stepper = await Stepper.open(model, dataset, options, open);
  try {
    const points: RatePoint[] = [];
    let [average, best] = [0, Number.POSITIVE_INFINITY];
    let order = stepper.order(0);
    for (let step = 0; step < steps; step++) {
      throwIfAborted(options.signal);
      if (step > 0 && step % stepper.stepsPerEpoch === 0) order = stepper.order(step / stepper.stepsPerEpoch);
      const rate = from * (to / from) ** (step / Math.max(1, steps - 1));
      const loss = await stepper.step(await stepper.prepare(step, order), step, rate);
      if (!Number.isFinite(loss)) break;
      average = SMOOTHING * average + (1 - SMOOTHING) * loss;
      const smoothed = average / (1 - SMOOTHING ** (step + 1));
      points.push({ rate, loss, smoothed });
      best = Math.min(best, smoothed);
      options.onProgress?.({ stage: "finding the learning rate", done: step + 1, total: steps, secondsLeft: 0, loss });
      if (smoothed > DIVERGED * best) break;
    }
    return judge(points);
  } finally {
    await stepper.close();
  }
}

function judge(points: readonly RatePoint[]): FoundRate {
  const lowest = points.reduce((a, b) => (b.smoothed < a.smoothed ? b : a), points[0] as RatePoint);
  const first = points[0];
  if (!first || !(lowest.smoothed < first.smoothed))
    throw new PareError("unsupported", "No learning rate lowers the loss", {
      found: first
        ? `loss ${first.loss.toPrecision(3)} at rate ${first.rate.toPrecision(2)}`
        : "a loss that is not a number",
      help: "Check the labels and the scale of the samples",
    });
  let steepest = first;
  let fall = 0;
  for (const [i, point] of points.entries()) {
    const before = points[i - 1];
    if (!before || point.rate > lowest.rate) continue;
    const slope = (point.smoothed - before.smoothed) / Math.log10(point.rate / before.rate);
    if (slope < fall) [fall, steepest] = [slope, point];
  }
  return { points, suggestion: lowest.rate / 10, steepest: steepest.rate, lowest: lowest.rate };
}
