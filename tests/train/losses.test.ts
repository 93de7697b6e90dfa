/** Losses on the graph against plain formulas, and their gradients against central differences of those formulas. */
import { describe, expect, test } from "vitest";
import { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { checkTerm, LOSS_TABLE, type LossTerm } from "../../src/train/losses/table.ts";
import { alignmentLoss } from "../../src/train/scoring.ts";
import { type GradientCase, gradientError } from "./gradient-check.ts";

type Numbers = readonly number[];

/** One loss on values of these shapes; targets are fixed. */
interface LossCase {
  readonly name: string;
  readonly term: LossTerm;
  readonly shape: Numbers;
  readonly target: { readonly ints?: Numbers; readonly values?: Numbers; readonly shape: Numbers };
  reference(x: Float64Array, target: Numbers): number;
}

const sum = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0);
const mean = (values: Numbers): number => sum(values) / values.length;
const rows = (x: ArrayLike<number>, width: number): number[][] =>
  Array.from({ length: x.length / width }, (_, i) => Array.from({ length: width }, (_, j) => x[i * width + j] ?? 0));
const logSoftmax = (row: Numbers): number[] => {
  const top = Math.max(...row);
  const total = Math.log(sum(row.map((x) => Math.exp(x - top))));
  return row.map((x) => x - top - total);
};
const huber = (d: number, delta = 1): number =>
  Math.abs(d) <= delta ? 0.5 * d * d : delta * (Math.abs(d) - 0.5 * delta);
const at = (row: Numbers | undefined, i: number): number => row?.[i] ?? Number.NaN;
/** Fixed numbers that look random, in −1..1. */
const drawn = (count: number, phase = 1): number[] =>
  Array.from({ length: count }, (_, i) => Math.fround(Math.sin(12.9898 * (i + phase) + 4.1 * phase)));

/** −Σ w·ln p_t/Σ w over rows whose label counts, mixed with the uniform target. */
function crossEntropy(
  x: ArrayLike<number>,
  labels: Numbers,
  k: number,
  smoothing = 0,
  weights?: Numbers,
  ignored = -100,
) {
  let [own, uniform, total] = [0, 0, 0];
  for (const [i, row] of rows(x, k).entries()) {
    const label = at(labels, i);
    if (label === ignored) continue;
    const logP = logSoftmax(row);
    const w = weights ? at(weights, label) : 1;
    own -= w * at(logP, label);
    uniform -= sum(logP.map((p, c) => (weights ? at(weights, c) : 1) * p)) / k;
    total += w;
  }
  return ((1 - smoothing) * own + smoothing * uniform) / total;
}

const soft = rows(drawn(12).map(Math.abs), 4).map((row) => row.map((v) => v / sum(row)));

const kl = (p: Numbers, q: Numbers): number => sum(p.map((v, i) => Math.exp(v) * (v - at(q, i))));

function distances(x: ArrayLike<number>, width: number): number[][] {
  const points = rows(x, width);
  const d = points.map((a) => points.map((b) => Math.sqrt(sum(a.map((v, i) => (v - at(b, i)) ** 2)))));
  const n = points.length;
  const mu = sum(d.flat()) / (n * (n - 1));
  return d.map((row) => row.map((v) => v / mu));
}

function angles(x: ArrayLike<number>, width: number): number[] {
  const points = rows(x, width);
  return points.flatMap((a) => {
    const e = points.map((b) => {
      const difference = b.map((v, i) => v - at(a, i));
      const size = Math.sqrt(Math.max(1e-12, sum(difference.map((v) => v * v))));
      return difference.map((v) => v / size);
    });
    return e.flatMap((u) => e.map((v) => sum(u.map((w, i) => w * at(v, i)))));
  });
}

