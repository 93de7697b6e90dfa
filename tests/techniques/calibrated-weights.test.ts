/** Weights whose codes are chosen by what outputs lose: never worse than nearest on their own samples, stored as promised, run by the engine. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { fidelity } from "../../src/evaluate/fidelity.node.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { type Kernels, loadKernels } from "../../src/kernels/kernels.ts";
import { MatrixEngine } from "../../src/run/matrix-engine.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { decoderOf, writeText } from "../../src/run/write-text.ts";
import { awqScales, normalizedGram } from "../../src/techniques/quantize/weights/awq.ts";
import { HalfQuadratic } from "../../src/techniques/quantize/weights/hqq.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { type GridSpec, gridOf } from "../../src/techniques/quantize/weights/weight-grid.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor } from "../support/small-models.ts";

let kernels: Kernels;
let engine: MatrixEngine;
const inProcess = { inProcess: true, threads: 1 };
beforeAll(async () => {
  kernels = await loadKernels();
  engine = await MatrixEngine.open(openSession, kernels, inProcess);
});
afterAll(() => engine.close());

/** Scale, product, rectifier, product: inputs of very different size. */
function twoLayers(): Model {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", 40]);
  const sizes = Float32Array.from({ length: 40 }, (_, i) => (i % 9 === 4 ? 8 : 0.5));
  const norm = b.op("Mul", [x, b.constant("sizes", Tensor.float32([40], sizes))], { name: "norm" });
  const up = b.op("MatMul", [norm, b.constant("w1", randomTensor([40, 96], 1, 0.3))], { name: "up" });
  const y = b.op("MatMul", [b.op("Relu", [up]), b.constant("w2", randomTensor([96, 24], 2, 0.3))], { name: "down" });
  [y.dtype, y.shape] = ["float32", ["n", 24]];
  b.output(y, "y");
  return model;
}

function samples(count: number, seed: number): Dataset {
  const rng = new Rng(seed);
  const mix = Array.from({ length: 6 * 40 }, () => rng.normal());
  const data = new Float32Array(count * 40);
  for (let row = 0; row < count; row++) {
    const part = Array.from({ length: 6 }, () => rng.normal());
    for (let i = 0; i < 40; i++)
      data[row * 40 + i] = part.reduce((sum, p, d) => sum + p * (mix[d * 40 + i] ?? 0), 0.2 * rng.normal());
  }
  return datasetOf({ fields: { x: { dtype: "float32", shape: [count, 40], data } } });
}

describe("calibrated weights", () => {
  const all = samples(400, 3);
  const [data, unseen] = [all.subset({ part: [0, 0.6] }), all.subset({ part: [0.6, 1] })];
  const sqnr = async (bits: number, method: string): Promise<number> => {
    const original = twoLayers();
    const options = { bits, method, block: 16, compute: "fp32", minElements: 1, samples: 200 };
    const { model, journal } = await runTechnique(quantizeWeights, original, options, data);
    for (const { how } of journal.changed) {
      const [, before, after] = /output error ([\d.e-]+) % -> ([\d.e-]+) %/.exec(how) ?? [];
      if (before !== undefined) expect(Number(after)).toBeLessThanOrEqual(Number(before));
    }
    return (await fidelity(original, model, { data: unseen, samples: unseen.size, threads: 1 })).sqnrDb ?? Number.NaN;
  };

  it.each([4, 3, 2])("at %i bits GPTQ and AWQ beat rounding to nearest on samples they have not seen", async (bits) => {
    const nearest = await sqnr(bits, "rtn");
    expect(await sqnr(bits, "gptq")).toBeGreaterThan(nearest + 1);
    expect(await sqnr(bits, "awq")).toBeGreaterThan(nearest + 0.5);
  });
});

describe("awq", () => {
  const spec: GridSpec = { bits: 4, group: 16, symmetric: false, scale: "range", scaleType: "float32", rule: "blocks" };
  const weights = { k: 48, n: 20, data: randomTensor([48, 20], 4).peek() as Float32Array };

  it("leaves inputs of one size alone, and scales those of different size", async () => {
    const gram = (size: (i: number) => number): Float64Array =>
      Float64Array.from({ length: 48 * 48 }, (_, at) => (at % 49 === 0 ? size(at / 49) : 0));
    const even = await awqScales(
      engine,
      kernels,
      [{ weights, spec }],
      normalizedGram(
        gram(() => 3),
        48,
      ),
    );
    expect([...even.scales]).toEqual(Array.from({ length: 48 }, () => 1));
    const uneven = await awqScales(
      engine,
      kernels,
      [{ weights, spec }],
      normalizedGram(
        gram((i) => (i % 9 === 0 ? 900 : 1)),
        48,
      ),
    );
    expect(uneven.exponent).toBeGreaterThan(0);
    expect(uneven.scales[9]).toBeGreaterThan((uneven.scales[10] ?? 0) * 1.1);
  });

  it("hqq never raises its error, and lowers it", async () => {
    for (const bits of [4, 2] as const) {
      const own = { ...spec, bits };
      const solver = await HalfQuadratic.open(openSession, own, inProcess);
      const found = await solver.solve(weights, gridOf(kernels, weights, own), 16);
      await solver.close();
      expect(found.after).toBeLessThan(0.995 * found.before);
      expect(found.zeroPoints.every((z) => Number.isInteger(z) && z >= 0 && z < 2 ** bits)).toBe(true);
    }
  });
});

describe("text that a model writes", () => {
  /** Scores that depend on the last token only: row t of a table. */
  function decoder(): Model {
    const model = new Model(undefined, 17, 8);
    const b = new Builder(model.graph);
    const tokens = b.input("input_ids", "int64", ["batch", "length"]);
    const table = Float32Array.from({ length: 16 }, (_, at) => (at % 4 === (Math.floor(at / 4) + 1) % 4 ? 50 : 0));
    const y = b.op("Gather", [b.constant("table", Tensor.float32([4, 4], table)), tokens]);
    [y.dtype, y.shape] = ["float32", ["batch", "length", 4]];
    b.output(y, "logits");
    return model;
  }

  it("follows the model's distribution, and the seed", async () => {
    const model = decoder();
    const found = decoderOf(model);
    expect(found?.vocabulary).toBe(4);
    if (!found) return;
    const write = (start: number | undefined, seed: number): Promise<BigInt64Array> =>
      writeText(model, found, { count: 3, length: 6, seed, start }, openSession, inProcess);
    expect([...(await write(1, 1))].slice(0, 6).map(Number)).toEqual([1, 2, 3, 0, 1, 2]);
    expect(await write(undefined, 5)).toEqual(await write(undefined, 5));
    expect(decoderOf(twoLayers())).toBeUndefined();
  });
});
