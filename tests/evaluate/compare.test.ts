/** Where the error enters: pairs of values, accumulated and local errors, against results computed by hand. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { compareModels } from "../../src/evaluate/compare.node.ts";
import { ErrorSums, comparisonJson, comparisonTable, worstFirst } from "../../src/evaluate/compare.ts";
import { matchValues } from "../../src/evaluate/match-values.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

const WIDTH = 6;
const inProcess = { inProcess: true, threads: 1 } as const;

function weights(seed: number, count: number, scale = 1): Float32Array {
  const random = new Rng(seed);
  return Float32Array.from({ length: count }, () => random.normal() * scale);
}

/** x → MatMul w1 → Relu → MatMul w2 → Relu → MatMul w3, each layer named. `change` edits one layer's weights. */
function chain(change?: { layer: number; by: number }, rename: (name: string) => string = (name) => name): Model {
  const model = new Model();
  const b = new Builder(model.graph);
  let value = b.input("x", "float32", ["batch", WIDTH]);
  for (const layer of [1, 2, 3]) {
    const w = weights(layer, WIDTH * WIDTH, 0.6);
    if (change?.layer === layer) for (let i = 0; i < w.length; i++) w[i] = (w[i] ?? 0) * (1 + change.by);
    value = b.op("MatMul", [value, b.constant(rename(`w${layer}`), Tensor.float32([WIDTH, WIDTH], w))], {
      name: rename(`mm${layer}`),
    });
    if (layer < 3) value = b.op("Relu", [value], { name: rename(`act${layer}`) });
  }
  b.output(value);
  return model;
}

const byName = (comparison: Awaited<ReturnType<typeof compareModels>>, name: string) =>
  comparison.values.find((value) => value.name === name);

describe("ErrorSums", () => {
  it("gives SQNR, cosine and relative error as the formulas say", () => {
    const sums = new ErrorSums();
    sums.add([3, 0], [3, 1]);
    sums.add([0, 4], [0, 4]);
    const { relativeError, sqnrDb, cosine, maxAbsError } = sums.result;
    expect(relativeError).toBeCloseTo(1 / 5, 12);
    expect(sqnrDb).toBeCloseTo(10 * Math.log10(25), 10);
    expect(cosine).toBeCloseTo(25 / Math.sqrt(25 * 26), 12);
    expect(maxAbsError).toBe(1);
  });

  it("calls equal values exact, and never hides a NaN", () => {
    const equal = new ErrorSums();
    equal.add([1, 2], [1, 2]);
    expect(equal.result).toEqual({ sqnrDb: Number.POSITIVE_INFINITY, cosine: 1, relativeError: 0, maxAbsError: 0 });
    const broken = new ErrorSums();
    broken.add([1, 2], [1, Number.NaN]);
    broken.add([1, 2], [1, 2]);
    expect(broken.result.relativeError).toBe(Number.POSITIVE_INFINITY);
    expect(broken.result.maxAbsError).toBe(Number.POSITIVE_INFINITY);
    const fromNothing = new ErrorSums();
    fromNothing.add([0, 0], [0, 1]);
    expect(fromNothing.result.relativeError).toBe(Number.POSITIVE_INFINITY);
  });
});