function attention(x: ArrayLike<number>, n: number, channels: number, places: number): number[] {
  return Array.from({ length: n }, (_, k) => {
    const q = Array.from({ length: places }, (_, p) =>
      sum(Array.from({ length: channels }, (_, c) => (x[(k * channels + c) * places + p] ?? 0) ** 2)),
    );
    const size = Math.sqrt(sum(q.map((v) => v * v)));
    return q.map((v) => v / size);
  }).flat();
}

const CASES: readonly LossCase[] = [
  {
    name: "cross-entropy",
    term: { kind: "cross-entropy" },
    shape: [3, 4],
    target: { ints: [1, 0, 3], shape: [3] },
    reference: (x, t) => crossEntropy(x, t, 4),
  },
  {
    name: "cross-entropy with smoothing and class weights",
    term: { kind: "cross-entropy", labelSmoothing: 0.2, classWeights: [1, 2, 0.5, 1.5] },
    shape: [3, 4],
    target: { ints: [1, 0, 3], shape: [3] },
    reference: (x, t) => crossEntropy(x, t, 4, 0.2, [1, 2, 0.5, 1.5]),
  },
  {
    name: "cross-entropy of tokens, padding left out, smoothed",
    term: { kind: "cross-entropy", labelSmoothing: 0.1 },
    shape: [2, 3, 4],
    target: { ints: [1, 0, -100, 2, -100, 3], shape: [2, 3] },
    reference: (x, t) => crossEntropy(x, t, 4, 0.1),
  },
  {
    name: "cross-entropy with an ignored class and weights",
    term: { kind: "cross-entropy", ignoreIndex: 2, classWeights: [1, 2, 0.5, 1.5], labelSmoothing: 0.3 },
    shape: [4, 4],
    target: { ints: [1, 2, 3, 0], shape: [4] },
    reference: (x, t) => crossEntropy(x, t, 4, 0.3, [1, 2, 0.5, 1.5], 2),
  },
  {
    name: "cross-entropy of soft labels",
    term: { kind: "cross-entropy", labelSmoothing: 0.1 },
    shape: [3, 4],
    target: { values: soft.flat(), shape: [3, 4] },
    reference: (x, t) =>
      mean(rows(x, 4).map((row, i) => -sum(logSoftmax(row).map((p, c) => (0.9 * at(t, i * 4 + c) + 0.025) * p)))),
  },
  {
    name: "kl",
    term: { kind: "kl" },
    shape: [3, 4],
    target: { values: [...soft.flat().slice(0, 8), 0, 1, 0, 0], shape: [3, 4] },
    reference: (x, t) =>
      mean(
        rows(x, 4).map((row, i) =>
          sum(
            logSoftmax(row).map((q, c) =>
              at(t, i * 4 + c) > 0 ? at(t, i * 4 + c) * (Math.log(at(t, i * 4 + c)) - q) : 0,
            ),
          ),
        ),
      ),
  },
  {
    name: "mse",
    term: { kind: "mse" },
    shape: [3, 2],
    target: { values: drawn(6, 2), shape: [3, 2] },
    reference: (x, t) => mean([...x].map((v, i) => (v - at(t, i)) ** 2)),
  },
  {
    name: "mae",
    term: { kind: "mae" },
    shape: [3, 2],
    target: { values: drawn(6, 2), shape: [3, 2] },
    reference: (x, t) => mean([...x].map((v, i) => Math.abs(v - at(t, i)))),
  },
  {
    name: "huber",
    term: { kind: "huber", delta: 0.4 },
    shape: [3, 2],
    target: { values: drawn(6, 2), shape: [3, 2] },
    reference: (x, t) => mean([...x].map((v, i) => huber(v - at(t, i), 0.4))),
  },
  {
    name: "bce",
    term: { kind: "bce" },
    shape: [3, 2],
    target: { values: [1, 0, 0.3, 1, 0, 0], shape: [3, 2] },
    reference: (x, t) => mean([...x].map((v, i) => Math.log1p(Math.exp(v)) - at(t, i) * v)),
  },
  {
    name: "bce with a positive weight",
    term: { kind: "bce", positiveWeight: 3 },
    shape: [3, 2],
    target: { values: [1, 0, 0.3, 1, 0, 0], shape: [3, 2] },
    reference: (x, t) =>
      mean([...x].map((v, i) => 3 * at(t, i) * Math.log1p(Math.exp(-v)) + (1 - at(t, i)) * Math.log1p(Math.exp(v)))),
  },
  {
    name: "ctc",
    term: { kind: "ctc" },
    shape: [3, 5, 4],
    target: { ints: [1, 1, 3, 2, -1, -1, -1, -1, -1], shape: [3, 3] },
    reference: (x, t) =>
      mean(
        rows(x, 20).map((sample, i) => {
          const label = t.slice(3 * i, 3 * i + 3).filter((c) => c >= 0);
          return -Math.log(everyPath(rows(sample, 4).map(logSoftmax), label));
        }),
      ),
  },
  {
    name: "soft-logits",
    term: { kind: "soft-logits", temperature: 3 },
    shape: [3, 4],
    target: { values: drawn(12, 3), shape: [3, 4] },
    reference: (x, t) => {
      const soften = (values: Numbers): number[][] =>
        rows(
          values.map((v) => v / 3),
          4,
        ).map(logSoftmax);
      const [q, p] = [soften([...x]), soften(t)];
      return 9 * mean(p.map((row, i) => kl(row, q[i] ?? [])));
    },
  },
  {
    name: "hidden",
    term: { kind: "hidden", student: "x" },
    shape: [2, 3, 2],
    target: { values: drawn(12, 3), shape: [2, 3, 2] },
    reference: (x, t) => mean([...x].map((v, i) => (v - at(t, i)) ** 2)),
  },
  {
    name: "attention-transfer",
    term: { kind: "attention-transfer", student: "x" },
    shape: [2, 3, 2, 2],
    target: { values: drawn(40, 3), shape: [2, 5, 2, 2] },
    reference: (x, t) => {
      const [a, b] = [attention(x, 2, 3, 4), attention(t, 2, 5, 4)];
      return sum(a.map((v, i) => (v - at(b, i)) ** 2)) / 2;
    },
  },
  {
    name: "attention-maps of other numbers of heads",
    term: { kind: "attention-maps", student: "x" },
    shape: [2, 2, 2, 3],
    target: { values: drawn(48, 3), shape: [2, 4, 2, 3] },
    reference: (x, t) => {
      const heads = (values: ArrayLike<number>, count: number): number[] =>
        rows(values, count * 6).flatMap((sample) =>
          Array.from({ length: 6 }, (_, p) => mean(Array.from({ length: count }, (_, h) => at(sample, h * 6 + p)))),
        );
      const [a, b] = [heads(x, 2), heads(t, 4)];
      return mean(a.map((v, i) => (v - at(b, i)) ** 2));
    },
  },
  {
    name: "relation-distance",
    term: { kind: "relation-distance" },
    shape: [4, 3],
    target: { values: drawn(20, 3), shape: [4, 5] },
    reference: (x, t) => {
      const [a, b] = [distances(x, 3).flat(), distances(t, 5).flat()];
      return mean(a.map((v, i) => huber(v - at(b, i))));
    },
  },
  {
    name: "relation-angle",
    term: { kind: "relation-angle" },
    shape: [4, 3],
    target: { values: drawn(20, 3), shape: [4, 5] },
    reference: (x, t) => {
      const [a, b] = [angles(x, 3), angles(t, 5)];
      return mean(a.map((v, i) => huber(v - at(b, i))));
    },
  },
];

