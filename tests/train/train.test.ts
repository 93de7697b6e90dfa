/** Training: it learns, and what must stay exact stays exact. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";
import { checkpointFile } from "../../src/train/checkpoint.node.ts";
import { trainableParameters } from "../../src/train/parameters.ts";
import { learningRateAt } from "../../src/train/schedule.ts";
import { type NodeTrainOptions, train } from "../../src/train/train.node.ts";
import type { NdArray } from "../../src/run/session.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { trainModel } from "../../src/train/loop.ts";
import { clouds } from "./tiny-data.ts";

const folder = mkdtempSync(join(tmpdir(), "pare-train-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const mlp = (seed = 1): Model => buildArchitecture("mlp", { input: [6], classes: 3, hidden: [8], seed });
const cnn = (residual = false): Model =>
  buildArchitecture("small-cnn", { input: [1, 8, 8], classes: 3, width: 4, stages: 2, residual });
const images = (size = 64): ReturnType<typeof clouds> => clouds({ shape: [1, 8, 8], size });

const quick: NodeTrainOptions = { batch: 16, epochs: 2, inProcess: true, threads: 1, learningRate: 0.05 };

async function bytesOf(model: Model): Promise<string> {
  const parts: string[] = [];
  for (const [name, value] of model.graph.initializers)
    parts.push(`${name}: ${Buffer.from(await (value.tensor as Tensor).bytes()).toString("base64")}`);
  return parts.join("\n");
}

async function dataOf(model: Model, name: string): Promise<Float32Array> {
  return (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
}

describe("learning", () => {
  for (const optimizer of ["sgd", "adam", "adamw"] as const)
    test(`${optimizer} learns to tell three clouds apart`, async () => {
      const result = await train(mlp(), clouds(), {
        ...quick,
        optimizer,
        epochs: 10,
        learningRate: optimizer === "sgd" ? 0.05 : 0.02,
        validation: clouds({ seed: 5 }),
      });
      expect(result.best.metrics["accuracy"]).toBeGreaterThan(0.95);
      expect(result.epochs).toHaveLength(10);
      expect(result.epochs.at(-1)?.loss).toBeLessThan(result.epochs[0]?.loss ?? 0);
    });

  test("labels drawn at random are not learned: the negative control", async () => {
    const noise = (index: number): number => (index * 7919 + 13) % 3;
    const result = await train(mlp(), clouds({ label: noise, apart: 0 }), {
      ...quick,
      validation: clouds({ seed: 9, apart: 0 }),
    });
    expect(result.best.metrics["accuracy"]).toBeLessThan(0.6);
  });

  test("convolution, BatchNorm, pooling and residual connections learn", async () => {
    for (const residual of [false, true]) {
      const data = images(192);
      const result = await train(cnn(residual), data, { ...quick, epochs: 6, validation: data });
      expect(result.best.metrics["accuracy"]).toBeGreaterThan(0.95);
    }
  });

  test("a teacher alone, without labels, is imitated", async () => {
    const teacher = mlp();
    await train(teacher, clouds(), { ...quick, epochs: 8 });
    const student = mlp(2);
    const unlabelled = { ...clouds(), labels: undefined };
    await train(student, unlabelled, { ...quick, epochs: 12, teacher: { model: teacher, share: 1, temperature: 2 } });
    const scores = await train(student, clouds(), { ...quick, epochs: 1, learningRate: 1e-12, validation: clouds() });
    expect(scores.best.metrics["accuracy"]).toBeGreaterThan(0.9);
  });

  test("the best epoch's weights are kept, the last ones when asked", async () => {
    const options = {
      ...quick,
      epochs: 6,
      learningRate: 0.5,
      schedule: "constant",
      validation: clouds({ apart: 1 }),
    } as const;
    const best = await train(mlp(), clouds({ apart: 1 }), options);
    const last = await train(mlp(), clouds({ apart: 1 }), { ...options, keepBest: false });
    const accuracies = best.epochs.map(({ metrics }) => metrics["accuracy"] ?? 0);
    expect(best.best.metrics["accuracy"]).toBe(Math.max(...accuracies));
    expect(last.best.epoch).toBe(6);
  });
});

describe("what stays exact", () => {
  test("learning rate 0 changes nothing", async () => {
    for (const optimizer of ["sgd", "adam", "adamw"] as const) {
      const model = cnn();
      const before = await bytesOf(model);
      await train(model, images(), { ...quick, optimizer, learningRate: 0, weightDecay: 0.1, batchNorm: "frozen" });
      expect(await bytesOf(model)).toBe(before);
    }
    const model = cnn();
    const before = await bytesOf(model);
    await train(model, images(), { ...quick, learningRate: 1e-3, batchNorm: "frozen" });
    expect(await bytesOf(model)).not.toBe(before);
  });

  test("the same seed gives the same bytes, another seed others", async () => {
    const run = async (seed: number): Promise<string> => {
      const model = cnn(true);
      await train(model, images(), { ...quick, seed, threads: 2 });
      return bytesOf(model);
    };
    const first = await run(1);
    expect(await run(1)).toBe(first);
    expect(await run(2)).not.toBe(first);
  });

  test("weights at zero stay zero, others move; without masks they fill again", async () => {
    const thin = async (maskZeros: boolean): Promise<{ zeros: number; moved: boolean }> => {
      const model = mlp();
      const value = model.graph.initializers.get("fc1.weight");
      const data = (await dataOf(model, "fc1.weight")).map((w, i) => (i % 4 === 0 ? w : 0));
      if (value) value.tensor = Tensor.of("float32", [8, 6], data);
      const result = await train(model, clouds(), { ...quick, maskZeros, weightDecay: 0.01 });
      expect(result.masked).toEqual(maskZeros ? ["fc1.weight"] : []);
      const after = await dataOf(model, "fc1.weight");
      return {
        zeros: after.filter((w, i) => i % 4 !== 0 && w === 0).length,
        moved: after.some((w, i) => i % 4 === 0 && w !== data[i]),
      };
    };
    expect(await thin(true)).toEqual({ zeros: 36, moved: true });
    expect((await thin(false)).zeros).toBeLessThan(36);
  });

  test("frozen weights do not change", async () => {
    const model = mlp();
    const before = await dataOf(model, "fc1.weight");
    const result = await train(model, clouds(), { ...quick, frozen: (name) => name.startsWith("fc1") });
    expect(await dataOf(model, "fc1.weight")).toEqual(before);
    expect(result.trained).toEqual(["fc2.weight", "fc2.bias"]);
  });

  test("frozen running statistics neither move nor give way to the batch's", async () => {
    const model = cnn();
    const before = await bytesOf(model);
    const stem = (name: string): boolean => name.startsWith("stem");
    const result = await train(model, images(), { ...quick, frozen: stem });
    expect(result.trained.filter(stem)).toEqual([]);
    expect(result.trained.some((name) => name.includes("running"))).toBe(true);
    const kept = (text: string): string[] => text.split("\n").filter((line) => stem(line));
    expect(kept(await bytesOf(model))).toEqual(kept(before));
    expect(await bytesOf(model)).not.toBe(before);
  });

  test("shared weights stay shared and get both gradients", async () => {
    const model = buildArchitecture("mlp", { input: [6], classes: 3, hidden: [6, 6] });
    const [first, second] = model.graph.nodes.filter((node) => node.opType === "Gemm");
    const gone = second?.inputs[1];
    second?.setInput(1, first?.inputs[1]);
    if (gone) model.graph.removeInitializer(gone);
    const result = await train(model, clouds(), { ...quick, epochs: 8, validation: clouds() });
    expect(second?.inputs[1]).toBe(first?.inputs[1]);
    expect(result.trained.filter((name) => name.endsWith("weight"))).toEqual(["fc1.weight", "fc3.weight"]);
    expect(result.best.metrics["accuracy"]).toBeGreaterThan(0.9);
  });

  test("running statistics move by a tenth of the way to the batch's", async () => {
    const model = buildArchitecture("small-cnn", { input: [1, 4, 4], classes: 3, width: 2, stages: 1 });
    const probe = cloneModel(model);
    const conv = probe.graph.nodes.find((node) => node.opType === "Conv")?.outputs[0];
    if (conv) [conv.dtype, conv.shape] = ["float32", ["batch", 2, 4, 4]];
    if (conv) probe.graph.outputs.splice(0, 1, conv);
    const data = clouds({ shape: [1, 4, 4], size: 16 });
    const { fields } = await data.take(Array.from({ length: 16 }, (_, i) => i));
    const session = await openSession(probe, { inProcess: true });
    const y = (await session.run({ input: fields["x"] as NonNullable<(typeof fields)["x"]> }))[conv?.name ?? ""]
      ?.data as Float32Array;
    await session.close();
    await train(model, data, { ...quick, epochs: 1, learningRate: 0 });
    const n = 16 * 16;
    for (const channel of [0, 1]) {
      const values = y.filter((_, i) => Math.floor(i / 16) % 2 === channel);
      const mean = values.reduce((sum, v) => sum + v, 0) / n;
      const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1);
      expect((await dataOf(model, "stem.bn.running_mean"))[channel]).toBeCloseTo(0.1 * mean, 5);
      expect((await dataOf(model, "stem.bn.running_var"))[channel]).toBeCloseTo(0.9 + 0.1 * variance, 5);
    }
  });
});

describe("stopping and going on", () => {
  const options = { ...quick, epochs: 3, validation: images(), momentum: 0.8 } as const;

  test("a run that dies at any step resumes to the same bytes", async () => {
    const whole = cnn();
    const { epochs } = await train(whole, images(), options);
    const expected = await bytesOf(whole);
    for (const writes of [1, 3, 5, 8]) {
      let kept: Uint8Array | undefined;
      let left = writes;
      const dying = {
        read: () => Promise.resolve(undefined),
        write: (checkpoint: Checkpoint): Promise<void> => {
          if (left-- === 0) throw new Error("killed");
          kept = encodeCheckpoint(checkpoint);
          return Promise.resolve();
        },
      };
      const store = { ...dying, read: () => Promise.resolve(kept && decodeCheckpoint(kept, "memory")) };
      const died = trainModel(cnn(), images(), { ...options, checkpoints: dying, checkpointSeconds: 0 }, openSession);
      await expect(died).rejects.toThrow("killed");
      const model = cnn();
      const calm = { read: store.read, write: () => Promise.resolve() };
      const result = await trainModel(model, images(), { ...options, checkpoints: calm, resume: true }, openSession);
      expect(await bytesOf(model)).toBe(expected);
      const scores = (records: typeof epochs): unknown =>
        records.map(({ epoch, loss, metrics }) => [epoch, loss, metrics]);
      expect(scores(result.epochs)).toEqual(scores(epochs));
    }
  });

  test("a checkpoint of another run is refused", async () => {
    const path = join(folder, "other.ckpt");
    await train(mlp(), clouds(), { ...quick, checkpoint: path });
    await expect(train(mlp(), clouds(), { ...quick, checkpoint: path, resume: true, seed: 2 })).rejects.toThrow(
      "another run",
    );
    expect(readdirSync(folder)).toEqual(["other.ckpt"]);
  });

  test("damaged checkpoints say so", async () => {
    const path = join(folder, "other.ckpt");
    const bytes = encodeCheckpoint((await checkpointFile(path).read()) as Checkpoint);
    for (const [damaged, word] of [
      [bytes.subarray(0, bytes.length - 3), "truncated"],
      [bytes.subarray(0, 30), "truncated"],
      [new TextEncoder().encode("hello"), "another kind of file"],
    ] as const) {
      writeFileSync(path, damaged);
      await expect(checkpointFile(path).read()).rejects.toThrow(word);
    }
  });

  test("the signal stops it and leaves the model as it was", async () => {
    const model = mlp();
    const before = await bytesOf(model);
    const controller = new AbortController();
    const running = train(model, clouds(), {
      ...quick,
      signal: controller.signal,
      onEpoch: () => controller.abort(),
    });
    await expect(running).rejects.toMatchObject({ code: "aborted" });
    expect(await bytesOf(model)).toBe(before);
  });
});

describe("bad input", () => {
  test("labels out of range name the label and the range", async () => {
    const data = clouds({ label: (index) => (index === 7 ? 3 : 0) });
    await expect(train(mlp(), data, quick)).rejects.toThrow(/label 3.*0 to 2/);
    await expect(train(mlp(), clouds({ label: () => -1 }), quick)).rejects.toMatchObject({ code: "bad-data" });
  });

  test("data that does not fit names both shapes", async () => {
    await expect(train(mlp(), clouds({ shape: [5] }), quick)).rejects.toMatchObject({ code: "shape-mismatch" });
  });

  test("a learning rate that is far too high is reported as divergence", async () => {
    await expect(train(mlp(), clouds(), { ...quick, learningRate: 1e18, epochs: 5 })).rejects.toThrow(
      /step \d+ of 80, learning rate .*diverged.*last finite loss.*Lower the learning rate/,
    );
  });

  test("weights that only the last step has lost are not handed out", async () => {
    const model = mlp();
    const before = await bytesOf(model);
    const one = { ...quick, batch: 256, epochs: 1, learningRate: 1e300, schedule: "constant" as const };
    await expect(train(model, clouds(), one)).rejects.toThrow(/diverged: the weights are not finite/);
    expect(await bytesOf(model)).toBe(before);
  });

  test("divergence in mixed precision is not taken for overflow that passes", async () => {
    const mixed = { ...quick, precision: "mixed" as const, learningRate: 1e12, epochs: 8 };
    await expect(train(mlp(), clouds(), mixed)).rejects.toThrow(/diverged/);
    const short = { ...mixed, epochs: 1, batch: 256 };
    const huge = clouds();
    const take = async (indices: readonly number[]): ReturnType<typeof huge.take> => {
      const batch = await huge.take(indices);
      const x = batch.fields["x"] as NdArray;
      const data = (x.data as Float32Array).map((value) => value * 1e30);
      return { ...batch, fields: { x: { ...x, data } } };
    };
    await expect(train(mlp(), { ...huge, take }, short)).rejects.toThrow(
      /diverged: the gradients are not finite.*1 of 1 steps/,
    );
  });

  test("a model without weights cannot be trained", async () => {
    const model = mlp();
    for (const node of model.graph.nodes) if (node.opType === "Gemm") node.opType = "UnknownOperator";
    await expect(train(model, clouds(), quick)).rejects.toMatchObject({ code: "unsupported" });
  });
});

test("trainable parameters are the learned ones", () => {
  const names = trainableParameters(cnn()).map((value) => value.name);
  expect(names).toContain("stem.conv.weight");
  expect(names).toContain("stem.bn.weight");
  expect(names.filter((name) => name.includes("running"))).toEqual([]);
});

test("schedules", () => {
  const at = (step: number, options: Parameters<typeof learningRateAt>[3]): number =>
    learningRateAt(step, 100, 1, options);
  expect(at(0, { schedule: "cosine" })).toBe(1);
  expect(at(50, { schedule: "cosine" })).toBeCloseTo(0.5);
  expect(at(99, { schedule: "cosine" })).toBeLessThan(0.001);
  expect([at(49, { schedule: "step" }), at(50, { schedule: "step" }), at(80, { schedule: "step" })]).toEqual([
    1,
    0.1,
    expect.closeTo(0.01) as number,
  ]);
  expect(at(4, { schedule: "constant", warmup: 0.1 })).toBeCloseTo(0.5);
  expect(at(10, { schedule: "constant", warmup: 0.1 })).toBe(1);
  expect(at(25, { schedule: "linear" })).toBeCloseTo(0.75);
  expect(at(50, { schedule: "linear", minimumRate: 0.2 })).toBeCloseTo(0.6);
  expect(at(99, { schedule: "cosine", minimumRate: 0.2 })).toBeCloseTo(0.2, 3);
  expect(at(80, { schedule: "step", minimumRate: 0.05 })).toBeCloseTo(0.05);
  const cycle = Array.from({ length: 100 }, (_, step) => at(step, { schedule: "one-cycle" }));
  expect([cycle[0], cycle[30]]).toEqual([expect.closeTo(0.04), 1]);
  expect(cycle.at(-1)).toBeLessThan(0.002);
  expect(cycle.indexOf(Math.max(...cycle))).toBe(30);
});
