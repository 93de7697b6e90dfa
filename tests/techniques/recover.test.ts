/** Recovery by layers: solutions equal the normal equations', zeros stay, thinned and folded layers find their place. */
import { describe, expect, test } from "vitest";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { fidelity } from "../../src/evaluate/fidelity.node.ts";
import { Builder } from "../../src/ir/builder.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { Gram } from "../../src/run/gram.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { simplify } from "../../src/techniques/simplify/simplify.ts";
import { Journal } from "../../src/techniques/journal.ts";
import { keptRows } from "../../src/techniques/tune/layer-targets.ts";
import { LeastSquares } from "../../src/techniques/tune/least-squares.ts";
import { recover } from "../../src/techniques/tune/recover.ts";
import { joinModels } from "../../src/transform/join.ts";
import { Rng } from "../../src/base/rng.ts";
import { runOnSynthetic } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor } from "../support/small-models.ts";

/** Correlated samples: few directions explain most of them, as in real activations. */
function samples(shape: readonly number[], count: number, seed = 4): Dataset {
  const size = shape.reduce((n, each) => n * each, 1);
  const rng = new Rng(seed);
  const directions = Array.from({ length: 8 * size }, () => rng.normal());
  const data = new Float32Array(count * size);
  for (let row = 0; row < count; row++) {
    const mix = Array.from({ length: 8 }, () => rng.normal());
    for (let i = 0; i < size; i++)
      data[row * size + i] = mix.reduce((sum, m, d) => sum + m * (directions[d * size + i] ?? 0), 0.1 * rng.normal());
  }
  return datasetOf({ fields: { x: { dtype: "float32", shape: [count, ...shape], data } } });
}

/** Conv, BatchNorm, ReLU, depthwise Conv with bias, ReLU, pool, MatMul and Add, ReLU, Gemm. `kept` thins the first two layers. */
function network(kept: readonly number[] = [0, 1, 2, 3, 4, 5, 6, 7]): Model {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const n = kept.length;
  const rows = (tensor: Tensor): Tensor => {
    const all = tensor.peek() as Float32Array;
    const size = all.length / 8;
    const data = kept.flatMap((row) => [...all.subarray(row * size, (row + 1) * size)]);
    return Tensor.float32([n, ...tensor.shape.slice(1)], data);
  };
  const stored = (name: string, tensor: Tensor): Value => b.constant(name, tensor);
  const x = b.input("x", "float32", ["n", 3, 8, 8]);
  const w1 = stored("w1", rows(randomTensor([8, 3, 3, 3], 1, 0.3)));
  const conv = b.op("Conv", [x, w1], { name: "conv", attributes: { pads: [1, 1, 1, 1] } });
  const vector = (name: string, seed: number, offset: number): Value => {
    const tensor = randomTensor([8], seed, 0.2);
    return stored(
      name,
      rows(
        Tensor.float32(
          [8],
          (tensor.peek() as Float32Array).map((v) => v + offset),
        ),
      ),
    );
  };
  const parameters = [vector("gamma", 2, 1), vector("beta", 3, 0), vector("mean", 4, 0), vector("variance", 5, 2)];
  const norm = b.op("BatchNormalization", [conv, ...parameters], { name: "norm" });
  const relu = b.op("Relu", [norm], { name: "relu" });
  const w2 = stored("w2", rows(randomTensor([8, 1, 3, 3], 6, 0.4)));
  const depth = b.op("Conv", [relu, w2, vector("b2", 7, 0.1)], { name: "depth", attributes: { group: n } });
  const relu2 = b.op("Relu", [depth], { name: "relu2" });
  const flat = b.op("Flatten", [b.op("GlobalAveragePool", [relu2], { name: "pool" })], { name: "flat" });
  const w3 = rows(randomTensor([8, 12], 8, 0.6));
  const product = b.op("MatMul", [flat, stored("w3", w3)], { name: "product" });
  const shifted = b.op("Add", [product, stored("b3", randomTensor([12], 9, 0.1))], { name: "shifted" });
  const relu3 = b.op("Relu", [shifted], { name: "relu3" });
  const w4 = stored("w4", randomTensor([5, 12], 10, 0.5));
  const y = b.op("Gemm", [relu3, w4, stored("b4", randomTensor([5], 11))], { name: "y", attributes: { transB: 1 } });
  [y.dtype, y.shape] = ["float32", ["n", 5]];
  b.output(y, "y");
  return model;
}

