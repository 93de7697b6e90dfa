/** Samples made from the statistics of normalizations, and calibration with them. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { loadKernels } from "../../src/kernels/kernels.ts";
import { canImagine, imaginedData } from "../../src/techniques/imagined-data.ts";
import { runSteps } from "../../src/techniques/pipeline.node.ts";
import { observe } from "../../src/techniques/quantize/static/calibrate.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { dataFeeds } from "../../src/techniques/samples.ts";
import { reestimateBatchnorm } from "../../src/techniques/tune/reestimate-batchnorm.ts";
import { contextOf, runTechnique } from "../support/run-technique.ts";
import { classifier, randomTensor, unary } from "../support/small-models.ts";

/** Conv → BatchNormalization → Relu, twice, then the mean of each channel. */
function net(): Model {
  return unary(
    "float32",
    ["n", 3, 8, 8],
    (b, x) => {
      let value = x;
      for (const [i, from] of [3, 8].entries()) {
        const w = b.constant(`w${i}`, randomTensor([8, from, 3, 3], i + 1, 0.3));
        const parts = [1, 0, 0, 1].map((start, k) =>
          b.constant(
            `${["gamma", "beta", "mean", "variance"][k]}${i}`,
            Tensor.float32([8], new Float32Array(8).fill(start)),
          ),
        );
        const conv = b.op("Conv", [value, w], { name: `conv${i}` });
        value = b.op("Relu", [b.op("BatchNormalization", [conv, ...parts], { name: `norm${i}` })], {
          name: `relu${i}`,
        });
      }
      const flat = b.op("Flatten", [b.op("GlobalAveragePool", [value])]);
      return b.op("MatMul", [flat, b.constant("fc", randomTensor([8, 4], 9))]);
    },
    { shape: ["n", 4] },
    17,
  );
}

/** Smooth images, far from noise: each channel a plane with a slope, means apart from zero. */
function real(): Dataset {
  const rng = new Rng(7);
  const data = new Float32Array(256 * 3 * 64);
  for (let plane = 0; plane < 256 * 3; plane++) {
    const [level, dx, dy] = [3 * rng.normal() + (plane % 3), rng.normal(), rng.normal()];
    for (let i = 0; i < 64; i++) data[64 * plane + i] = level + (dx * (i % 8) + dy * Math.floor(i / 8)) / 3;
  }
  return datasetOf({ fields: { x: { dtype: "float32", shape: [256, 3, 8, 8], data } } });
}

describe("imagined data", () => {
  it("has the ranges of real samples inside the network, noise has not; the same seed makes the same", async () => {
    const { model } = await runTechnique(reestimateBatchnorm, net(), { samples: 256 }, real());
    const options = { samples: 32, iterations: 100, noise: 0 };
    const made = await imaginedData(model, options, contextOf(model));
    expect(made.size).toBe(32);
    const rng = new Rng(8);
    const noise = datasetOf({
      fields: {
        x: {
          dtype: "float32",
          shape: [32, 3, 8, 8],
          data: Float32Array.from({ length: 32 * 192 }, () => rng.normal()),
        },
      },
    });
    const kernels = await loadKernels();
    const names = ["conv0", "conv1"].map(
      (name) => model.graph.nodes.find((node) => node.name === name)?.outputs[0]?.name ?? "",
    );
    const ends = async (data: Dataset): Promise<number[]> => {
      const stream = () => dataFeeds(model, data, { limit: 256, size: 32, seed: 1, signal: undefined });
      const seen = await observe(cloneModel(model), names, stream, kernels, { histograms: false, threads: 1 });
      return [...seen.values()].flatMap(({ averageEnds: { low, high } }) => [low, high]);
    };
    const [wanted, own, random] = [await ends(real()), await ends(made), await ends(noise)];
    const distance = (list: number[]): number =>
      Math.sqrt(list.reduce((sum, end, i) => sum + Math.log((end || 1e-3) / (wanted[i] || 1e-3)) ** 2, 0));
    expect(distance(own)).toBeLessThan(0.6 * distance(random));
    expect((await imaginedData(model, { samples: 10, iterations: 1 }, contextOf(model))).size).toBe(10);
    const again = await imaginedData(model, options, contextOf(model));
    const first = async (data: Dataset) => (await data.take([0, 31])).fields.x?.data;
    expect(await first(again)).toEqual(await first(made));
  }, 120_000);

  it("stands in for calibration data that nobody named, and the journal says so", async () => {
    const { model } = await runTechnique(reestimateBatchnorm, net(), { samples: 256 }, real());
    const step = quantize({ calibration: "min-max", equalize: "never" });
    const { steps } = await runSteps(model, [step], { threads: 1 });
    expect(steps[0]?.notes.join("\n")).toContain("made from the statistics of BatchNormalization");
    expect(steps[0]?.changed.length).toBeGreaterThan(0);
    expect(canImagine(classifier(4, 3))).toBe(false);
    await expect(runSteps(classifier(4, 3), [quantize()], {})).rejects.toThrow("needs samples");
    // Measuring statistics on what was made from them would change nothing
    await expect(runSteps(model, [reestimateBatchnorm()], {})).rejects.toThrow("needs samples");
  }, 120_000);
});
