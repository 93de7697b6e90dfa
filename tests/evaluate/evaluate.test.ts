import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import type { Batch, Dataset } from "../../src/data/dataset.ts";
import { openDataset } from "../../src/data/open.node.ts";
import { evaluate, evaluationJson } from "../../src/evaluate/evaluate.node.ts";
import { fidelity } from "../../src/evaluate/fidelity.node.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { describeWithData, sharedData } from "../support/shared-data.ts";
import { classifier, smallCnn, unary } from "../support/small-models.ts";

/** Points labelled by the model itself, some labels then changed. */
function points(count: number, width: number, label: (x: Float32Array, index: number) => number): Dataset {
  const rng = new Rng(9);
  const xs = Array.from({ length: count }, () => Float32Array.from({ length: width }, () => rng.normal()));
  const batchOf = (indices: readonly number[]): Batch => {
    const data = new Float32Array(indices.length * width);
    for (const [row, index] of indices.entries()) data.set(xs[index] as Float32Array, row * width);
    const ids = indices.map((index) => label(xs[index] as Float32Array, index));
    return {
      size: indices.length,
      fields: { x: { dtype: "float32", shape: [indices.length, width], data } },
      labels: { dtype: "int32", shape: [indices.length], data: Int32Array.from(ids) },
    };
  };
  return {
    name: "points:",
    size: count,
    fields: [{ name: "x", dtype: "float32", shape: [width] }],
    labels: "classes",
    async *batches({ size = 32, limit = count } = {}) {
      for (let from = 0; from < limit; from += size)
        yield batchOf(Array.from({ length: Math.min(size, limit - from) }, (_, i) => from + i));
    },
    take: async (indices) => batchOf(indices),
    subset: () => points(count, width, label),
  };
}

const W = classifier(6, 4);
async function truth(): Promise<(x: Float32Array) => number> {
  const w = (await W.graph.initializers.get("w")?.tensor?.data()) as Float32Array;
  return (x) => {
    const logits = Array.from({ length: 4 }, (_, c) =>
      x.reduce((sum, value, i) => sum + value * (w[i * 4 + c] ?? 0), 0),
    );
    return logits.indexOf(Math.max(...logits));
  };
}

