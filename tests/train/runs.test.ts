/** Whole runs: everything switched on resumes to the bit, and each part of a run does what it says. */
import { describe, expect, test } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { Rng } from "../../src/base/rng.ts";
import type { Batch, Dataset } from "../../src/data/dataset.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";
import { findLearningRate } from "../../src/train/find-rate.ts";
import { type TrainOptions, trainModel } from "../../src/train/loop.ts";
import { reestimateBatchNorm } from "../../src/train/reestimate.ts";
import { train } from "../../src/train/train.node.ts";
import { clouds } from "./tiny-data.ts";

const quick: TrainOptions = { batch: 16, epochs: 2, inProcess: true, threads: 1, learningRate: 0.05 };
const images = (size = 64): Dataset => clouds({ shape: [1, 8, 8], size });
const cnn = (): Model => buildArchitecture("small-cnn", { input: [1, 8, 8], classes: 3, width: 4, stages: 2 });

async function weightsOf(model: Model): Promise<Record<string, Float32Array>> {
  const entries = [...model.graph.initializers].map(async ([name, { tensor }]) => [
    name,
    await (tensor as Tensor).data(),
  ]);
  return Object.fromEntries(await Promise.all(entries)) as Record<string, Float32Array>;
}

async function bytesOf(model: Model): Promise<string> {
  const weights = await weightsOf(model);
  return Object.entries(weights)
    .map(([name, data]) => `${name} ${Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64")}`)
    .join("\n");
}

/** A small network with Dropout on images of 8 × 8. */
function dropping(): Model {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const rng = new Rng(2);
  const draw = (shape: number[]): Tensor =>
    Tensor.float32(
      shape,
      Array.from({ length: (shape[0] ?? 1) * (shape[1] ?? 1) }, () => rng.normal(0, 0.2)),
    );
  const x = b.op("Flatten", [b.input("x", "float32", ["n", 1, 8, 8])]);
  const h = b.op("Relu", [b.op("MatMul", [x, b.constant("a", draw([64, 12]))])]);
  const d = b.op("Dropout", [h, b.constant("ratio", Tensor.float32([], [0.25]))]);
  b.output(b.op("MatMul", [d, b.constant("w", draw([12, 3]))]), "y");
  return model;
}

describe("a run with everything switched on", () => {
  const everything: TrainOptions = {
    ...quick,
    epochs: 4,
    optimizer: "adamw",
    learningRate: 0.01,
    weightDecay: 0.01,
    clipNorm: 1,
    averaging: 0.8,
    accumulate: 2,
    precision: "mixed",
    schedule: "one-cycle",
    augment: { flip: true, crop: 1, cutout: 2, noise: 0.1, mixup: 0.3, cutmix: 1 },
    validation: images(),
    patience: 3,
    reestimate: 2,
  };
  const start = (): Model => dropping();

  test("resumes to the same bytes after dying at any checkpoint", async () => {
    const whole = start();
    const expected = await trainModel(whole, images(), everything, openSession);
    const bytes = await bytesOf(whole);
    for (const writes of [1, 2, 5, 9]) {
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
      const died = trainModel(
        start(),
        images(),
        { ...everything, checkpoints: dying, checkpointSeconds: 0 },
        openSession,
      );
      await expect(died).rejects.toThrow("killed");
      const model = start();
      const calm = {
        read: () => Promise.resolve(kept && decodeCheckpoint(kept, "memory")),
        write: () => Promise.resolve(),
      };
      const result = await trainModel(model, images(), { ...everything, checkpoints: calm, resume: true }, openSession);
      expect(await bytesOf(model)).toBe(bytes);
      expect(result.epochs.map(({ loss }) => loss)).toEqual(expected.epochs.map(({ loss }) => loss));
    }
    const other = start();
    await trainModel(other, images(), { ...everything, augment: { ...everything.augment, noise: 0.2 } }, openSession);
    expect(await bytesOf(other)).not.toBe(bytes);
  });

  test("any number of threads gives the same up to rounding", async () => {
    const runs = await Promise.all(
      [1, 2].map(async (threads) => {
        const model = cnn();
        await trainModel(model, images(), { ...quick, threads }, openSession);
        return weightsOf(model);
      }),
    );
    const [one, two] = runs;
    // Sums in other orders: 2⁻²⁴ per addition, carried through eight steps
    for (const [name, data] of Object.entries(one ?? {}))
      for (const [i, value] of data.entries()) expect(Math.abs(value - (two?.[name]?.[i] ?? 9))).toBeLessThan(1e-4);
  });

  test("resuming without a checkpoint says so", async () => {
    const notes: string[] = [];
    const empty = { read: () => Promise.resolve(undefined), write: () => Promise.resolve() };
    const onNote = (note: string): number => notes.push(note);
    await trainModel(dropping(), images(), { ...quick, checkpoints: empty, resume: true, onNote }, openSession);
    expect(notes.join()).toContain("no checkpoint");
  });
});

