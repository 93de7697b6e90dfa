/** Binary cross-entropy of scores: yes-no questions, one or many per sample. */
import { z } from "zod";
import { mul, neg, scale, sub } from "../../ops/gradients/words.ts";
import { defineLoss, type Loss, sameShapes } from "./loss.ts";
import { mean, plus } from "./words.ts";

/**
 * L = (1/n)Σ ln(1 + eˣ) − t·x for targets t in 0..1, which is −t·ln σ(x) − (1 − t)·ln(1 − σ(x)). With a positive weight w:
 * (1 − t)·x + (1 + (w − 1)·t)·ln(1 + e⁻ˣ).
 */
export const binaryCrossEntropy: Loss = defineLoss({
  name: "bce",
  summary: "binary cross-entropy of scores with labels of the same shape (multi-label classification)",
  target: "values",
  reads: "scores",
  options: z.object({
    positiveWeight: z.number().positive().default(1).describe("weight of labels that are 1"),
  }),
  build(s, student, target, { positiveWeight }) {
    const shape = sameShapes(student, target, "bce");
    const softplus = (x: typeof student): typeof student => s.b.op("Softplus", [x]);
    if (positiveWeight === 1) return mean(s, sub(s, softplus(student), mul(s, target, student)), shape);
    const negative = mul(s, plus(s, neg(s, target), 1), student);
    const weight = plus(s, scale(s, target, positiveWeight - 1, "float32"), 1);
    return mean(s, s.b.op("Add", [negative, mul(s, weight, softplus(neg(s, student)))]), shape);
  },
});