describe("evaluate", () => {
  it("scores what it should, with per-sample results", async () => {
    const right = await truth();
    const data = points(100, 6, (x, index) => (index % 10 === 0 ? (right(x) + 1) % 4 : right(x)));
    const result = await evaluate(W, data, { batch: 32, inProcess: true });
    expect(result.samples).toBe(100);
    expect(result.metrics["accuracy"]?.value).toBeCloseTo(0.9, 10);
    expect(result.scores).toBe("logits");
    expect(result.output).toBe("y");
    expect(Object.keys(result.metrics)).toEqual(["accuracy", "f1", "loss"]);
    const { rows } = result;
    if (rows.task === "values") throw new Error("classes were asked");
    const wrong = [...rows.predicted].flatMap((guess, i) => (guess === rows.labels[i] ? [] : [i]));
    expect(wrong).toEqual([0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
    expect(evaluationJson(result)).not.toHaveProperty("rows");
    const limited = await evaluate(W, data, { limit: 10, inProcess: true, metrics: ["accuracy"] });
    expect(limited.samples).toBe(10);
    expect(Object.keys(limited.metrics)).toEqual(["accuracy"]);
  });

  it("does not change with the batch, a fixed batch, or an open session", async () => {
    const right = await truth();
    const data = points(50, 6, (x, index) => (index % 7 === 0 ? 0 : right(x)));
    const whole = await evaluate(W, data, { batch: 50, inProcess: true });
    const fixed = cloneModel(W);
    for (const value of [...fixed.graph.inputs, ...fixed.graph.outputs]) value.shape = [8, value.shape?.[1] ?? 1];
    expect((await evaluate(fixed, data, { batch: 20, inProcess: true })).metrics["accuracy"]).toEqual(
      whole.metrics["accuracy"],
    );
    const session = await openSession(W);
    expect((await evaluate(session, data, { batch: 7 })).metrics["accuracy"]).toEqual(whole.metrics["accuracy"]);
    expect((await evaluate(session, data, { batch: 9 })).samples).toBe(50); // still open
    await session.close();
  });

  it("refuses wrong labels, absent labels, wrong outputs and wrong shapes", async () => {
    await expect(
      evaluate(
        W,
        points(5, 6, () => 4),
        { inProcess: true },
      ),
    ).rejects.toThrow(/label 4.*0 to 3/);
    const unlabelled: Dataset = { ...points(5, 6, () => 0), labels: undefined };
    await expect(evaluate(W, unlabelled)).rejects.toThrow(/no labels/);
    await expect(
      evaluate(
        W,
        points(5, 6, () => 0),
        { output: "z", inProcess: true },
      ),
    ).rejects.toThrow(/no output 'z'/);
    await expect(
      evaluate(
        W,
        points(5, 7, () => 0),
        { inProcess: true },
      ),
    ).rejects.toThrow(/\[7\].*\[n, 6\]/);
  });

  it("stops when aborted", async () => {
    const controller = new AbortController();
    const running = evaluate(
      W,
      points(1000, 6, () => 0),
      {
        batch: 1,
        signal: controller.signal,
        onProgress: ({ done }) => done === 5 && controller.abort(),
      },
    );
    await expect(running).rejects.toMatchObject({ code: "aborted" });
  });
});

describe("fidelity", () => {
  it("of a model to itself is exact", async () => {
    const same = await fidelity(smallCnn(), smallCnn(), { inProcess: true });
    expect(same).toMatchObject({
      samples: 8,
      inputs: "synthetic",
      sqnrDb: Number.POSITIVE_INFINITY,
      cosine: 1,
      maxAbsError: 0,
    });
    expect(same.agreement?.value).toBe(1);
    expect(same.klNats?.value).toBe(0);
  });

  it("falls with the error that is put in", async () => {
    const reference = classifier(6, 4);
    const w = (await reference.graph.initializers.get("w")?.tensor?.data()) as Float32Array;
    const scaled = (factor: number): ReturnType<typeof classifier> => {
      const model = cloneModel(reference);
      const value = model.graph.initializers.get("w");
      if (value)
        value.tensor = Tensor.float32(
          [6, 4],
          w.map((x) => x * factor),
        );
      return model;
    };
    // y' = 1.01·y: SQNR = 20·log10(100) = 40 dB, direction unchanged.
    const near = await fidelity(reference, scaled(1.01), { inProcess: true });
    expect(near.sqnrDb).toBeCloseTo(40, 2);
    expect(near.cosine).toBeCloseTo(1, 9);
    expect(near.agreement?.value).toBe(1);
    const opposite = await fidelity(reference, scaled(-1), { inProcess: true });
    expect(opposite.cosine).toBeCloseTo(-1, 9);
    expect(opposite.agreement?.value).toBe(0);
    expect(opposite.klNats?.value).toBeGreaterThan(near.klNats?.value ?? 1);
  });

  it("forgives equal infinities and reports new NaN", async () => {
    const masked = (): ReturnType<typeof unary> =>
      unary("float32", ["n", 2], (b, x) => b.op("Log", [b.op("Relu", [x])])); // −∞ where x ≤ 0
    const same = await fidelity(masked(), masked(), { inProcess: true });
    expect(same.maxAbsError).toBe(0);
    const broken = unary("float32", ["n", 2], (b, x) => b.op("Log", [x])); // NaN where x < 0
    expect((await fidelity(masked(), broken, { inProcess: true })).maxAbsError).toBeNaN();
  });
});

describeWithData("evaluate on real models", "models/lenet5-mnist.onnx", (path) => {
  it("finds LeNet-5's published accuracy on MNIST", async () => {
    const mnist = await openDataset(`idx:${sharedData("mnist")}?split=test&scale=256`);
    const { metrics, samples } = await evaluate(path, mnist, { batch: 200, metrics: ["accuracy"] });
    expect(samples).toBe(10_000);
    expect(metrics["accuracy"]?.value).toBeCloseTo(0.9894, 4);
  });
});

describeWithData("evaluate on CIFAR-10", "models/resnet20-cifar10.onnx", (path) => {
  it("finds ResNet-20's published accuracy", async () => {
    const name = `cifar10:${sharedData("cifar10-exact")}?split=test&scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225`;
    const { metrics, samples } = await evaluate(path, await openDataset(name), { batch: 94, metrics: ["accuracy"] });
    expect(samples).toBe(846);
    expect(metrics["accuracy"]?.value).toBeCloseTo(0.9173, 4);
  });
});