describe("early stopping", () => {
  const still = { ...quick, epochs: 9, learningRate: 1e-12, validation: images(), batchNorm: "frozen" } as const;

  test("ends after so many epochs without gain", async () => {
    const result = await train(dropping(), images(), { ...still, patience: 3 });
    expect(result.epochs).toHaveLength(4);
    expect(result.stoppedEarly).toBe(true);
    expect((await train(dropping(), images(), still)).stoppedEarly).toBe(false);
  });

  test("goes on while the score improves, unless by less than the smallest gain", async () => {
    const learning = {
      ...still,
      learningRate: 0.02,
      schedule: "constant",
      patience: 1,
      loss: "cross-entropy",
    } as const;
    const apart = clouds({ shape: [1, 8, 8], size: 64, apart: 0.3 });
    const patient = await train(dropping(), apart, { ...learning, validation: apart, minimumGain: 0 });
    const strict = await train(dropping(), apart, { ...learning, validation: apart, minimumGain: 1 });
    expect(patient.epochs.length).toBeGreaterThan(strict.epochs.length);
    expect(strict.epochs).toHaveLength(2);
  });
});

/** Sequences of tokens in which each is the one before plus 1 or 2, by a rule; the last two labels are padding. */
function counting(length = 6, vocabulary = 5): Dataset {
  const size = 64;
  const take = (indices: readonly number[]): Promise<Batch> => {
    const tokens = BigInt64Array.from(
      indices.flatMap((index) => Array.from({ length }, (_, t) => BigInt((index + t) % vocabulary))),
    );
    const labels = Int32Array.from(
      indices.flatMap((index) =>
        Array.from({ length }, (_, t) => (t >= length - 2 ? -100 : (index + t + 1) % vocabulary)),
      ),
    );
    return Promise.resolve({
      size: indices.length,
      fields: { tokens: { dtype: "int64" as const, shape: [indices.length, length], data: tokens } },
      labels: { dtype: "int32" as const, shape: [indices.length, length], data: labels },
    });
  };
  const all = Array.from({ length: size }, (_, i) => i);
  return {
    name: "counting:",
    size,
    fields: [{ name: "tokens", dtype: "int64", shape: [length] }],
    labels: "tokens",
    labelShape: [length],
    async *batches({ size: batch = 32 } = {}) {
      for (let at = 0; at < size; at += batch) yield await take(all.slice(at, at + batch));
    },
    take,
    subset: () => counting(length, vocabulary),
  };
}

/** A table of embeddings and a layer on top: enough to know the next token from this one. */
function bigram(vocabulary = 5): Model {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const rng = new Rng(4);
  const draw = (shape: number[]): Tensor =>
    Tensor.float32(
      shape,
      Array.from({ length: (shape[0] ?? 1) * (shape[1] ?? 1) }, () => rng.normal(0, 0.3)),
    );
  const tokens = b.input("tokens", "int64", ["n", 6]);
  const e = b.op("Gather", [b.constant("table", draw([vocabulary, 8])), tokens]);
  b.output(b.op("MatMul", [e, b.constant("w", draw([8, vocabulary]))]), "scores");
  return model;
}

