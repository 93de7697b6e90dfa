/** Statistics of BatchNormalization, measured anew after weights have changed. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { feedChunks } from "../../src/run/feeds.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { reestimateBatchnorm } from "../../src/techniques/tune/reestimate-batchnorm.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, unary } from "../support/small-models.ts";

const OPTIONS = { samples: 256, batch: 64 };

function net(): Model {
  return unary(
    "float32",
    ["n", 3, 6, 6],
    (b, x) => {
      let value = x;
      for (const [i, [from, to]] of [
        [3, 8],
        [8, 8],
      ].entries()) {
        const w = b.constant(`w${i}`, randomTensor([to ?? 0, from ?? 0, 3, 3], i + 1, 0.3));
        const parts = [1, 0, 0, 1].map((start, k) =>
          b.constant(
            `${["gamma", "beta", "mean", "variance"][k]}${i}`,
            Tensor.float32([8], new Float32Array(8).fill(start)),
          ),
        );
        const conv = b.op("Conv", [value, w], { name: `conv${i}` });
        value = b.op("Relu", [b.op("BatchNormalization", [conv, ...parts], { name: `norm${i}` })]);
      }
      return b.op("ReduceMean", [value], { attributes: { axes: [2, 3], keepdims: 0 } });
    },
    { shape: ["n", 8] },
    17,
  );
}

function samples(): Dataset {
  const rng = new Rng(3);
  const data = Float32Array.from({ length: 256 * 3 * 36 }, () => 1 + 2 * rng.normal());
  return datasetOf({ fields: { x: { dtype: "float32", shape: [256, 3, 6, 6], data } } });
}

async function outputs(model: Model): Promise<Float32Array> {
  const data = samples();
  const session = await openSession(model, { inProcess: true, threads: 1 });
  const batch = await data.take(Array.from({ length: data.size }, (_, i) => i));
  try {
    const [y] = Object.values(await session.run(feedChunks(session.inputs, batch)[0]?.feeds ?? {}));
    return y?.data as Float32Array;
  } finally {
    await session.close();
  }
}

async function distance(a: Model, b: Model): Promise<number> {
  const [x, y] = [await outputs(a), await outputs(b)];
  return Math.sqrt(x.reduce((sum, value, i) => sum + (value - (y[i] ?? 0)) ** 2, 0));
}

describe("reestimate-batchnorm", () => {
  it("makes the statistics those of the layer's input: mean 0 and variance 1 behind it", async () => {
    const { model, journal } = await runTechnique(reestimateBatchnorm, net(), OPTIONS, samples());
    const bare = cloneModel(model);
    const norm = bare.graph.nodes.find(({ name }) => name === "norm0")?.outputs[0];
    if (!norm) throw new Error("the layer is gone");
    norm.shape = ["n", 8, 4, 4];
    bare.graph.outputs.splice(0, 1, norm);
    const values = await outputs(bare); // (256, 8, 4, 4)
    const of = Array.from({ length: 8 }, (_, c) => values.filter((_, i) => Math.floor(i / 16) % 8 === c));
    for (const own of of) {
      const mean = own.reduce((a, b) => a + b) / own.length;
      const variance = own.reduce((sum, x) => sum + (x - mean) ** 2, 0) / own.length;
      // 4 runs of 64 samples, each normalized by itself: 4096 numbers a channel
      expect(Math.abs(mean)).toBeLessThan(1e-3);
      expect(Math.abs(variance - 1)).toBeLessThan(1e-3);
    }
    expect(journal.changed.map(({ what }) => what)).toEqual(["mean0", "variance0", "mean1", "variance1"]);
  });

  it.each([
    ["pruning", pruneWeights, { ratio: 0.6 }],
    ["quantization", quantizeWeights, { bits: 2, block: "tensor", balance: false }],
  ] as const)("brings the outputs nearer after %s", async (_, technique, options) => {
    const trained = (await runTechnique(reestimateBatchnorm, net(), OPTIONS, samples())).model;
    const { model: damaged } = await runTechnique(technique, trained, options);
    const { model: repaired } = await runTechnique(reestimateBatchnorm, damaged, OPTIONS, samples());
    expect(await distance(repaired, trained)).toBeLessThan(0.8 * (await distance(damaged, trained)));
  });

  it("leaves a model without normalizations alone and says so; without samples it says what is missing", async () => {
    const plain = unary("float32", ["n", 3, 6, 6], (b, x) => b.op("Relu", [x]), {}, 17);
    const { journal } = await runTechnique(reestimateBatchnorm, plain, OPTIONS, samples());
    expect(journal.skipped[0]?.why).toContain("no BatchNormalization");
    await expect(runTechnique(reestimateBatchnorm, net(), OPTIONS)).rejects.toThrow("--data");
  });
});
