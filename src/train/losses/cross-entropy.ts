/** Cross-entropy and Kullback-Leibler divergence of class scores with labels. */
import { z } from "zod";
import { PareError } from "../../base/error.ts";
import { elementCount } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import {
  add,
  div,
  indicator,
  mul,
  neg,
  reduceMean,
  reduceSum,
  reshape,
  scalar,
  scale,
  sub,
} from "../../ops/gradients/words.ts";
import { defineLoss, type Loss, type LossSite, sameShapes, shapeOf } from "./loss.ts";
import { log, logSoftmax, max, plus, rowsOf, total } from "./words.ts";

/** Label of positions that a sequence's loss leaves out. */
export const IGNORED = -100;

const options = z.object({
  labelSmoothing: z.number().min(0).max(1).default(0).describe("share of the target spread over all classes"),
  classWeights: z.array(z.number().min(0)).optional().describe("weight of each class"),
  ignoreIndex: z
    .int()
    .optional()
    .describe(`label that is left out (default: ${IGNORED} where a sample has several labels, else none)`),
});
type Options = z.output<typeof options>;

/**
 * Scores (…, k) with class indices (…): L = −Σ w_t·ln softmax(x)_t / Σ w_t over the rows that count. With label smoothing ε
 * the target is (1 − ε)·onehot(t) + ε/k (Szegedy et al. 2016). With soft labels (…, k): L = −(1/rows)Σ w·t·ln softmax(x).
 */
export const crossEntropy: Loss = defineLoss({
  name: "cross-entropy",
  summary: "class scores against class indices, one per sample or per position of a sequence, or soft labels",
  target: "indices",
  reads: "scores",
  options,
  build(s, student, target, chosen) {
    const shape = shapeOf(student, "cross-entropy");
    const classes = shape.at(-1) ?? 1;
    if (chosen.classWeights && chosen.classWeights.length !== classes)
      throw new PareError("bad-option", "There must be one weight per class", {
        where: "classWeights",
        found: String(chosen.classWeights.length),
        expected: String(classes),
      });
    const weights =
      chosen.classWeights && s.b.constant("class_weights", Tensor.float32([classes], chosen.classWeights));
    const x = rowsOf(s, student, shape);
    if (target.dtype === "int64") {
      const t = (target.shape?.length ?? 1) === 1 ? target : reshape(s, target, [-1]);
      return withIndices(s, x, t, weights, { ...chosen, classes, sequence: shape.length > 2 });
    }
    return withSoftLabels(s, x, rowsOf(s, target, shape), weights, chosen.labelSmoothing, shape);
  },
});

function withIndices(
  s: LossSite,
  x: Value,
  t: Value,
  weights: Value | undefined,
  { labelSmoothing, ignoreIndex, classes, sequence }: Options & { classes: number; sequence: boolean },
): Value {
  const ignored = ignoreIndex ?? (sequence ? IGNORED : undefined);
  const attributes = { reduction: "mean", ignore_index: ignored };
  const inputs = weights ? [x, t, weights] : [x, t];
  const [loss, logP] = s.b.ops("SoftmaxCrossEntropyLoss", inputs, { attributes, outputs: 2 }) as [Value, Value];
  if (labelSmoothing === 0) return loss;
  // −(1/k)Σ_c w_c·ln p_c of each row, averaged as the rows are
  const perRow = neg(
    s,
    scale(s, reduceSum(s, weights ? mul(s, logP, weights) : logP, [1], false), 1 / classes, "float32"),
  );
  let uniform: Value;
  if (ignored === undefined && !weights) uniform = reduceMean(s, perRow, [0], false);
  else {
    let share: Value | undefined;
    let safe = t;
    if (ignored !== undefined) {
      const skip = s.b.op("Equal", [t, s.b.constant("ignored", Tensor.int64([ignored], []))]);
      safe = s.b.op("Where", [skip, s.b.constant("class", Tensor.int64([0], [])), t]);
      share = indicator(s, s.b.op("Not", [skip]), "float32");
    }
    const own = weights && s.b.op("Gather", [weights, safe], { attributes: { axis: 0 } });
    const counted = share ? mul(s, perRow, share) : perRow;
    const size = own && share ? mul(s, own, share) : ((own ?? share) as Value);
    uniform = div(s, reduceSum(s, counted, [0], false), reduceSum(s, size, [0], false));
  }
  return add(s, scale(s, loss, 1 - labelSmoothing, "float32"), scale(s, uniform, labelSmoothing, "float32"));
}

function withSoftLabels(
  s: LossSite,
  x: Value,
  soft: Value,
  weights: Value | undefined,
  labelSmoothing: number,
  shape: readonly number[],
): Value {
  const classes = shape.at(-1) ?? 1;
  const rows = elementCount(shape) / classes;
  const t = plus(s, scale(s, soft, 1 - labelSmoothing, "float32"), labelSmoothing / classes);
  const logP = logSoftmax(s, x);
  return total(s, mul(s, t, weights ? mul(s, logP, weights) : logP), [rows, classes], -rows);
}

/** L = (1/rows)Σ t·(ln t − ln softmax(x)) for target probabilities t; 0·ln 0 counts as 0. */
export const kullbackLeibler: Loss = defineLoss({
  name: "kl",
  summary: "class scores against probabilities of the classes",
  target: "values",
  reads: "scores",
  options: z.object({}),
  build(s, student, target) {
    const shape = sameShapes(student, target, "kl");
    const logT = log(s, max(s, target, scalar(s, "float32", 1e-30)));
    const terms = mul(s, target, sub(s, logT, logSoftmax(s, student)));
    return total(s, terms, shape, elementCount(shape) / (shape.at(-1) ?? 1));
  },
});
