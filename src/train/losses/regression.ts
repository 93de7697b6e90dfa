/** Losses of real-valued predictions, averaged over all elements. */
import { z } from "zod";
import { sub } from "../../ops/gradients/words.ts";
import { defineLoss, type Loss, sameShapes } from "./loss.ts";
import { abs, huber, mean, square } from "./words.ts";

/** L = (1/n)Σ (x − t)². */
export const meanSquaredError: Loss = defineLoss({
  name: "mse",
  summary: "mean squared error",
  target: "values",
  reads: "output",
  options: z.object({}),
  build(s, student, target) {
    const shape = sameShapes(student, target, "mse");
    return mean(s, square(s, sub(s, student, target)), shape);
  },
});

/** L = (1/n)Σ |x − t|. */
export const meanAbsoluteError: Loss = defineLoss({
  name: "mae",
  summary: "mean absolute error",
  target: "values",
  reads: "output",
  options: z.object({}),
  build(s, student, target) {
    const shape = sameShapes(student, target, "mae");
    return mean(s, abs(s, sub(s, student, target)), shape);
  },
});

/** L = (1/n)Σ h(x − t), h(d) = ½d² up to δ, δ(|d| − ½δ) beyond (Huber 1964). */
export const huberLoss: Loss = defineLoss({
  name: "huber",
  summary: "squared error of small differences, absolute error of large ones",
  target: "values",
  reads: "output",
  options: z.object({
    delta: z.number().positive().default(1).describe("difference from which on the loss grows linearly"),
  }),
  build(s, student, target, { delta }) {
    const shape = sameShapes(student, target, "huber");
    return mean(s, huber(s, sub(s, student, target), delta), shape);
  },
});
