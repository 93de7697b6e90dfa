import { describe, expect, it } from "vitest";
import { ClassCollector, ValueCollector, chooseOutput } from "../../src/evaluate/collect.ts";
import { METRICS, metricsFor } from "../../src/evaluate/metrics/table.ts";
import type { Score } from "../../src/evaluate/metrics/metric.ts";
import { areProbabilities, argmax, divergence, negativeLogLikelihood, rankOf } from "../../src/evaluate/rows.ts";
import type { NdArray } from "../../src/run/session.ts";

const scores = (shape: number[], values: number[]): NdArray => ({
  dtype: "float32",
  shape,
  data: Float32Array.from(values),
});
const labels = (values: number[], shape = [values.length]): NdArray => ({
  dtype: "int64",
  shape,
  data: BigInt64Array.from(values, BigInt),
});
const score = (name: string, rows: Parameters<(typeof METRICS)[number]["score"]>[0]): Score | undefined =>
  METRICS.find((metric) => metric.name === name)?.score(rows);

/** Four samples of three classes: hits at 0 and 2. */
function collected(): ClassCollector {
  const collector = new ClassCollector("classes", "y");
  collector.add(scores([2, 3], [2, 1, 0, 3, 1, 0]), labels([0, 2]), 2);
  collector.add(scores([2, 3], [0, 5, 1, 0, 1, 2]), labels([1, 1]), 2);
  return collector;
}

describe("class metrics", () => {
  it("count hits and give Wilson's interval", () => {
    const accuracy = score("accuracy", collected().rows());
    expect(accuracy).toMatchObject({ value: 0.5, samples: 4 });
    // Wilson 1927 for 2 of 4.
    expect(accuracy?.low).toBeCloseTo(0.15, 2);
    expect(accuracy?.high).toBeCloseTo(0.85, 2);
  });

  it("average F1 over classes", () => {
    // Class 0: TP 1, FP 1, FN 0 → 2/3; class 1: TP 1, FP 0, FN 1 → 2/3; class 2: 0.
    expect(score("f1", collected().rows())?.value).toBeCloseTo(4 / 9, 10);
  });

  it("take the cross-entropy of logits and of probabilities alike", () => {
    const logits = [2, 1, 0];
    const sum = Math.exp(2) + Math.exp(1) + 1;
    const probabilities = logits.map((logit) => Math.exp(logit) / sum);
    const losses = [logits, probabilities].map((values) => {
      const collector = new ClassCollector("classes", "y");
      collector.add(scores([1, 3], values), labels([1]), 1);
      expect(collector.probabilities).toBe(values === probabilities);
      return score("loss", collector.rows())?.value ?? Number.NaN;
    });
    expect(losses[0]).toBeCloseTo(Math.log(sum) - 1, 6);
    expect(losses[1]).toBeCloseTo(losses[0] ?? Number.NaN, 6);
  });

  it("leave out top-5 of few classes and rank ties like the arg max", () => {
    expect(score("top5", collected().rows())).toBeUndefined();
    const many = new ClassCollector("classes", "y");
    many.add(scores([2, 6], [6, 5, 4, 3, 2, 1, 6, 5, 4, 3, 2, 1]), labels([4, 5]), 2);
    expect(score("top5", many.rows())?.value).toBe(0.5);
    expect(argmax([1, 1, 0], 0, 3)).toBe(0);
    expect(rankOf([1, 1, 0], 0, 3, 1)).toBe(1);
  });

  it("count NaN outputs as wrong and say how many", () => {
    const collector = new ClassCollector("classes", "y");
    collector.add(scores([2, 2], [Number.NaN, 1, 0, 1]), labels([1, 1]), 2);
    expect(score("accuracy", collector.rows())?.value).toBe(0.5);
    expect(collector.notFinite).toBe(1);
  });

  it("refuse labels out of range, naming sample, label and range", () => {
    const add = (label: number) => (): void => collected().add(scores([1, 3], [0, 0, 0]), labels([label]), 1);
    expect(add(2)).not.toThrow();
    expect(add(3)).toThrow(/sample 4.*label 3.*0 to 2/);
    expect(add(-1)).toThrow(/out of range/);
  });

  it("read one column as two classes", () => {
    const collector = new ClassCollector("classes", "y");
    collector.add(scores([2, 1], [0.2, 0.9]), labels([0, 1]), 2);
    expect(score("accuracy", collector.rows())?.value).toBe(1);
  });
});