/** The probability of a label: the sum over every path, one by one, of those that read as it. */
function everyPath(logP: readonly Numbers[], label: Numbers): number {
  const classes = logP[0]?.length ?? 0;
  let total = 0;
  for (let code = 0; code < classes ** logP.length; code++) {
    const path = logP.map((_, t) => Math.floor(code / classes ** t) % classes);
    const read = path.filter((c, t) => c !== 0 && c !== path[t - 1]);
    if (read.join() === label.join()) total += Math.exp(sum(path.map((c, t) => at(logP[t], c))));
  }
  return total;
}

function build({ term, target }: LossCase): GradientCase["build"] {
  return (b: Builder, [x, t]) => {
    const { loss, options } = checkTerm(term);
    const own = target.ints ? x : t; // a target of integers is a constant of the graph
    const labels = target.ints ? b.constant("labels", Tensor.int64([...target.ints], target.shape)) : (own as Value);
    const site = { b, opset: 21, parameter: (name: string, initial: Tensor) => b.constant(name, initial) };
    return loss.build(site, x as Value, labels, options);
  };
}

function gradientCase(each: LossCase): GradientCase {
  const { values, shape } = each.target;
  return {
    name: each.name,
    inputs: [{ shape: each.shape }, ...(values ? [{ shape, values, wanted: false }] : [])],
    build: build(each),
    reference: ([x]) => Float64Array.of(each.reference(x as Float64Array, (values ?? each.target.ints) as Numbers)),
  };
}

