/** Targeted dropout: which weights are dropped, how often, and that nothing else changes. */
import { describe, expect, it } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { Stepper } from "../../src/train/stepper.ts";
import { targetSize, type TargetedDropout } from "../../src/train/targeted-dropout.ts";
import type { TrainOptions } from "../../src/train/train-options.ts";
import { clouds } from "./tiny-data.ts";

const data = clouds({ size: 64, shape: [3, 8, 8], classes: 4 });
/** Convolutions in the engine's blocked layout, and a matrix. */
const network = (): Model => buildArchitecture("resnet-20", { blocks: 1, width: 16, input: [3, 8, 8], classes: 4 });
const NAMES = ["stem.conv.weight", "fc.weight"];
const open = (model: Model): ReturnType<typeof openSession> => openSession(model, { inProcess: true, threads: 1 });
const OPTIONS: TrainOptions = { epochs: 40, batch: 64, learningRate: 0, momentum: 0, maskZeros: false };

const weightOf = async (model: Model, name: string): Promise<Float32Array> =>
  (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;

function kernels(model: Model): string[] {
  return [...model.graph.initializers].flatMap(([name, { tensor }]) =>
    (tensor?.shape.length ?? 0) >= 2 ? [name] : [],
  );
}

/** Losses of the first steps, nothing being learned between them. */
async function losses(model: Model, targetedDropout: TargetedDropout | undefined, steps = 1): Promise<number[]> {
  const stepper = await Stepper.open(model, data, { ...OPTIONS, targetedDropout }, open);
  try {
    const found: number[] = [];
    for (let step = 0; step < steps; step++)
      found.push(await stepper.step(await stepper.prepare(step, stepper.order(0)), step, 0));
    return found;
  } finally {
    await stepper.close();
  }
}

async function withoutLeast(share: number): Promise<Model> {
  const model = network();
  for (const name of kernels(model)) {
    const value = model.graph.initializers.get(name);
    const w = await weightOf(model, name);
    const size = targetSize(w, share);
    if (value?.tensor)
      value.tensor = Tensor.float32(
        value.tensor.shape,
        w.map((v) => (Math.abs(v) <= size ? 0 : v)),
      );
  }
  return model;
}

describe("targeted dropout", () => {
  it("at a rate of nearly one is the network without its least weights, at nearly none the whole one", async () => {
    const weights = new Set(kernels(network()));
    expect(weights.size).toBeGreaterThan(6);
    const [whole] = await losses(network(), undefined);
    const [cut] = await losses(await withoutLeast(0.6), undefined);
    const [dropped] = await losses(network(), { weights, share: 0.6, rate: 1 - 1e-7 });
    const [kept] = await losses(network(), { weights, share: 0.6, rate: 0 });
    expect(Math.abs((dropped as number) - (cut as number))).toBeLessThan(1e-5);
    expect(Math.abs((kept as number) - (whole as number))).toBeLessThan(1e-5);
    expect(Math.abs((cut as number) - (whole as number))).toBeGreaterThan(1e-2); // the control
  });

  it("drops others at every step, and the share that was asked for", async () => {
    // The mean over many steps of a loss that is linear in what is dropped would be the mean loss; here only that they differ.
    const found = await losses(network(), { weights: new Set(NAMES), share: 0.5, rate: 0.5 }, 8);
    expect(new Set(found.map((loss) => loss.toPrecision(6))).size).toBe(8);
    expect(targetSize(Float32Array.of(3, -1, 2, -4), 0.5)).toBe(2);
    expect(targetSize(Float32Array.of(3, -1, 2, -4), 0)).toBe(-1);
  });

  it("trains the same weights, and targets them anew as they change", async () => {
    const weights = new Set(NAMES);
    const options = { ...OPTIONS, learningRate: 0.05, targetedDropout: { weights, share: 0.5, rate: 0.5 } };
    const model = network();
    const stepper = await Stepper.open(model, data, options, open);
    const plain = await Stepper.open(model, data, { ...OPTIONS }, open);
    try {
      expect(stepper.graph.weights).toEqual(plain.graph.weights);
      expect([...stepper.graph.thresholds.keys()].sort()).toEqual([...NAMES].sort());
      const name = stepper.graph.thresholds.get("fc.weight") as string;
      const size = async (): Promise<number> => Number((await stepper.resident.read([name]))[name]?.data[0]);
      const first = await size();
      expect(first).toBeCloseTo(targetSize(await weightOf(model, "fc.weight"), 0.5), 6);
      for (let step = 0; step < 20; step++) {
        await stepper.step(await stepper.prepare(step, stepper.order(step)), step, 0.05);
        await stepper.between(step + 1, 40);
      }
      const trained = (await stepper.resident.read(["fc.weight"]))["fc.weight"]?.data as Float32Array;
      expect(await size()).toBeCloseTo(targetSize(trained, 0.5), 6);
      expect(await size()).not.toBe(first);
    } finally {
      await stepper.close();
      await plain.close();
    }
  });
});
