/** Fine-tuning through the technique's contract: it recovers, holds zeros, keeps what it is told to keep. */
import { describe, expect, test } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { installEngine } from "../../src/techniques/engine.ts";
import { evaluateConstants } from "../../src/run/fold.node.ts";
import { tap } from "../../src/run/taps.node.ts";
import type { Journal } from "../../src/techniques/journal.ts";
import { finetune } from "../../src/techniques/tune/finetune.ts";
import { train } from "../../src/train/train.node.ts";
import { contextOf } from "../support/run-technique.ts";
import { clouds } from "../train/tiny-data.ts";

// The engine in this thread: small models need no worker.
installEngine({
  openSession: (model, options) => openSession(model, { ...options, inProcess: true }),
  evaluateConstants,
  tap,
});

const data = clouds({ size: 384, shape: [16], classes: 4, apart: 1.6 });
const mlp = (): Model => buildArchitecture("mlp", { input: [16], classes: 4, hidden: [24] });

async function run(model: Model, options: object, original: Model, set: Dataset | "none" = data): Promise<Journal> {
  const context = contextOf(original, set === "none" ? undefined : set);
  await finetune.run(model, finetune.options.parse(options), context);
  return context.journal;
}

async function accuracy(model: Model): Promise<number> {
  const result = await train(cloneModel(model), data, {
    epochs: 1,
    learningRate: 0,
    batchNorm: "frozen",
    validation: data,
    inProcess: true,
  });
  return result.best.metrics["accuracy"] ?? 0;
}

/** Zeroes the smallest nine tenths of a weight. */
async function prune(model: Model, name: string): Promise<void> {
  const value = model.graph.initializers.get(name);
  const w = (await value?.tensor?.data()) as Float32Array;
  const cut = [...w].map(Math.abs).sort((a, b) => a - b)[Math.floor(0.9 * w.length)] ?? 0;
  if (value)
    value.tensor = Tensor.of(
      "float32",
      value.tensor?.shape ?? [],
      w.map((v) => (Math.abs(v) < cut ? 0 : v)),
    );
}

async function zeros(model: Model, name: string): Promise<number> {
  const w = (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
  return w.filter((v) => v === 0).length;
}

describe("finetune", () => {
  test("wins back what pruning lost, and the zeros stay", async () => {
    const original = mlp();
    await train(original, data, { epochs: 20, batch: 32, inProcess: true });
    const full = await accuracy(original);
    const pruned = cloneModel(original);
    await prune(pruned, "fc1.weight");
    const [lost, before] = [await accuracy(pruned), await zeros(pruned, "fc1.weight")];
    expect(lost).toBeLessThan(full - 0.05);
    for (const teacher of ["none", "original"]) {
      const model = cloneModel(pruned);
      const journal = await run(model, { epochs: 10, batch: 32, learningRate: 0.05, teacher }, original);
      expect(await zeros(model, "fc1.weight")).toBe(before);
      expect(await accuracy(model)).toBeGreaterThan(lost + 0.7 * (full - lost));
      const change = journal.changed.find(({ what }) => what === "fc1.weight");
      expect(change?.how).toContain("zeros held");
      expect(change?.error).toBeGreaterThan(0);
    }
  });

  test("keeps what it is told to keep, by weight, node or operator", async () => {
    for (const keep of [["fc1.*"], ["fc1"], ["/^fc1/"]]) {
      const model = mlp();
      const before = (await model.graph.initializers.get("fc1.weight")?.tensor?.data()) as Float32Array;
      const journal = await run(model, { keep, batch: 32 }, model);
      expect(await model.graph.initializers.get("fc1.weight")?.tensor?.data()).toEqual(before);
      expect(journal.skipped.some(({ what }) => what === "fc1.weight")).toBe(true);
      expect(journal.changed.map(({ what }) => what)).toContain("fc2.weight");
    }
  });

  test("is the same for the same seed", async () => {
    const [a, b] = [mlp(), mlp()];
    await run(a, { batch: 32 }, a);
    await run(b, { batch: 32 }, b);
    const read = async (model: Model) => model.graph.initializers.get("fc1.weight")?.tensor?.data();
    expect(await read(a)).toEqual(await read(b));
  });

  test("trains convolutions whose BatchNorm is kept, with running statistics moving or frozen", async () => {
    const images = clouds({ size: 128, shape: [1, 8, 8], classes: 3 });
    for (const batchNorm of ["batch", "frozen"]) {
      const model = buildArchitecture("small-cnn", { input: [1, 8, 8], classes: 3, width: 4, stages: 2 });
      const before = await model.graph.initializers.get("stem.bn.running_mean")?.tensor?.data();
      const journal = await run(model, { batchNorm, batch: 32, learningRate: 0.02 }, model, images);
      const after = await model.graph.initializers.get("stem.bn.running_mean")?.tensor?.data();
      if (batchNorm === "frozen") expect(after).toEqual(before);
      else expect(after).not.toEqual(before);
      expect(journal.changed.map(({ what }) => what)).toContain("stem.bn.weight");
    }
  });

  test("asks for data", async () => {
    const model = mlp();
    await expect(run(model, {}, model, "none")).rejects.toThrow("needs training data");
    expect(finetune.needs).toContain("training");
  });
});
