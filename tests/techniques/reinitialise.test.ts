/** New weights: the structure and the zeros stay, deviations are the scheme's, a seed decides. */
import { describe, expect, test } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import type { Model } from "../../src/ir/model.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { reinitialise } from "../../src/techniques/tune/reinitialise.ts";
import { runTechnique } from "../support/run-technique.ts";

const weights = async (model: Model, name: string): Promise<Float32Array> =>
  (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
const deviation = (w: Float32Array): number => {
  const kept = w.filter((v) => v !== 0);
  return Math.sqrt(kept.reduce((sum, v) => sum + v * v, 0) / kept.length);
};

describe("reinitialise", () => {
  const network = (): Model => buildArchitecture("resnet-20", { seed: 7 });

  test("draws kernels by their fans, resets normalization, keeps shapes", async () => {
    const before = network();
    const { model, journal } = await runTechnique(reinitialise, before);
    expect(journal.changed.length).toBe(before.graph.initializers.size - shapeConstants(before));
    // 3×3 kernels of 64 channels: He's √(2/576), of 36,864 draws to within a percent; the last layer: Glorot's √(2/74).
    const inner = await weights(model, "stage3.2.2.conv.weight");
    expect(inner).not.toEqual(await weights(before, "stage3.2.2.conv.weight"));
    expect(deviation(inner) / Math.sqrt(2 / 576)).toBeCloseTo(1, 1);
    expect(deviation(await weights(model, "fc.weight")) / Math.sqrt(2 / 74)).toBeCloseTo(1, 0.5);
    expect(new Set(await weights(model, "stem.bn.running_var"))).toEqual(new Set([1]));
    expect(new Set(await weights(model, "stem.bn.running_mean"))).toEqual(new Set([0]));
    expect(new Set(await weights(model, "stem.bn.weight"))).toEqual(new Set([1]));
    expect(new Set(await weights(model, "fc.bias"))).toEqual(new Set([0]));
    const uniform = await runTechnique(reinitialise, before, { distribution: "uniform", scheme: "glorot" });
    const spread = await weights(uniform.model, "stage3.2.2.conv.weight");
    expect(deviation(spread) / Math.sqrt(2 / 1152)).toBeCloseTo(1, 1);
    expect(spread.reduce((most, w) => Math.max(most, Math.abs(w)), 0)).toBeLessThan(Math.sqrt(6 / 1152));
  });

  test("keeps the zeros of pruning, and makes up for them", async () => {
    const pruned = (await runTechnique(pruneWeights, network(), { ratio: 0.75 })).model;
    const { model } = await runTechnique(reinitialise, pruned);
    const [old, now] = [
      await weights(pruned, "stage3.2.2.conv.weight"),
      await weights(model, "stage3.2.2.conv.weight"),
    ];
    expect(now.filter((v) => v === 0).length).toBe(old.filter((v) => v === 0).length);
    expect(old.every((v, i) => v !== 0 || now[i] === 0)).toBe(true);
    expect(deviation(now) / Math.sqrt(2 / (0.25 * 576))).toBeCloseTo(1, 1);
    const dense = await runTechnique(reinitialise, pruned, { keepZeros: false });
    expect((await weights(dense.model, "stage3.2.2.conv.weight")).filter((v) => v === 0).length).toBe(0);
  });

  test("draws depthwise kernels and transformers by their own axes", async () => {
    const mobile = await runTechnique(reinitialise, buildArchitecture("mobilenet-v1", { input: [3, 32, 32] }));
    const depthwise = [...mobile.journal.changed].filter(({ how }) => how.startsWith("he-normal, fan in 9"));
    expect(depthwise.length).toBeGreaterThan(10);
    const { model, journal } = await runTechnique(reinitialise, buildArchitecture("gpt-nano"));
    expect(journal.changed.filter(({ how }) => how === "truncated-0.02").length).toBe(2); // tokens and positions
    for (const value of model.graph.initializers.values())
      if (value.tensor?.dtype === "float32") expect((await value.tensor.data()).every(Number.isFinite)).toBe(true);
  });

  test("leaves what it is told to, and depends on the seed alone", async () => {
    const before = network();
    const { model, journal } = await runTechnique(reinitialise, before, { keep: ["stem.*"] });
    expect(await weights(model, "stem.conv.weight")).toEqual(await weights(before, "stem.conv.weight"));
    expect(journal.skipped.map(({ what }) => what)).toContain("stem.conv.weight");
    const again = await runTechnique(reinitialise, before);
    const first = await runTechnique(reinitialise, before);
    expect(await weights(again.model, "fc.weight")).toEqual(await weights(first.model, "fc.weight"));
  });
});

/** Stored numbers that are not learned: indices of slices and paddings. */
function shapeConstants(model: Model): number {
  return [...model.graph.initializers.values()].filter(({ dtype }) => dtype === "int64").length;
}