describe("compareModels", () => {
  it("finds no error between a model and itself", async () => {
    const comparison = await compareModels(chain(), chain(), { ...inProcess, samples: 5 });
    expect(comparison.values.map(({ name }) => name)).toEqual(["mm1", "act1", "mm2", "act2", "mm3"]);
    for (const value of comparison.values) {
      expect(value.accumulated.relativeError).toBe(0);
      expect(value.local?.relativeError).toBe(0);
      expect(value.matchedBy).toBe("name");
    }
    expect(comparison.samples).toBe(5);
    expect(comparison.unmatched).toEqual([]);
    expect(comparison.outputs[0]).toMatchObject({ name: "mm3", relativeError: 0 });
  });

  it("shows where an error enters: local error in the changed layer alone, accumulated error from there on", async () => {
    const comparison = await compareModels(chain(), chain({ layer: 2, by: 0.1 }), { ...inProcess, samples: 20 });
    // Weights of layer 2 are 10 % larger, so its output is, and ReLU keeps the factor.
    for (const name of ["mm2", "act2", "mm3"])
      expect(byName(comparison, name)?.accumulated.relativeError).toBeCloseTo(0.1, 5);
    expect(byName(comparison, "mm2")?.local?.relativeError).toBeCloseTo(0.1, 5);
    expect(byName(comparison, "mm2")?.accumulated.sqnrDb).toBeCloseTo(20, 3);
    expect(byName(comparison, "mm2")?.accumulated.cosine).toBeCloseTo(1, 6);
    for (const name of ["mm1", "act1", "act2", "mm3"]) expect(byName(comparison, name)?.local?.relativeError).toBe(0);
    for (const name of ["mm1", "act1"]) expect(byName(comparison, name)?.accumulated.relativeError).toBe(0);
    expect(worstFirst(comparison)[0]?.name).toBe("mm2");
    expect(comparisonTable(comparison).split("\n")[1]).toMatch(/^mm2 +MatMul +10\.0 % +10\.0 %/);
    expect(comparisonTable(comparison, { order: "graph", top: 2 })).toContain("… 3 more");
    expect(JSON.parse(comparisonJson(comparison)).values[0].accumulated.sqnrDb).toBeNull();
  });

  it("gives the same numbers when memory only allows one value at a time", async () => {
    const other = chain({ layer: 1, by: -0.2 });
    const whole = await compareModels(chain(), other, { ...inProcess, samples: 10 });
    const parts = await compareModels(chain(), other, { ...inProcess, samples: 10, groupBytes: 1 });
    expect(parts.values.map(({ name }) => name)).toEqual(whole.values.map(({ name }) => name));
    for (const [index, value] of whole.values.entries()) {
      expect(parts.values[index]?.accumulated.relativeError).toBeCloseTo(value.accumulated.relativeError, 5);
      expect(parts.values[index]?.local?.relativeError).toBeCloseTo(value.local?.relativeError ?? -1, 5);
    }
  });

  it("pairs renamed values by their place", async () => {
    const renamed = chain({ layer: 3, by: 0.5 }, (name) => `other_${name}`);
    const comparison = await compareModels(chain(), renamed, { ...inProcess, samples: 4 });
    expect(comparison.values.map(({ candidateName }) => candidateName)).toEqual(
      ["mm1", "act1", "mm2", "act2", "mm3"].map((name) => `other_${name}`),
    );
    expect(comparison.values.every(({ matchedBy }) => matchedBy === "position")).toBe(true);
    expect(byName(comparison, "mm3")?.local?.relativeError).toBeCloseTo(0.5, 5);
    expect(comparison.outputs[0]?.relativeError).toBeCloseTo(0.5, 5);
  });

  it("compares a folded batch normalization with what it stands for, whichever name stayed", async () => {
    const [scale, shift, mean, variance] = [
      [2, 0.5],
      [0.3, -0.2],
      [0.1, 0.4],
      [1.5, 0.7],
    ];
    const w = weights(9, 2 * 3 * 9, 0.4);
    const build = (folded: boolean): Model => {
      const model = new Model();
      const b = new Builder(model.graph);
      const x = b.input("x", "float32", ["batch", 3, 8, 8]);
      const factor = scale?.map((value, o) => value / Math.sqrt((variance?.[o] ?? 1) + 1e-5)) ?? [];
      const kernel = folded ? w.map((value, i) => value * (factor[Math.floor(i / 27)] ?? 1)) : w;
      const bias = factor.map((value, o) => (folded ? (shift?.[o] ?? 0) - (mean?.[o] ?? 0) * value : 0));
      const conv = b.op(
        "Conv",
        [x, b.constant("w", Tensor.float32([2, 3, 3, 3], kernel)), b.constant("bias", Tensor.float32([2], bias))],
        { name: "conv" },
      );
      const vector = (name: string, data: readonly number[] | undefined) =>
        b.constant(name, Tensor.float32([2], data ?? []));
      const bn = folded
        ? conv
        : b.op(
            "BatchNormalization",
            [conv, vector("s", scale), vector("b", shift), vector("m", mean), vector("v", variance)],
            { name: "bn", attributes: { epsilon: { type: "float", value: 1e-5 } } },
          );
      b.output(b.op("Relu", [bn], { name: "relu" }));
      return model;
    };
    const comparison = await compareModels(build(false), build(true), { ...inProcess, samples: 6 });
    expect(comparison.values.map(({ name, candidateName, matchedBy }) => [name, candidateName, matchedBy])).toEqual([
      ["bn", "conv", "fused"],
      ["relu", "relu", "name"],
    ]);
    expect(comparison.values[0]).toMatchObject({ node: "conv", op: "Conv+BatchNormalization" });
    for (const value of comparison.values) expect(value.accumulated.relativeError).toBeLessThan(1e-5); // float32 rounding
    expect(comparison.unmatched).toEqual([{ name: "conv", op: "Conv", why: "folded into the operators after it" }]);
  });

  it("names what has no counterpart, with the shapes", () => {
    const narrow = chain();
    const middle = narrow.graph.nodes[2]?.outputs[0];
    if (middle) middle.shape = ["batch", WIDTH - 2];
    const wide = chain();
    const value = wide.graph.nodes[2]?.outputs[0];
    if (value) value.shape = ["batch", WIDTH];
    const { unmatched } = matchValues(wide, narrow);
    expect(unmatched).toEqual([{ value, why: "its shape is [batch, 4] instead of [batch, 6]" }]);
  });

  it("refuses models with different inputs, naming both", async () => {
    const other = new Model();
    const b = new Builder(other.graph);
    b.output(b.op("Add", [b.input("a", "float32", [1]), b.input("b", "float32", [1])]));
    await expect(compareModels(chain(), other, inProcess)).rejects.toMatchObject({
      code: "shape-mismatch",
      found: "a [1], b [1]",
      expected: `x [batch, ${WIDTH}]`,
    });
  });

  it("stops when asked", async () => {
    const signal = AbortSignal.abort();
    await expect(compareModels(chain(), chain(), { ...inProcess, signal })).rejects.toMatchObject({ code: "aborted" });
  });
});
