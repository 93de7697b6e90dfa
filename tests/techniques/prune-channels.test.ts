/** Pruning whole channels: what goes, by which score, towards which target, and what stays with the reason. */
import { describe, expect, it } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { Builder } from "../../src/ir/builder.ts";
import { checkModel } from "../../src/ir/check.ts";
import type { Model } from "../../src/ir/model.ts";
import { Model as OnnxModel } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { allocate } from "../../src/techniques/prune/allocate.ts";
import { pruneChannels } from "../../src/techniques/prune/channels/prune-channels.ts";
import { smallOf } from "../architectures/small.ts";
import { runOnSynthetic } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";

/** y = (x W1 + b) W2 with four hidden channels, whose filters have the lengths 4, 1, 3, 2. */
function twoLayers(): Model {
  const model = new OnnxModel();
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", [1, 2]);
  const first = b.constant("w1", Tensor.float32([2, 4], [4, 1, 3, 2, 0, 0, 0, 0]));
  const bias = b.constant("bias", Tensor.float32([4], [10, 20, 30, 40]));
  const second = b.constant("w2", Tensor.float32([4, 2], [1, 2, 3, 4, 5, 6, 7, 8]));
  const hidden = b.op("Add", [b.op("MatMul", [x, first], { name: "hidden" }), bias]);
  const y = b.op("MatMul", [b.op("Relu", [hidden]), second], { name: "out" });
  b.output(y, "y");
  [y.dtype, y.shape] = ["float32", [1, 2]];
  return model;
}

async function numbers(model: Model, name: string): Promise<number[]> {
  return Array.from((await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array);
}

describe("prune-channels", () => {
  it("cuts the least channels out of the layer, its bias and its reader", async () => {
    const { model, journal } = await runTechnique(pruneChannels, twoLayers(), { ratio: 0.5 });
    expect(await numbers(model, "w1")).toEqual([4, 3, 0, 0]);
    expect(await numbers(model, "bias")).toEqual([10, 30]);
    expect(await numbers(model, "w2")).toEqual([1, 2, 5, 6]);
    expect(journal.changed).toEqual([{ what: "hidden", how: "4 -> 2 neurons by l2; gone: 1, 3" }]);
    expect(journal.skipped).toEqual([{ what: "out", why: "'y': the model's output" }]);
    expect(checkModel(model)).toEqual([]);
  });

  it("leaves everything at ratio 0, and one channel at the highest", async () => {
    const { model, journal } = await runTechnique(pruneChannels, twoLayers(), { ratio: 0 });
    expect(journal.changed).toEqual([]);
    expect(await numbers(model, "w1")).toHaveLength(8);
    const most = await runTechnique(pruneChannels, twoLayers(), { ratio: 0.99 });
    expect(await numbers(most.model, "bias")).toEqual([10]);
  });

  it("keeps what it is told to keep, multiples and a least number", async () => {
    const { journal } = await runTechnique(pruneChannels, twoLayers(), { keep: ["hidden"] });
    expect(journal.changed).toEqual([]);
    expect(journal.skipped).toContainEqual({ what: "hidden", why: "kept" });
    const multiple = await runTechnique(pruneChannels, twoLayers(), { ratio: 0.4, multipleOf: 4 });
    expect(multiple.journal.changed).toEqual([]);
    const least = await runTechnique(pruneChannels, twoLayers(), { ratio: 0.9, minChannels: 3 });
    expect(await numbers(least.model, "bias")).toEqual([10, 30, 40]);
  });

  it.each(["macs", "parameters", "bytes"] as const)("reaches a target of %s", async (quantity) => {
    const original = smallOf("resnet-20");
    const { model } = await runTechnique(pruneChannels, original, { [quantity]: 0.5, scope: "global" });
    const of = quantity === "bytes" ? "weightBytes" : quantity;
    const removed = 1 - costOf(model)[of] / costOf(original)[of];
    expect(removed).toBeGreaterThanOrEqual(0.5);
    // One channel of the widest layers is a few hundredths of so small a network.
    expect(removed).toBeLessThan(0.6);
    await runOnSynthetic(model);
  });

  it.each(["l1", "l2", "scale", "geometric-median", "random"])("ranks by %s", async (score) => {
    const { model, journal } = await runTechnique(pruneChannels, smallOf("mobilenet-v2"), { score, ratio: 0.4 });
    expect(journal.changed.length).toBeGreaterThan(0);
    expect(checkModel(model)).toEqual([]);
    await runOnSynthetic(model);
  });

  it("cuts only the kinds that are asked for", async () => {
    const cut = async (kind: string): Promise<string[]> => {
      const { model, journal } = await runTechnique(pruneChannels, smallOf("bert-mini"), { kind: [kind], ratio: 0.5 });
      expect(checkModel(model)).toEqual([]);
      await runOnSynthetic(model);
      return journal.changed.map(({ how }) => how.replace(/^\d+ -> \d+ (\w+) by.*$/, "$1"));
    };
    expect(new Set(await cut("heads"))).toEqual(new Set(["heads"]));
    expect(new Set(await cut("neurons"))).toEqual(new Set(["neurons"]));
    // Asking for the width by its kind is asking for channels that are normalized over.
    expect(await cut("width")).toEqual(["width"]);
  });

  it("refuses two targets", async () => {
    await expect(runTechnique(pruneChannels, twoLayers(), { macs: 0.5, bytes: 0.5 })).rejects.toThrow(/one target/);
  });
});

describe("allocation", () => {
  it("compares families by their own scores when it is global", () => {
    const family = (name: string, size: number): never =>
      ({ name, groups: Array.from({ length: size }, (_, index) => ({ index, parts: [] })) }) as never;
    const families = [
      { family: family("a", 3), scores: Float64Array.of(1, 2, 3) },
      { family: family("b", 3), scores: Float64Array.of(10, 0.5, 0.1) },
    ];
    const counts = (scope: "local" | "global"): number[] =>
      [...allocate(families, 0.5, { scope, multipleOf: 1, least: 1, most: 1 }).values()].map((gone) => gone.length);
    expect(counts("global")).toEqual([1, 2]);
    expect(counts("local")).toEqual([2, 2]);
  });
});
