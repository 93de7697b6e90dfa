/** Layers that cause a drop: the search against laws and known culprits, and the original's layers put back into real results. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import type { Dataset } from "../../../src/data/dataset.ts";
import { cloneModel } from "../../../src/ir/clone.ts";
import { Tensor } from "../../../src/ir/tensor.ts";
import { openSession } from "../../../src/run/open-session.node.ts";
import { bisect } from "../../../src/techniques/mixed/bisect.ts";
import { findCulprits } from "../../../src/techniques/mixed/culprits.ts";
import { restore } from "../../../src/techniques/mixed/restore.ts";
import { runSteps } from "../../../src/techniques/pipeline.node.ts";
import { quantizeWeights } from "../../../src/techniques/quantize/weights/quantize-weights.ts";
import { quantize } from "../../../src/techniques/quantize/static/quantize.ts";
import { plantedData, plantedModel } from "../../support/planted-model.ts";
import { contextOf } from "../../support/run-technique.ts";
import { smallCnn } from "../../support/small-models.ts";

describe("the search for culprits", () => {
  it("finds several, and what does harm only together, and nothing that could be spared", async () => {
    // 3 is bad alone, 7 and 8 together, 11 is bad unless 12 is there too.
    const judge = (undone: ReadonlySet<number>): Promise<number> => {
      const there = (index: number): boolean => !undone.has(index);
      return Promise.resolve((there(3) ? 5 : 0) + (there(7) && there(8) ? 3 : 0) + (there(11) && !there(12) ? 2 : 0));
    };
    const found = await findCulprits(16, judge, 0.5);
    expect(found.undone).toContain(3);
    expect(found.undone?.some((index) => index === 7 || index === 8)).toBe(true);
    expect(found.undone?.length).toBeLessThanOrEqual(3);
    expect(found.left).toBeLessThanOrEqual(0.5);
    expect(found.alone[3]).toBe(5);
  });

  it("leaves a set that is enough and of which none can be spared, whatever adds up", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 10 }), { minLength: 1, maxLength: 12 }),
        fc.array(fc.tuple(fc.nat(11), fc.nat(11), fc.integer({ min: 0, max: 10 })), { maxLength: 4 }),
        fc.integer({ min: 0, max: 30 }),
        async (single, pairs, limit) => {
          const damage = (undone: ReadonlySet<number>): number => {
            const there = (index: number): boolean => index < single.length && !undone.has(index);
            return (
              single.reduce((sum, own, index) => sum + (there(index) ? own : 0), 0) +
              pairs.reduce((sum, [a, b, both]) => sum + (there(a) && there(b) ? both : 0), 0)
            );
          };
          const found = await findCulprits(single.length, (undone) => Promise.resolve(damage(undone)), limit);
          const undone = found.undone ?? [];
          expect(damage(new Set(undone))).toBeLessThanOrEqual(limit);
          expect(found.left).toBe(damage(new Set(undone)));
          for (const index of undone) {
            const fewer = new Set(undone.filter((other) => other !== index));
            expect(damage(fewer)).toBeGreaterThan(limit);
            expect(found.without.get(index)).toBe(damage(fewer));
          }
        },
      ),
      { numRuns: 200 },
    ));

  it("says when no set is enough", async () => {
    const found = await findCulprits(3, (undone) => Promise.resolve(9 - undone.size), 2);
    expect(found.undone).toBeUndefined();
    expect(found.left).toBe(6);
  });

  it("judges little where there is one culprit among many", async () => {
    const found = await findCulprits(200, (undone) => Promise.resolve(undone.has(77) ? 0 : 1), 0.1);
    expect(found.undone).toEqual([77]);
    expect(found.judged).toBeLessThan(215);
  });
});

const PLANTED = [1, 3];
const model = plantedModel(PLANTED);
let data: Dataset;
beforeAll(async () => {
  data = await plantedData(model);
});

describe("bisect", () => {
  it("names the planted layers of a 4-bit model and puts just them back", async () => {
    const { model: damaged } = await runSteps(model, [quantizeWeights({ bits: 4, compute: "fp32" })], { threads: 1 });
    const found = await bisect(model, damaged, { by: "kl", drop: 0.1 }, contextOf(model, data));
    expect(found.found).toBe(true);
    expect(
      found.layers
        .filter(({ culprit }) => culprit)
        .map(({ name }) => name)
        .sort(),
    ).toEqual(PLANTED.map((layer) => `layer${layer}`));
    expect(found.layers).toHaveLength(6);
    expect(found.left).toBeLessThanOrEqual(0.1);
    expect(found.total).toBeGreaterThan(0.3);
    expect(Math.abs(found.rest)).toBeLessThan(1e-6);
    for (const { culprit, without } of found.layers) if (culprit) expect(without).toBeGreaterThan(0.1);
  });

  it("leaves what was not damaged out, and blames a layer that was changed by hand", async () => {
    const broken = cloneModel(model);
    const weight = broken.graph.initializers.get("w4");
    if (weight?.tensor) weight.tensor = Tensor.float32(weight.tensor.shape, new Float32Array(weight.tensor.elements));
    const found = await bisect(model, broken, {}, contextOf(model, data));
    expect(found.layers.map(({ name, culprit }) => [name, culprit])).toEqual([["layer4", true]]);
    expect(found.others).toHaveLength(5);
    await expect(bisect(model, cloneModel(model), {}, contextOf(model, data))).rejects.toThrow(
      "No layer of the original",
    );
  });

  it("puts layers back into statically quantized models, to the original's outputs when all go back", async () => {
    const cnn = smallCnn();
    const x = {
      dtype: "float32",
      shape: [8, 4, 8, 8],
      data: Float32Array.from({ length: 2048 }, (_, i) => Math.sin(i * 1.7)),
    } as const;
    const { datasetOf } = await import("../../../src/data/arrays.ts");
    const samples = datasetOf({ fields: { x } });
    const { model: small } = await runSteps(cnn, [quantize({ calibration: "min-max", samples: 8 })], {
      data: samples,
      threads: 1,
    });
    const context = contextOf(cnn, samples);
    const found = await bisect(cnn, small, { by: "noise", drop: 1e-9 }, context);
    expect(found.layers).toHaveLength(2);
    const [a, b] = [await openSession(cnn, { inProcess: true }), await openSession(found.model, { inProcess: true })];
    const [y, z] = [(await a.run({ x }))["y"]?.data as Float32Array, (await b.run({ x }))["y"]?.data as Float32Array];
    // The same layers, but other kernels may serve them.
    for (const [i, value] of y.entries()) expect(Math.abs(value - (z[i] as number))).toBeLessThan(1e-5);
    await a.close();
    await b.close();
  });
});

describe("restore", () => {
  it("is a step of a recipe that falls back until the drop is under the limit", async () => {
    const steps = [quantizeWeights({ bits: 4, compute: "fp32" }), restore({ by: "kl", drop: 0.1 })];
    const { model: small, steps: reports } = await runSteps(model, steps, { data, threads: 1 });
    expect(reports[1]?.changed.map(({ what }) => what).sort()).toEqual(["layer1", "layer3"]);
    expect(small.graph.nodes.filter(({ opType }) => opType === "MatMulNBits")).toHaveLength(4);
    expect(small.metadata.get("pare.recipe")).toContain("restore:drop=0.1,by=kl");
  });

  it("changes nothing within the limit", async () => {
    const steps = [quantizeWeights({ bits: 8 }), restore({ by: "kl", drop: 1 })];
    const { steps: reports } = await runSteps(model, steps, { data, threads: 1 });
    expect(reports[1]?.changed).toHaveLength(0);
    expect(reports[1]?.notes.join()).toContain("nothing was put back");
  });
});
