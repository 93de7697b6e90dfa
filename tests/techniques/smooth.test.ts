/** Outliers of activations that move into weights: the same model in floating point, a better one in 8 bits. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import type { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { quantizeDynamic } from "../../src/techniques/quantize/quantize-dynamic.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { smooth } from "../../src/techniques/quantize/smooth.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

const WIDTH = 32;
const LENGTH = 6;

/** Scales of a normalization: a few channels are a hundred times as large as the others, as in large language models. */
function outliers(seed: number): Tensor {
  const rng = new Rng(seed);
  return Tensor.float32(
    [WIDTH],
    Array.from({ length: WIDTH }, (_, c) => (c % 11 === 3 ? 60 : 0.6 + 0.4 * rng.uniform(0, 1))),
  );
}

/** Ways of writing x normalized, scaled by γ and shifted by β. */
const NORMALIZATIONS = {
  layer: (b: Builder, x: Value, gamma: Value, beta: Value) =>
    b.op("LayerNormalization", [x, gamma, beta], { attributes: { axis: -1 } }),
  "in steps": (b: Builder, x: Value, gamma: Value, beta: Value) => {
    const mean = b.op("ReduceMean", [x], { attributes: { axes: [-1] } });
    const centred = b.op("Sub", [x, mean]);
    const variance = b.op("ReduceMean", [b.op("Mul", [centred, centred])], { attributes: { axes: [-1] } });
    const unit = b.op("Div", [centred, b.op("Sqrt", [variance])]);
    return b.op("Add", [b.op("Mul", [unit, gamma]), beta]);
  },
  "root mean square": (b: Builder, x: Value, gamma: Value) => {
    const square = b.op("ReduceMean", [b.op("Mul", [x, x])], { attributes: { axes: [-1] } });
    return b.op("Mul", [gamma, b.op("Div", [x, b.op("Sqrt", [square])])]);
  },
} as const;

/** A feed-forward block with a gate behind a normalization with outliers: (n, length, width) to the same. */
function block(normalization: keyof typeof NORMALIZATIONS, large: Tensor = outliers(1)): Model {
  return unary(
    "float32",
    ["n", LENGTH, WIDTH],
    (b, x) => {
      const gamma = b.constant("gamma", large);
      const h = NORMALIZATIONS[normalization](b, x, gamma, b.constant("beta", randomTensor([WIDTH], 2, 0.1)));
      const up = b.op("MatMul", [h, b.constant("up.w", randomTensor([WIDTH, 48], 3, 0.2))], { name: "up" });
      const gate = b.op("Sigmoid", [
        b.op("MatMul", [h, b.constant("gate.w", randomTensor([WIDTH, 48], 4, 0.2))], { name: "gate" }),
      ]);
      return b.op("MatMul", [b.op("Mul", [gate, up]), b.constant("down.w", randomTensor([48, WIDTH], 5, 0.2))], {
        name: "down",
      });
    },
    {},
    17,
  );
}

function samples(count = 32): Dataset {
  const rng = new Rng(7);
  const data = Float32Array.from({ length: count * LENGTH * WIDTH }, () => rng.normal());
  return datasetOf({ fields: { x: { dtype: "float32", shape: [count, LENGTH, WIDTH], data } } });
}

async function outputs(model: Model): Promise<Float32Array> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  try {
    const { fields } = await samples().take([0, 1, 2, 3, 4, 5, 6, 7]);
    const [y] = Object.values(await session.run(fields));
    return y?.data as Float32Array;
  } finally {
    await session.close();
  }
}

/** ‖ŷ − y‖/‖y‖. */
async function errorOf(model: Model, original: Model): Promise<number> {
  const [y, z] = [await outputs(original), await outputs(model)];
  const norm = (list: Float32Array): number => Math.sqrt(list.reduce((sum, v) => sum + v * v, 0));
  return norm(y.map((v, i) => v - (z[i] ?? 0))) / norm(y);
}

const smoothed = async (model: Model, options: Readonly<Record<string, unknown>> = {}) =>
  runTechnique(smooth, model, options, samples());

