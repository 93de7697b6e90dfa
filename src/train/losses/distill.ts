/** Distances to a teacher's outputs, hidden states and attention. */
import { z } from "zod";
import { PareError } from "../../base/error.ts";
import { Rng } from "../../base/rng.ts";
import { elementCount, formatShape } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { mul, reduceMean, reduceSum, reshape, scale, sub, transpose } from "../../ops/gradients/words.ts";
import { defineLoss, type Loss, type LossSite, sameShapes, shapeOf } from "./loss.ts";
import { axesOf, exp, logSoftmax, matmul, mean, square, total, unit } from "./words.ts";

/**
 * L = T²·(1/rows)Σ KL(softmax(z/T) ‖ softmax(x/T)) of the teacher's scores z (Hinton et al. 2015); T² keeps the gradient's
 * size independent of T. The last axis holds the classes.
 */
export const softLogits: Loss = defineLoss({
  name: "soft-logits",
  summary: "class scores against the teacher's, softened by a temperature",
  target: "teacher",
  reads: "scores",
  options: z.object({ temperature: z.number().positive().default(2).describe("divides the scores of both") }),
  build(s, student, teacher, { temperature }) {
    const shape = sameShapes(student, teacher, "soft-logits");
    const logQ = logSoftmax(s, scale(s, student, 1 / temperature, "float32"));
    const logP = logSoftmax(s, scale(s, teacher, 1 / temperature, "float32"));
    const terms = mul(s, exp(s, logP), sub(s, logP, logQ));
    return total(s, terms, shape, elementCount(shape) / (shape.at(-1) ?? 1) / temperature ** 2);
  },
});

/**
 * L = mean (W·h − t)² of hidden states; W is learned with the student where the widths differ (FitNets, Romero et al. 2015;
 * TinyBERT, Jiao et al. 2020) and is not part of the result. The width is axis 1 of maps (n, c, h, w), else the last axis.
 */
export const hiddenStates: Loss = defineLoss({
  name: "hidden",
  summary: "a hidden state against one of the teacher's, through a learned projection where the widths differ",
  target: "teacher",
  reads: "named",
  options: z.object({
    project: z.enum(["auto", "always", "never"]).default("auto").describe("when to learn a projection"),
  }),
  build(s, student, teacher, { project }) {
    const [own, wanted] = [shapeOf(student, "hidden"), shapeOf(teacher, "hidden")];
    const axis = own.length > 3 ? 1 : own.length - 1;
    const fits = own.length === wanted.length && own.every((size, i) => i === axis || size === wanted[i]);
    const wide = own[axis] === wanted[axis];
    if (!fits || (!wide && project === "never"))
      throw new PareError("shape-mismatch", "The hidden states cannot be compared", {
        where: `'${student.name}' and the teacher's '${teacher.name}'`,
        found: `${formatShape(own)} and ${formatShape(wanted)}`,
        expected: wide || project === "never" ? "equal shapes" : `shapes that differ in axis ${axis} alone`,
        help: "Name values of the same place in both networks",
      });
    const matched = project === "always" || !wide ? projected(s, student, own, axis, wanted[axis] ?? 1) : student;
    return mean(s, square(s, sub(s, matched, teacher)), wanted);
  },
});

/** The axis of a value carried to another width by a learned matrix, Glorot's scale at first. */
function projected(s: LossSite, x: Value, shape: readonly number[], axis: number, width: number): Value {
  const from = shape[axis] ?? 1;
  const rng = new Rng(1).fork(`projection ${from} ${width}`);
  const deviation = Math.sqrt(2 / (from + width));
  const data = Float32Array.from({ length: from * width }, () => rng.normal(0, deviation));
  const weight = s.parameter("projection", Tensor.float32([from, width], data));
  if (axis === shape.length - 1) return matmul(s, x, weight);
  // (n, c, h, w) → (n, h, w, c)·W → (n, d, h, w)
  const rest = axesOf(shape.length).slice(2);
  const last = transpose(s, x, [0, ...rest, 1]);
  return transpose(s, matmul(s, last, weight), [0, shape.length - 1, ...axesOf(shape.length - 1).slice(1)]);
}

/**
 * Attention transfer of convolutional maps (n, c, h, w): Q = Σ_c F², flattened and scaled to length 1 per sample;
 * L = (1/n)Σ ‖Q_student − Q_teacher‖² (Zagoruyko and Komodakis 2017). The channels may differ, the map may not.
 */
export const attentionTransfer: Loss = defineLoss({
  name: "attention-transfer",
  summary: "where the channels of a map are active, against the teacher's map",
  target: "teacher",
  reads: "named",
  options: z.object({}),
  build(s, student, teacher) {
    const [own, wanted] = [shapeOf(student, "attention-transfer"), shapeOf(teacher, "attention-transfer")];
    const same = own.length === wanted.length && own.every((size, axis) => axis === 1 || size === wanted[axis]);
    if (!same || own.length < 3)
      throw new PareError("shape-mismatch", "The maps cannot be compared", {
        where: `'${student.name}' and the teacher's '${teacher.name}'`,
        found: `${formatShape(own)} and ${formatShape(wanted)}`,
        expected: "[samples, channels, height, width] with equal heights and widths",
      });
    const n = own[0] ?? 1;
    const places = elementCount(own.slice(2));
    const map = (x: Value): Value => unit(s, reshape(s, reduceSum(s, square(s, x), [1], false), [n, places]), 2);
    return total(s, square(s, sub(s, map(student), map(teacher))), [n, places], n);
  },
});

/**
 * Attention matrices (n, heads, t, t) before or after their softmax: L = mean (A_student − A_teacher)² (TinyBERT). Where the
 * numbers of heads differ, the means over the heads are compared.
 */
export const attentionMaps: Loss = defineLoss({
  name: "attention-maps",
  summary: "attention matrices of a transformer against the teacher's",
  target: "teacher",
  reads: "named",
  options: z.object({}),
  build(s, student, teacher) {
    const [own, wanted] = [shapeOf(student, "attention-maps"), shapeOf(teacher, "attention-maps")];
    if (own.length !== 4 || wanted.length !== 4 || own[1] === wanted[1]) {
      const shape = sameShapes(student, teacher, "attention-maps");
      return mean(s, square(s, sub(s, student, teacher)), shape);
    }
    const [n = 1, , rows = 1, columns = 1] = own;
    if (wanted[0] !== n || wanted[2] !== rows || wanted[3] !== columns) sameShapes(student, teacher, "attention-maps");
    const over = (x: Value): Value => reduceMean(s, x, [1], false);
    return mean(s, square(s, sub(s, over(student), over(teacher))), [n, rows, columns]);
  },
});