describe("token metrics", () => {
  it("give perplexity over tokens and intervals over sequences", () => {
    const collector = new ClassCollector("tokens", "y");
    // Uniform over 4: perplexity 4, whatever the labels; one token does not count.
    collector.add(
      scores(
        [2, 3, 4],
        Array.from({ length: 24 }, () => 1),
      ),
      labels([0, 1, 2, 3, -100, 1], [2, 3]),
      2,
    );
    const rows = collector.rows();
    expect(rows.labels.length).toBe(5);
    expect(score("perplexity", rows)).toMatchObject({ samples: 2 });
    expect(score("perplexity", rows)?.value).toBeCloseTo(4, 5);
    expect(() =>
      collector.add(
        scores(
          [1, 2, 4],
          Array.from({ length: 8 }, () => 0),
        ),
        labels([0, 1, 2], [1, 3]),
        1,
      ),
    ).toThrow(/row of scores/);
  });
});

describe("value metrics", () => {
  it("average squared and absolute errors", () => {
    const collector = new ValueCollector("y");
    collector.add(
      scores([2, 2], [1, 2, 3, 4]),
      { dtype: "float32", shape: [2, 2], data: Float32Array.of(1, 1, 1, 1) },
      2,
    );
    expect(score("mse", collector.rows())?.value).toBeCloseTo((0.5 + 6.5) / 2, 6);
    expect(score("mae", collector.rows())?.value).toBeCloseTo(1.5, 6);
    expect(() => collector.add(scores([1, 3], [1, 2, 3]), scores([1, 2], [1, 2]), 1)).toThrow(/same number/);
  });
});

describe("the choice of output and metric", () => {
  it("takes the output with as many scores as classes", () => {
    const outputs = { boxes: scores([2, 4], []), logits: scores([2, 10, 1, 1], []), ids: { ...labels([1, 2]) } };
    expect(chooseOutput(outputs, 2, 10)).toBe("logits");
    expect(chooseOutput(outputs, 2, undefined)).toBe("boxes");
    expect(() => chooseOutput({ ids: labels([1]) }, 1, 2)).toThrow(/no float output/);
  });

  it("names the nearest metric", () => {
    expect(() => metricsFor("classes", ["acuracy"])).toThrow(/Did you mean 'accuracy'/);
    expect(() => metricsFor("values", ["accuracy"])).toThrow(/does not fit values/);
    expect(new Set(METRICS.map(({ name }) => name)).size).toBe(METRICS.length);
  });
});

describe("rows of scores", () => {
  it("are probabilities only if every row is", () => {
    expect(areProbabilities([0.25, 0.75, 0.5, 0.5], 2)).toBe(true);
    expect(areProbabilities([0.25, 0.75, 0.5, 0.6], 2)).toBe(false);
    expect(areProbabilities([1.5, -0.5], 2)).toBe(false);
  });

  it("diverge by Kullback and Leibler's formula", () => {
    const [p, q] = [
      [0.25, 0.75],
      [0.5, 0.5],
    ];
    const expected = 0.25 * Math.log(0.5) + 0.75 * Math.log(1.5);
    expect(divergence(p as number[], q as number[], 0, 2, true)).toBeCloseTo(expected, 10);
    const logits = (row: number[]): number[] => row.map((x) => Math.log(x) + 3);
    expect(divergence(logits(p as number[]), logits(q as number[]), 0, 2, false)).toBeCloseTo(expected, 10);
    expect(divergence(p as number[], p as number[], 0, 2, true)).toBe(0);
  });

  it("do not overflow", () => {
    expect(negativeLogLikelihood([1000, 0], 0, 2, 1, false)).toBeCloseTo(1000, 6);
  });
});
