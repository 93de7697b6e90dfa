/** Training with weights and activations of 2 bits, as the technique does it: what is stored is packed, and computes what was trained. */
import { expect, test, vi } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { evaluate } from "../../src/evaluate/evaluate.node.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { quantizeAware } from "../../src/techniques/quantize-aware/quantize-aware.ts";
import { lowerSimulated } from "../../src/train/lower.ts";
import { train } from "../../src/train/train.node.ts";
import { runTechnique } from "../support/run-technique.ts";
import { clouds } from "../train/tiny-data.ts";

/** The trained simulation, as it goes into the conversion. */
const trained: Model[] = [];
vi.mock("../../src/techniques/quantize-aware/convert.ts", async (original) => {
  const real = await original<typeof import("../../src/techniques/quantize-aware/convert.ts")>();
  const convert: typeof real.convert = (model, ...rest) => {
    trained.push(cloneModel(model));
    return real.convert(model, ...rest);
  };
  return { ...real, convert };
});

/** The integers are the same and their sums exact; float sums in another order, and no code of 2 bits (a third of the range) off. */
const TOLERANCE = 1e-3;

async function scoresOf(model: Model, images: Float32Array): Promise<Float32Array> {
  const session = await openSession(model, { inProcess: true, threads: 1 });
  const name = session.inputs[0]?.name ?? "";
  const feeds = { [name]: { dtype: "float32", shape: [images.length / 192, 3, 8, 8], data: images } } as const;
  const [scores] = Object.values(await session.run(feeds));
  await session.close();
  return scores?.data as Float32Array;
}

/** Largest difference, relative to the largest score. */
function difference(a: Float32Array, b: Float32Array): number {
  const largest = a.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? Number.NaN))), 0) / largest;
}

/** Gives the simulation the biases that are stored: its own in whole steps of s_x·s_w, the product's. Says of how many layers. */
async function takeBiases(twin: Model, stored: Model): Promise<number> {
  const own = new Map(stored.graph.nodes.map((node) => [node.name, node]));
  let layers = 0;
  for (const { name, inputs } of twin.graph.nodes) {
    const [codes, steps] = own.get(name)?.inputs[2]?.producer?.inputs ?? [];
    const bias = inputs[2];
    if (!codes?.tensor || !steps?.tensor || !bias?.tensor) continue;
    const scales = (await steps.tensor.data()) as Float32Array;
    const integers = (await codes.tensor.data()) as Int32Array;
    const before = (await bias.tensor.data()) as Float32Array;
    const after = before.map((b, c) => {
      const step = scales[scales.length > 1 ? c : 0] ?? 1;
      const rounded = (integers[c] ?? 0) * step;
      expect(Math.abs(b - rounded)).toBeLessThan(0.501 * step);
      return rounded;
    });
    bias.tensor = Tensor.float32([after.length], after);
    layers++;
  }
  return layers;
}

test("weights and activations of 2 bits: packed, equal to the simulation, better than chance", {
  timeout: 120_000,
}, async () => {
  const data = clouds({ size: 192, shape: [3, 8, 8], classes: 4, apart: 0.25 });
  const original = buildArchitecture("resnet-20", { blocks: 1, width: 16, input: [3, 8, 8], classes: 4, seed: 1 });
  await train(original, data, { epochs: 2, batch: 32, learningRate: 0.05, inProcess: true });
  const options = { weights: 2, activations: 2, epochs: 4, batch: 32, samples: 64, learningRate: 0.02, fold: "before" };
  const { model, journal } = await runTechnique(quantizeAware, original, options, data);
  expect(journal.changed.length).toBe(8);

  const layers = costOf(model).layers.filter(({ macs }) => macs > 0);
  expect(layers.map(({ weightBits, activationBits }) => `${weightBits} ${activationBits}`)).toEqual([
    "8 8",
    ...Array.from({ length: layers.length - 2 }, () => "2 2"),
    "8 8",
  ]);
  const narrow = journal.changed.slice(1, -1);
  for (const { bytesBefore = 0, bytesAfter = 0 } of narrow) expect(bytesAfter).toBeLessThan(bytesBefore / 8);
  const { operators } = await optimizedGraph(model, { threads: 1, inProcess: true });
  expect(operators["com.microsoft::QLinearConv"]).toBe(7);
  expect(operators["Conv"]).toBeUndefined();

  const [twin] = trained as [Model];
  inferShapes(twin);
  lowerSimulated(twin);
  const { fields } = await data.take(Array.from({ length: 32 }, (_, i) => i));
  const images = Object.values(fields)[0]?.data as Float32Array;
  // Steps of biases bring some sums across the border between two codes, and of 2 bits each is seen: they are looked at apart
  expect(await takeBiases(twin, model)).toBe(8);
  const [wanted, stored] = [await scoresOf(twin, images), await scoresOf(model, images)];
  expect(difference(wanted, stored)).toBeLessThan(TOLERANCE);
  expect(difference(await scoresOf(original, images), stored)).toBeGreaterThan(50 * TOLERANCE);
  const { metrics } = await evaluate(model, data, { inProcess: true });
  expect(metrics["accuracy"]?.value).toBeGreaterThan(0.4); // four classes, 192 samples: chance is 0.25 ± 0.03
});