function recovered(
  model: Model,
  original: Model,
  data: Dataset,
  options: Readonly<Record<string, unknown>> = {},
): Promise<{ model: Model; journal: Journal }> {
  return runTechnique(recover, model, options, data, { original });
}

const sqnr = async (original: Model, model: Model, data: Dataset): Promise<number> =>
  (await fidelity(original, model, { data, samples: data.size, threads: 1 })).sqnrDb ?? Number.NaN;

describe("recover", () => {
  const all = samples([3, 8, 8], 160);
  const [data, unseen] = [all.subset({ part: [0, 0.6] }), all.subset({ part: [0.6, 1] })];

  test("wins back much of what pruning lost, and the zeros stay", async () => {
    const original = network();
    const pruned = (await runTechnique(pruneWeights, original, { ratio: 0.5 })).model;
    const before = await sqnr(original, pruned, unseen);
    const { model, journal } = await recovered(pruned, original, data);
    const after = await sqnr(original, model, unseen);
    expect(after).toBeGreaterThan(before + 3);
    for (const name of ["w1", "w2", "w3", "w4"]) {
      const zeros = async (each: Model): Promise<number[]> => {
        const w = (await each.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
        return [...w.keys()].filter((i) => w[i] === 0);
      };
      const old = await zeros(pruned);
      expect(old.length).toBeGreaterThan(0);
      expect(await zeros(model)).toEqual(old);
    }
    expect(journal.changed.map(({ what }) => what)).toEqual(["conv", "depth", "product", "y"]);
    // Biases alone win back something, and less.
    const biased = await recovered(pruned, original, data, { method: "bias" });
    const shifted = await sqnr(original, biased.model, unseen);
    expect(shifted).toBeGreaterThan(before);
    expect(shifted).toBeLessThan(after);
    expect(await biased.model.graph.initializers.get("w1")?.tensor?.data()).toEqual(
      await pruned.graph.initializers.get("w1")?.tensor?.data(),
    );
  });

  test("leaves a model that is the original as it is, and says so", async () => {
    const original = network();
    const { model, journal } = await recovered(original, original, data);
    expect(journal.changed).toEqual([]);
    expect(journal.skipped.map(({ why }) => why)).toEqual(Array(4).fill("it computes what the original computes"));
    expect(await model.graph.initializers.get("w1")?.tensor?.data()).toEqual(
      await original.graph.initializers.get("w1")?.tensor?.data(),
    );
  });

  test("finds the channels of a thinned network", async () => {
    const [original, thin] = [network(), network([0, 2, 3, 5, 6])];
    const before = await sqnr(original, thin, unseen);
    const { model, journal } = await recovered(thin, original, data);
    expect(journal.changed.map(({ what }) => what)).toEqual(["product", "y"]); // the others have lost no inputs
    expect(await sqnr(original, model, unseen)).toBeGreaterThan(before + 3);
  });

  test("finds the place of a convolution into which a normalization was folded", async () => {
    const original = network();
    const pruned = (await runTechnique(pruneWeights, original, { ratio: 0.5 })).model;
    const folded = (await runTechnique(simplify, pruned)).model;
    expect(folded.graph.nodes.some(({ opType }) => opType === "BatchNormalization")).toBe(false);
    const { model, journal } = await recovered(folded, original, data);
    expect(journal.changed.map(({ what }) => what)).toContain("conv");
    expect(await sqnr(original, model, unseen)).toBeGreaterThan((await sqnr(original, folded, unseen)) + 3);
  });

  test("says what it leaves alone: kept layers, foreign places, shared and rounded weights", async () => {
    const original = network();
    const pruned = (await runTechnique(pruneWeights, original, { ratio: 0.5 })).model;
    const other = cloneModel(pruned);
    for (const node of other.graph.nodes) if (node.name === "relu3") node.name = "elsewhere";
    const { journal } = await recovered(other, original, data, { keep: ["conv"] });
    const why = new Map(journal.skipped.map((skip) => [skip.what, skip.why]));
    expect(why.get("conv")).toBe("kept");
    // Behind `product` stands an Add of the original's name; nothing reads in the place of the Gemm's input.
    expect(journal.changed.map(({ what }) => what)).toEqual(["depth", "product", "y"]);
    for (const node of other.graph.nodes) if (node.name === "shifted") node.name = "elsewhere too";
    const lost = await recovered(other, original, data);
    expect(lost.journal.skipped).toContainEqual({ what: "product", why: "the original has nothing in its place" });
  });
});

describe("least squares", () => {
  /** Sums over rows of X and Z, exactly. */
  function sumsOf(x: number[][], z: number[][]): Gram {
    const [k, o] = [x[0]?.length ?? 0, z[0]?.length ?? 0];
    const sum = (rows: number, cols: number, value: (row: number, i: number, j: number) => number): Float64Array =>
      Float64Array.from({ length: rows * cols }, (_, at) =>
        x.reduce((total, _row, r) => total + value(r, Math.floor(at / cols), at % cols), 0),
      );
    const [X, Z] = [(r: number, i: number) => x[r]?.[i] ?? 0, (r: number, i: number) => z[r]?.[i] ?? 0];
    return {
      k,
      rows: x.length,
      matrices: [sum(k, k, (r, i, j) => X(r, i) * X(r, j))],
      sums: [sum(1, k, (r, _, j) => X(r, j))],
      target: {
        cross: [sum(k, o, (r, i, j) => X(r, i) * Z(r, j))],
        sums: [sum(1, o, (r, _, j) => Z(r, j))],
        squares: [sum(1, o, (r, _, j) => Z(r, j) ** 2)],
      },
    };
  }

  test("finds weights and bias that made the targets, on their support, and states the errors", async () => {
    const rng = new Rng(2);
    const x = Array.from({ length: 200 }, () => Array.from({ length: 6 }, () => rng.normal(0.5)));
    const truth = [
      [1, 0, -2, 0, 0.5, 0],
      [0, 3, 0, 1, 0, -1],
    ];
    const z = x.map((row) => truth.map((w, o) => w.reduce((sum, v, i) => sum + v * (row[i] ?? 0), o + 0.25)));
    const weights = Float32Array.from(truth.flat(), (w) => (w === 0 ? 0 : 0.1));
    const solver = await LeastSquares.open(openSession, { inProcess: true });
    const problem = { gram: sumsOf(x, z), weights, bias: [], ridge: 0, shiftOnly: false };
    const solution = await solver.solve(problem);
    // The least ridge, 1e-5 of the mean square, is what is left of the error.
    for (const [i, w] of truth.flat().entries()) expect(solution.weights[i]).toBeCloseTo(w, 3);
    expect(solution.shift?.[0]).toBeCloseTo(0.25, 3);
    expect(solution.shift?.[1]).toBeCloseTo(1.25, 3);
    expect(solution.after).toBeLessThan(1e-4);
    const direct = x.reduce((sum, row, r) => {
      const made = [0, 1].map((o) => row.reduce((total, v, i) => total + v * (weights[o * 6 + i] ?? 0), 0));
      return sum + made.reduce((total, v, o) => total + ((z[r]?.[o] ?? 0) - v) ** 2, 0);
    }, 0);
    const energy = z.flat().reduce((sum, v) => sum + v * v, 0);
    expect(solution.before).toBeCloseTo(Math.sqrt(direct / energy), 6);
    // Without a bias the targets cannot be met; with a heavy ridge the weights stay.
    expect((await solver.solve({ ...problem, bias: undefined })).after).toBeGreaterThan(0.01);
    const held = await solver.solve({ ...problem, ridge: 1e9 });
    for (const [i, w] of weights.entries()) expect(held.weights[i]).toBeCloseTo(w, 5);
    await solver.close();
  });
});

describe("channels that are left", () => {
  test("are found in order, with zeros of pruning and thinned inputs", () => {
    const full = { data: [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], count: 4 };
    expect(keptRows({ data: [1, 3, 7, 9], count: 2 }, full)).toEqual([0, 2]);
    expect(keptRows({ data: [4, 0, 0, 3], count: 2 }, full)).toEqual([1, 3]);
    expect(keptRows({ data: [1, 3, 7, 10], count: 2 }, full)).toBeUndefined();
    expect(keptRows({ data: [7, 9, 1, 3], count: 2 }, full)).toEqual([2, 3]);
  });
});

describe("joined models", () => {
  test("compute what each computes alone", async () => {
    const [a, b] = [network(), network([1, 2, 4])];
    const { model, names } = joinModels(a, b, { prefix: "other/", opset: 18 });
    const outputs = await runOnSynthetic(model);
    const [first, second] = [await runOnSynthetic(a), await runOnSynthetic(b)];
    expect(names.get("y")).toBe("other/y");
    expect(outputs["y"]?.data).toEqual(first["y"]?.data);
    expect(outputs["other/y"]?.data).toEqual(second["y"]?.data);
    expect(outputs["other/y"]?.data).not.toEqual(first["y"]?.data);
  });
});