describe("smoothing", () => {
  it.each(["layer", "in steps", "root mean square"] as const)("computes the same: %s", async (kind) => {
    const original = block(kind);
    const { model, journal } = await smoothed(original, { alpha: 0.7 });
    expect(journal.changed.map(({ what }) => what)).toEqual(["up, gate", "down"]);
    expect(model.graph.nodes).toHaveLength(original.graph.nodes.length); // nothing was inserted
    expect(await errorOf(model, original)).toBeLessThan(1e-5);
    // Not half of it: weights that are multiplied alone are another model.
    model.graph.initializers.get("gamma")!.tensor = outliers(1);
    expect(await errorOf(model, original)).toBeGreaterThan(0.1);
  });

  it.each(["layer", "in steps", "root mean square"] as const)(
    "makes 8 bits better, twice where ranges are taken on the fly: %s",
    async (kind) => {
      const original = block(kind);
      const { model } = await smoothed(original);
      const dynamic = async (each: Model): Promise<number> =>
        errorOf((await runTechnique(quantizeDynamic, each, { minElements: 1 })).model, original);
      expect(await dynamic(model)).toBeLessThan(0.5 * (await dynamic(original)));
      const fixed = async (each: Model): Promise<number> =>
        errorOf(
          (await runTechnique(quantize, each, { calibration: "min-max", equalize: "never" }, samples())).model,
          original,
        );
      expect(await fixed(model)).toBeLessThan(0.7 * (await fixed(original)));
    },
  );

  it("takes for each layer an exponent at least as good as any given one, or none", async () => {
    const errors = async (options: Readonly<Record<string, unknown>>): Promise<number[]> => {
      const { journal } = await smoothed(block("layer"), options);
      return journal.changed.map(({ how }) => Number(/-> ([\d.e-]+) %/.exec(how)?.[1]));
    };
    const [chosen] = await errors({});
    for (const alpha of [0.2, 0.5, 0.8, 1]) expect((await errors({ alpha }))[0]).toBeGreaterThanOrEqual(chosen ?? 0);
    const plain = block("layer", Tensor.float32([WIDTH], new Float32Array(WIDTH).fill(1)));
    const { journal } = await smoothed(plain);
    for (const { how } of journal.changed) {
      const [, before, after] = /8 bits ([\d.]+) % -> ([\d.]+) %/.exec(how) ?? [];
      expect(Number(after)).toBeLessThanOrEqual(Number(before));
    }
  });

  it("leaves alone what nothing can take over, unless it may insert", async () => {
    const original = unary("float32", ["n", LENGTH, WIDTH], (b, x) =>
      b.op("MatMul", [b.op("Tanh", [x]), b.constant("w", randomTensor([WIDTH, WIDTH], 3))], { name: "after" }),
    );
    const { journal } = await smoothed(original, { alpha: 0.5 });
    expect(journal.skipped).toEqual([
      { what: "after", why: expect.stringMatching(/nothing before it takes the scales of .* over \(insert adds/) },
    ]);
    const { model } = await smoothed(original, { alpha: 0.5, insert: true });
    expect(model.graph.nodes.map(({ opType }) => opType)).toEqual(["Tanh", "Mul", "MatMul"]);
    expect(await errorOf(model, original)).toBeLessThan(1e-5);
  });

  it("leaves kept layers, and what they read, as they are", async () => {
    const { journal, model } = await smoothed(block("layer"), { keep: ["up"], alpha: 0.5 });
    expect(journal.skipped).toEqual(
      expect.arrayContaining([
        { what: "up.w", why: "kept" },
        { what: "gate", why: expect.stringMatching(/^up reads .* too/) },
      ]),
    );
    expect(await errorOf(model, block("layer"))).toBeLessThan(1e-5);
  });

  it("reads weights stored by rows, and Gemm's with their bias", async () => {
    const original = unary(
      "float32",
      ["n", WIDTH],
      (b, x) => {
        const h = b.op("LayerNormalization", [x, b.constant("gamma", outliers(1))], { attributes: { axis: -1 } });
        const w = b.constant("w", randomTensor([24, WIDTH], 3, 0.2));
        const hidden = b.op("Gemm", [h, w, b.constant("b", randomTensor([24], 9))], {
          name: "one",
          attributes: { transB: 1 },
        });
        return b.op("MatMul", [b.op("Relu", [hidden]), b.constant("v", randomTensor([24, WIDTH], 4))], { name: "two" });
      },
      {},
      17,
    );
    const flat = datasetOf({
      fields: {
        x: {
          dtype: "float32",
          shape: [16, WIDTH],
          data: (await samples().take([0, 1, 2])).fields["x"]!.data.slice(0, 16 * WIDTH) as Float32Array,
        },
      },
    });
    const { model, journal } = await runTechnique(smooth, original, { alpha: 0.6 }, flat);
    expect(journal.changed.map(({ what }) => what)).toEqual(["one", "two"]);
    const run = async (each: Model): Promise<Float32Array> => {
      const session = await openSession(each, { inProcess: true, threads: 1 });
      const { y } = await session.run((await flat.take([0, 1, 2, 3])).fields);
      await session.close();
      return y?.data as Float32Array;
    };
    const [before, after] = [await run(original), await run(model)];
    for (const [i, value] of before.entries()) expect(after[i]).toBeCloseTo(value, 3);
  });
});