/** float32 sums of exponentials against a difference in double precision. */
const TOLERANCE = 5e-4;

describe("losses", () => {
  for (const each of CASES)
    test(each.name, async () => {
      const x = drawn(
        each.shape.reduce((n, size) => n * size, 1),
        7,
      );
      const model = new Model(undefined, 21, 10);
      const b = new Builder(model.graph);
      const inputs = [b.input("x", "float32", each.shape)];
      if (each.target.values) inputs.push(b.constant("t", Tensor.float32(each.target.shape, each.target.values)));
      b.output(build(each)(b, inputs), "loss");
      inferShapes(model);
      const session = await openSession(model, { inProcess: true, threads: 1 });
      const { loss } = await session.run({ x: { dtype: "float32", shape: each.shape, data: Float32Array.from(x) } });
      await session.close();
      const expected = each.reference(Float64Array.from(x), each.target.values ?? each.target.ints ?? []);
      const found = (loss?.data as Float32Array | undefined)?.[0] ?? Number.NaN;
      expect(Math.abs(found - expected)).toBeLessThan(1e-5 * Math.max(1, Math.abs(expected)));
      expect(await gradientError(gradientCase(each))).toBeLessThan(TOLERANCE);
    });

  test("every loss has a case", () => {
    const tested = new Set<string>(CASES.map(({ term }) => term.kind));
    expect([...LOSS_TABLE.keys()].filter((name) => !tested.has(name))).toEqual([]);
  });

  test("a wrong gradient is caught: the negative control", async () => {
    for (const each of CASES.slice(0, 3)) {
      const corrupt = (gradient: number[]): void => {
        gradient[0] = (gradient[0] ?? 0) + 0.01;
      };
      expect(await gradientError(gradientCase(each), { corrupt })).toBeGreaterThan(TOLERANCE);
    }
  });

  test("the forward variables of ctc sum over every path", () => {
    const logP = rows(drawn(20, 9), 4).map(logSoftmax);
    for (const label of [[1], [2, 2], [1, 2, 3], []])
      expect(
        alignmentLoss(
          logP.map((row) => Float64Array.from(row)),
          label,
        ),
      ).toBeCloseTo(-Math.log(everyPath(logP, label)), 10);
  });
});

describe("terms", () => {
  test("unknown names and options say what there is", () => {
    expect(() => checkTerm({ kind: "soft-logit" as "soft-logits" })).toThrow("soft-logits");
    expect(() => checkTerm({ kind: "mse", temperature: 2 })).toThrow(/temperature/);
    expect(() => checkTerm({ kind: "hidden" })).toThrow("needs the name of a value");
    expect(() => checkTerm({ kind: "mse", teacher: "x" })).toThrow("not with a teacher");
  });
});
