/** Connectionist temporal classification: sequences of labels without their places in time. */
import { z } from "zod";
import { PareError } from "../../base/error.ts";
import { formatShape } from "../../base/shape.ts";
import type { Value } from "../../ir/graph.ts";
import { Tensor } from "../../ir/tensor.ts";
import {
  add,
  indicator,
  neg,
  reduceSum,
  reshape,
  scalar,
  scale,
  slice,
  sub,
  transpose,
} from "../../ops/gradients/words.ts";
import { defineLoss, type Loss, type LossSite, shapeOf } from "./loss.ts";
import { exp, log, logSoftmax, matmul, max, mean } from "./words.ts";

const NEVER = -1e30; // ln 0 that stays finite in sums

/**
 * L = −(1/n)Σ ln Σ_paths Π_t p_t(path) over the paths of length T that become the labels when repeats and blanks are removed
 * (Graves et al. 2006). Scores (n, T, k), labels (n, l) padded at the end with -1. With z = the labels with blanks between,
 * before and after, the forward variables are α_t(s) = (α_{t−1}(s) + α_{t−1}(s − 1) + [z_s ≠ blank, z_s ≠ z_{s−2}]·α_{t−1}(s − 2))·p_t(z_s),
 * in logarithms, one time step after the other: the graph grows with T. A label that is longer than T has no path; its
 * loss is very large.
 */
export const connectionistTemporal: Loss = defineLoss({
  name: "ctc",
  summary: "scores over time against shorter sequences of labels, padded with -1",
  target: "sequences",
  reads: "scores",
  options: z.object({ blank: z.int().min(0).default(0).describe("class that stands for no label") }),
  build(s, student, target, { blank }) {
    const shape = shapeOf(student, "ctc");
    const [n = 0, steps = 0, classes = 0] = shape;
    const length = shapeOf(target, "ctc")[1] ?? 0;
    if (shape.length !== 3 || blank >= classes)
      throw new PareError("shape-mismatch", "The loss ctc needs scores per sample, time and class", {
        where: `'${student.name}'`,
        found: formatShape(shape),
        expected: `[samples, time, classes], the blank ${blank} among the classes`,
      });
    const places = 2 * length + 1;
    const { extended, skips, ends } = extend(s, target, { n, length, blank });
    const hot = s.b.op("OneHot", [extended, int(s, [classes]), s.b.constant("off_on", Tensor.float32([2], [0, 1]))], {
      attributes: { axis: -1 },
    }); // (n, places, k)
    const emitted = matmul(s, logSoftmax(s, student), transpose(s, hot, [0, 2, 1])); // (n, T, places)
    const at = (t: number): Value => reshape(s, slice(s, emitted, [1], [t], [t + 1]), [n, places]);
    const never = (columns: number): Value =>
      s.b.constant("never", Tensor.float32([n, columns], new Float32Array(n * columns).fill(NEVER)));
    const shifted = (x: Value, by: number): Value =>
      by >= places
        ? never(places)
        : s.b.op("Concat", [never(by), slice(s, x, [1], [0], [places - by])], { attributes: { axis: 1 } });
    // At first a path is at the first blank or at the first label.
    const start = Float32Array.from({ length: n * places }, (_, i) => (i % places < 2 ? 0 : NEVER));
    let alpha = add(s, at(0), s.b.constant("start", Tensor.float32([n, places], start)));
    for (let t = 1; t < steps; t++) {
      const jumped = add(s, shifted(alpha, 2), skips);
      alpha = add(s, logSumExp(s, [alpha, shifted(alpha, 1), jumped]), at(t));
    }
    // A path ends at the last label or at the blank after it.
    const finished = add(s, alpha, ends);
    const columns = Array.from({ length: places }, (_, i) => slice(s, finished, [1], [i], [i + 1]));
    return neg(s, mean(s, logSumExp(s, columns), [n, 1]));
  },
});

function int(s: LossSite, values: readonly number[]): Value {
  return s.b.constant("classes", Tensor.int64(values));
}

/** z (n, places) as indices; 0 where α may jump over a blank and {@link NEVER} elsewhere; the same for the last places. */
function extend(
  s: LossSite,
  labels: Value,
  { n, length, blank }: { n: number; length: number; blank: number },
): { extended: Value; skips: Value; ends: Value } {
  const places = 2 * length + 1;
  const whole = (value: number): Value => s.b.constant("label", Tensor.int64([value], []));
  const present = s.b.op("Not", [s.b.op("Less", [labels, whole(0)])]);
  const safe = s.b.op("Where", [present, labels, whole(blank)]);
  const blanks = (columns: number): Value =>
    s.b.constant(
      "blanks",
      Tensor.int64(
        Array.from({ length: n * columns }, () => blank),
        [n, columns],
      ),
    );
  const column = (i: number): Value => slice(s, safe, [1], [i], [i + 1]);
  const parts = Array.from({ length }, (_, i) => [blanks(1), column(i)]).flat();
  const extended = s.b.op("Concat", [...parts, blanks(1)], { attributes: { axis: 1 } });
  const before = s.b.op("Concat", [blanks(2), slice(s, extended, [1], [0], [places - 2])], { attributes: { axis: 1 } });
  const may = s.b.op("And", [
    s.b.op("Not", [s.b.op("Equal", [extended, whole(blank)])]),
    s.b.op("Not", [s.b.op("Equal", [extended, before])]),
  ]);
  const penalty = (allowed: Value): Value =>
    scale(s, sub(s, scalar(s, "float32", 1), indicator(s, allowed, "float32")), NEVER, "float32");
  const count = reduceSum(s, s.b.op("Cast", [present], { attributes: { to: 7 } }), [1], true); // (n, 1)
  const last = s.b.op("Add", [count, count]);
  const place = s.b.constant(
    "places",
    Tensor.int64(
      Array.from({ length: places }, (_, i) => i),
      [1, places],
    ),
  );
  const ending = s.b.op("Or", [
    s.b.op("Equal", [place, last]),
    s.b.op("Equal", [place, s.b.op("Sub", [last, whole(1)])]),
  ]);
  return { extended, skips: penalty(may), ends: penalty(ending) };
}

/** ln Σ eˣ of values of one shape: m + ln Σ e^(x − m), m the largest. */
function logSumExp(s: LossSite, values: readonly Value[]): Value {
  const top = values.reduce((a, b) => max(s, a, b));
  const terms = values.map((value) => exp(s, sub(s, value, top)));
  return add(s, top, log(s, s.b.op("Sum", terms)));
}
