/** Relational distillation: distances and angles between the samples of a batch, against the teacher's (Park et al. 2019). */
import { z } from "zod";
import { PareError } from "../../base/error.ts";
import { elementCount, formatShape } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import { div, mul, reduceSum, reshape, scalar, scale, sub, transpose, unsqueeze } from "../../ops/gradients/words.ts";
import { defineLoss, type Loss, type LossSite, shapeOf } from "./loss.ts";
import { huber, matmul, max, mean, square, total, unit } from "./words.ts";

/** Each sample as one row, and the number of samples. */
function rows(s: LossSite, x: Value, loss: string): { x: Value; n: number; width: number } {
  const shape = shapeOf(x, loss);
  const [n = 1] = shape;
  const width = elementCount(shape.slice(1));
  if (n < 2)
    throw new PareError("unsupported", `The loss ${loss} compares the samples of a batch`, {
      where: `'${x.name}'`,
      found: formatShape(shape),
      help: "Train with a batch of two or more",
    });
  return { x: shape.length === 2 ? x : reshape(s, x, [n, width]), n, width };
}

/**
 * ψ_ij = ‖x_i − x_j‖/μ with μ the mean over i ≠ j; L = (1/n²)Σ huber(ψ_student − ψ_teacher). Widths may differ.
 */
export const relationDistance: Loss = defineLoss({
  name: "relation-distance",
  summary: "distances between the samples of a batch, against the teacher's",
  target: "teacher",
  reads: "output",
  options: z.object({}),
  build(s, student, teacher) {
    const [a, b] = [rows(s, student, "relation-distance"), rows(s, teacher, "relation-distance")];
    const { n } = a;
    return mean(s, huber(s, sub(s, distances(s, a.x, n), distances(s, b.x, n)), 1), [n, n]);
  },
});

// ‖x_i − x_j‖² = ‖x_i‖² + ‖x_j‖² − 2·x_i·x_j
function distances(s: LossSite, x: Value, n: number): Value {
  const squares = reduceSum(s, square(s, x), [1], true); // (n, 1)
  const sums = s.b.op("Add", [squares, transpose(s, squares, [1, 0])]);
  const d2 = sub(s, sums, scale(s, matmul(s, x, transpose(s, x, [1, 0])), 2, "float32"));
  const others = Float32Array.from({ length: n * n }, (_, i) => (i % n === Math.floor(i / n) ? 0 : 1));
  const root = s.b.op("Sqrt", [max(s, d2, scalar(s, "float32", 1e-12))]);
  const d = mul(s, root, s.b.constant("others", Tensor.float32([n, n], others)));
  return div(s, d, total(s, d, [n, n], n * (n - 1)));
}

/** cos∠(x_j x_i x_k) of all triples; L = (1/n³)Σ huber(ψ_student − ψ_teacher). The graph holds n³ numbers. */
export const relationAngle: Loss = defineLoss({
  name: "relation-angle",
  summary: "angles between the samples of a batch, against the teacher's",
  target: "teacher",
  reads: "output",
  options: z.object({}),
  build(s, student, teacher) {
    const [a, b] = [rows(s, student, "relation-angle"), rows(s, teacher, "relation-angle")];
    const { n } = a;
    return mean(s, huber(s, sub(s, angles(s, a.x), angles(s, b.x)), 1), [n, n, n]);
  },
});

// e_ij = (x_j − x_i)/‖x_j − x_i‖; ψ_ijk = e_ij·e_ik
function angles(s: LossSite, x: Value): Value {
  const e = unit(s, sub(s, unsqueeze(s, x, [0]), unsqueeze(s, x, [1])), 3); // (n, n, d)
  return matmul(s, e, transpose(s, e, [0, 2, 1]));
}