describe("other kinds of labels", () => {
  test("a language model learns the next token; padding does not count", async () => {
    const data = counting();
    const options = { ...quick, optimizer: "adam", learningRate: 0.05, epochs: 12, validation: data } as const;
    const result = await train(bigram(), data, options);
    expect(result.best.metrics["accuracy"]).toBe(1);
    expect(result.best.metrics["loss"]).toBeLessThan(0.2);
    const { best } = await train(bigram(), data, { ...options, labelSmoothing: 0.1, accumulate: 2 });
    expect(best.metrics["accuracy"]).toBe(1);
  });

  test("several labels per sample, yes or no each", async () => {
    const base = clouds({ classes: 3 });
    const three = async (batch: Promise<Batch>): Promise<Batch> => {
      const read = await batch;
      const classes = read.labels?.data as Int32Array;
      const data = Float32Array.from({ length: classes.length * 3 }, (_, i) =>
        classes[Math.floor(i / 3)] === i % 3 ? 1 : 0,
      );
      return { ...read, labels: { dtype: "float32", shape: [classes.length, 3], data } };
    };
    const data: Dataset = {
      ...base,
      labels: "values",
      labelShape: [3],
      take: (indices) => three(base.take(indices)),
      async *batches(options) {
        for await (const batch of base.batches(options)) yield await three(Promise.resolve(batch));
      },
    };
    const model = (): Model => buildArchitecture("mlp", { input: [6], classes: 3, hidden: [8] });
    for (const loss of ["bce", "cross-entropy", "kl", "mse", "huber"] as const) {
      const result = await train(model(), data, { ...quick, optimizer: "adam", epochs: 8, loss, validation: data });
      const last = result.epochs.at(-1);
      expect(last?.metrics["loss"]).toBeLessThan((result.epochs[0]?.metrics["loss"] ?? 0) * 0.7);
      // A run's own loss and the one that is measured outside the engine are the same thing.
      expect(Math.abs((last?.metrics["loss"] ?? 9) - (last?.loss ?? 0))).toBeLessThan(0.1);
      if (loss !== "mse" && loss !== "huber") expect(last?.metrics["accuracy"]).toBeGreaterThan(0.9);
    }
    const mixed = await train(model(), data, { ...quick, loss: "bce", augment: { mixup: 0.5 } });
    expect(mixed.epochs).toHaveLength(2);
  });

  test("what does not go together says so before anything runs", async () => {
    const mix = { augment: { mixup: 0.2 } };
    await expect(train(bigram(), counting(), { ...quick, ...mix })).rejects.toThrow("tokens cannot be blended");
    await expect(train(cnn(), images(), { ...quick, patience: 2 })).rejects.toThrow("--validation");
    await expect(train(cnn(), images(), { ...quick, accumulate: 5 })).rejects.toThrow("16 cannot be split into 5");
    await expect(train(cnn(), images(), { ...quick, terms: [{ kind: "soft-logits" }] })).rejects.toThrow(
      "there is none",
    );
    await expect(
      train(cnn(), images(), { ...quick, augment: { crop: 1, layout: "nchw" }, loss: "ctc" }),
    ).rejects.toThrow("ctc needs scores");
  });
});

describe("statistics of BatchNorm measured anew", () => {
  test("are those of the layer's input over the samples, and depend on the seed alone", async () => {
    const model = buildArchitecture("small-cnn", { input: [1, 4, 4], classes: 3, width: 2, stages: 1 });
    const data = clouds({ shape: [1, 4, 4], size: 64 });
    const options = { batch: 16, batches: 4, inProcess: true, threads: 1 } as const;
    const names = await reestimateBatchNorm(model, data, options, openSession);
    expect(names.some((name) => name.endsWith("running_mean"))).toBe(true);
    const weights = await weightsOf(model);
    const conv = model.graph.nodes.find((node) => node.opType === "Conv")?.outputs[0];
    if (!conv) throw new Error("no convolution");
    [conv.dtype, conv.shape] = ["float32", ["batch", 2, 4, 4]];
    model.graph.outputs.splice(0, 1, conv);
    const session = await openSession(model, { inProcess: true });
    const { fields } = await data.take(Array.from({ length: 64 }, (_, i) => i));
    const y = (await session.run({ input: fields["x"] as NonNullable<(typeof fields)["x"]> }))[conv.name]
      ?.data as Float32Array;
    await session.close();
    const n = 64 * 16;
    for (const channel of [0, 1]) {
      const values = y.filter((_, i) => Math.floor(i / 16) % 2 === channel);
      const mean = values.reduce((sum, v) => sum + v, 0) / n;
      const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1);
      expect(weights["stem.bn.running_mean"]?.[channel]).toBeCloseTo(mean, 4);
      expect((weights["stem.bn.running_var"]?.[channel] ?? 0) / variance).toBeCloseTo(1, 4);
    }
  });

  test("a network without BatchNorm stays as it is", async () => {
    const model = dropping();
    const before = await bytesOf(model);
    expect(await reestimateBatchNorm(model, images(), { inProcess: true }, openSession)).toEqual([]);
    expect(await bytesOf(model)).toBe(before);
  });
});

describe("the learning-rate finder", () => {
  test("suggests a rate that learns, and leaves the model alone", async () => {
    const model = cnn();
    const before = await bytesOf(model);
    const data = images(192);
    const found = await findLearningRate(model, data, { ...quick, steps: 60 }, openSession);
    expect(await bytesOf(model)).toBe(before);
    expect(found.suggestion).toBeCloseTo(found.lowest / 10);
    expect(found.points[0]?.rate).toBeCloseTo(1e-6);
    const { best } = await train(model, data, {
      ...quick,
      epochs: 6,
      learningRate: found.suggestion,
      validation: data,
    });
    expect(best.metrics["accuracy"]).toBeGreaterThan(0.9);
  });
});
