/** Scores of weights by steps of training against their formulas written out: SNIP and movement of a softmax regression. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { runTechnique } from "../support/run-technique.ts";

const [K, C] = [10, 4];

/** y = xW with W (10, 4). */
function regression(seed = 3): { model: Model; w: Float32Array } {
  const rng = new Rng(seed);
  const w = Float32Array.from({ length: K * C }, () => 0.3 * rng.normal());
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const y = b.op("MatMul", [b.input("x", "float32", ["n", K]), b.constant("w", Tensor.float32([K, C], w))]);
  [y.dtype, y.shape] = ["float32", ["n", C]];
  b.output(y, "y");
  return { model, w };
}

/** ∂/∂W of the mean cross-entropy, in double precision. */
function gradient(w: ArrayLike<number>, x: readonly (readonly number[])[], labels: readonly number[]): Float64Array {
  const g = new Float64Array(K * C);
  for (const [s, row] of x.entries()) {
    const scores = Array.from({ length: C }, (_, c) =>
      row.reduce((sum, v, j) => sum + v * (w[j * C + c] as number), 0),
    );
    const total = scores.reduce((sum, score) => sum + Math.exp(score), 0);
    for (let at = 0; at < K * C; at++) {
      const p = Math.exp(scores[at % C] as number) / total - (labels[s] === at % C ? 1 : 0);
      g[at] = (g[at] as number) + (p * (row[Math.floor(at / C)] as number)) / x.length;
    }
  }
  return g;
}

function dataOf(x: readonly (readonly number[])[], labels: readonly number[]): Dataset {
  return datasetOf({
    fields: { x: { dtype: "float32", shape: [x.length, K], data: Float32Array.from(x.flat()) } },
    labels: { dtype: "int32", shape: [x.length], data: Int32Array.from(labels) },
  });
}

/** Which elements are kept when the larger half of the scores is. */
function larger(scores: ArrayLike<number>): boolean[] {
  const all = Array.from(scores);
  const least = [...all].sort((a, b) => b - a)[all.length / 2 - 1] as number;
  return all.map((score) => score >= least);
}

async function kept(score: string, model: Model, data: Dataset, rest = {}): Promise<boolean[]> {
  const result = await runTechnique(pruneWeights, model, { score, samples: 1000, ...rest }, data);
  return Array.from((await result.model.graph.initializers.get("w")?.tensor?.data()) as Float32Array, (v) => v !== 0);
}

describe("snip", () => {
  it("keeps the weights of largest |w·g|, g over the batch", async () => {
    const rng = new Rng(8);
    const x = Array.from({ length: 48 }, () => Array.from({ length: K }, (_, j) => (0.3 + j / 3) * rng.normal()));
    const labels = x.map((_, s) => s % C);
    const { model, w } = regression();
    const g = gradient(w, x, labels);
    const expected = larger(w.map((v, i) => Math.abs(v * (g[i] as number))));
    expect(await kept("snip", model, dataOf(x, labels))).toEqual(expected);
    // Negative controls: neither the weight nor the gradient alone
    expect(larger(w.map(Math.abs))).not.toEqual(expected);
    expect(larger(g.map(Math.abs))).not.toEqual(expected);
  });

  it("is compared over all layers, and needs labelled samples", async () => {
    const { model } = regression();
    await expect(runTechnique(pruneWeights, model, { score: "snip" })).rejects.toThrow(/labelled samples/);
    const unlabelled = datasetOf({ fields: { x: { dtype: "float32", shape: [8, K], data: new Float32Array(8 * K) } } });
    await expect(runTechnique(pruneWeights, model, { score: "snip" }, unlabelled)).rejects.toThrow(/needs labels/);
  });
});

describe("movement", () => {
  it("keeps what grows away from zero over the steps", async () => {
    const row = Array.from({ length: K }, (_, j) => Math.cos(1 + j));
    const x = Array.from({ length: 64 }, () => row); // every batch is the same, whatever the order
    const labels = x.map(() => 2);
    const { model, w } = regression();
    const rate = 0.3;
    // Two steps of 32: S = −w₀g₀ − w₁g₁ with w₁ = w₀ − η·g₀
    const g0 = gradient(w, x, labels);
    const w1 = w.map((v, i) => v - rate * (g0[i] as number));
    const g1 = gradient(w1, x, labels);
    const expected = larger(w.map((v, i) => -v * (g0[i] as number) - (w1[i] as number) * (g1[i] as number)));
    const data = dataOf(x, labels);
    expect(await kept("movement", model, data, { learningRate: rate })).toEqual(expected);
    expect(await kept("snip", model, data)).not.toEqual(expected);
    expect(larger(w.map((v, i) => -v * (g0[i] as number)))).not.toEqual(expected); // the first step alone
    expect(await model.graph.initializers.get("w")?.tensor?.data()).toEqual(w);
  });

  it("lets go first of what is zero already", async () => {
    const { model, w } = regression();
    const value = model.graph.initializers.get("w");
    if (value)
      value.tensor = Tensor.float32(
        [K, C],
        w.map((v, i) => (i % 2 === 0 ? 0 : v)),
      );
    const x = Array.from({ length: 64 }, (_, s) => Array.from({ length: K }, (_unused, j) => Math.sin(s + j)));
    const data = dataOf(
      x,
      x.map((_, s) => s % C),
    );
    for (const score of ["movement", "snip", "random"])
      expect(await kept(score, model, data)).toEqual(Array.from(w, (_, i) => i % 2 === 1));
  });
});
