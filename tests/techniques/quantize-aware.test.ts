/** Training for low bits: what is stored computes what was simulated, in packed bytes, on integer kernels. */
import { describe, expect, test } from "vitest";
import { costOf } from "../../src/analyse/cost.ts";
import { matchKeep } from "../../src/analyse/keep.ts";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { Rng } from "../../src/base/rng.ts";
import { evaluate } from "../../src/evaluate/evaluate.node.ts";
import { checkModel } from "../../src/ir/check.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { loadKernels } from "../../src/kernels/kernels.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { evaluateConstants } from "../../src/run/fold.node.ts";
import { tap } from "../../src/run/taps.node.ts";
import { installEngine } from "../../src/techniques/engine.ts";
import { Journal } from "../../src/techniques/journal.ts";
import { convert } from "../../src/techniques/quantize-aware/convert.ts";
import { type AwarePlan, planAware } from "../../src/techniques/quantize-aware/plan.ts";
import { type WeightBits, weightStart } from "../../src/techniques/quantize-aware/ranges.ts";
import { bitsOf, simulate, type Simulation, type WeightStart } from "../../src/techniques/quantize-aware/simulate.ts";
import { quantizeAware } from "../../src/techniques/quantize-aware/quantize-aware.ts";
import { lowerSimulated } from "../../src/train/lower.ts";
import { train } from "../../src/train/train.node.ts";
import { runTechnique } from "../support/run-technique.ts";
import { clouds } from "../train/tiny-data.ts";

// The engine in this thread: small models need no worker.
installEngine({
  openSession: (model, options) => openSession(model, { ...options, inProcess: true }),
  evaluateConstants,
  tap,
});

const kernels = await loadKernels();
const BATCH = 4;

/** Image → conv, norm, Relu → residual block → pool → scores; some factors of normalizations are negative, one is 0. */
function network(seed = 1): Model {
  const rng = new Rng(seed);
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const random = (shape: readonly number[], deviation: number, mean = 0): Tensor =>
    Tensor.float32(
      shape,
      Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, () => rng.normal(mean, deviation)),
    );
  const layer = (x: Value, from: number, to: number, name: string): Value => {
    const w = b.constant(`${name}.w`, random([to, from, 3, 3], Math.sqrt(2 / (9 * from))));
    const y = b.op("Conv", [x, w], { attributes: { pads: [1, 1, 1, 1] }, name: `${name}.conv` });
    const factors = random([to], 0.2, 1);
    const data = factors.peek() as Float32Array;
    data[1] = -(data[1] as number);
    data[2] = name === "c" ? 0 : (data[2] as number);
    const parameters = [factors, random([to], 0.3), random([to], 0.2), random([to], 0.05, 0.6)];
    const stored = parameters.map((tensor, i) => b.constant(`${name}.bn${i}`, tensor));
    return b.op("BatchNormalization", [y, ...stored], { name: `${name}.bn` });
  };
  const image = b.input("image", "float32", [BATCH, 3, 8, 8]);
  const stem = b.op("Relu", [layer(image, 3, 8, "a")]);
  const inner = b.op("Relu", [layer(stem, 8, 8, "b")]);
  const sum = b.op("Relu", [b.op("Add", [layer(inner, 8, 8, "c"), stem])]);
  const pooled = b.op("Flatten", [b.op("GlobalAveragePool", [sum])]);
  const scores = b.op("Gemm", [pooled, b.constant("w", random([8, 10], 0.4)), b.constant("bias", random([10], 0.2))]);
  b.output(scores, "scores");
  inferShapes(model);
  return model;
}

const IMAGE = new Rng(5);
const FEEDS = {
  image: {
    dtype: "float32" as const,
    shape: [BATCH, 3, 8, 8],
    data: Float32Array.from({ length: BATCH * 192 }, () => IMAGE.normal(0, 1)),
  },
};

interface Widths {
  readonly weights: WeightBits;
  readonly rule?: "learned" | "mean" | "trained";
  readonly activations: number | "float";
  readonly perChannel?: boolean;
}

/** The network with simulated numbers, as training would leave it, and what is needed to convert it. */
async function simulated(widths: Widths): Promise<{ model: Model; plan: AwarePlan; simulation: Simulation }> {
  const { weights, activations, rule = "learned", perChannel = true } = widths;
  const model = network();
  const plan = await planAware(model, matchKeep([], model));
  const starts = new Map<unknown, WeightStart>();
  for (const layer of plan.layers) {
    const start = await weightStart(kernels, layer, layer.end ? 8 : weights, { perChannel, rule, reduceRange: false });
    starts.set(layer, { ...start, learns: true });
  }
  const simulation = simulate(
    model,
    plan,
    (layer) => starts.get(layer) as WeightStart,
    (rounding) => {
      const bits = activations === "float" ? undefined : bitsOf(rounding, { layer: activations, end: 8 });
      if (bits === undefined) return undefined;
      const signed = rounding.values.some(({ name }) => name === "image" || name.includes(".bn"));
      const zeroPoint = signed ? 2 ** (bits - 1) : undefined;
      return { bits, scale: (signed ? 8 : 3) / (2 ** bits - 1), zeroPoint, learns: bits < 8 };
    },
  );
  return { model, plan, simulation };
}

async function scoresOf(model: Model): Promise<Float32Array> {
  const session = await openSession(model, { inProcess: true });
  const outputs = await session.run(FEEDS);
  await session.close();
  return outputs["scores"]?.data as Float32Array;
}

/** Largest difference, relative to the largest score. */
function difference(a: Float32Array, b: Float32Array): number {
  const largest = a.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? Number.NaN))), 0) / largest;
}

const CASES: readonly Widths[] = [
  { weights: 8, activations: 8 },
  { weights: 4, activations: 8 },
  { weights: 4, activations: 4 },
  { weights: 4, activations: 4, perChannel: false },
  { weights: 3, activations: 3 },
  { weights: 2, activations: 2 },
  { weights: "ternary", activations: 8 },
  { weights: "ternary", rule: "mean", activations: 4 },
  { weights: "ternary", rule: "trained", activations: 8 },
  { weights: "binary", activations: 8 },
  { weights: "binary", rule: "mean", activations: 4 },
  { weights: 4, activations: "float" },
  { weights: 2, activations: "float" },
  { weights: "ternary", rule: "trained", activations: "float" },
];
const nameOf = ({ weights, rule, activations, perChannel }: Widths): string =>
  `weights ${weights}${rule ? ` (${rule})` : ""}, activations ${activations}${perChannel === false ? ", per tensor" : ""}`;

/**
 * The integers are those of the simulation, and sums of integers are exact. What differs: biases in whole steps of s_x·s_w/m
 * (a few 1e-5 here), and floats whose sum lies on the border between two codes: one code of the last layer's 8-bit input is
 * half a per cent of the largest score.
 */
const TOLERANCE = 0.01;

describe("the stored model", () => {
  test.each(CASES.map((each) => [nameOf(each), each] as const))(
    "computes what was simulated: %s",
    async (_, widths) => {
      const { model, plan, simulation } = await simulated(widths);
      const twin = cloneModel(model);
      inferShapes(twin);
      lowerSimulated(twin);
      const wanted = await scoresOf(twin);
      await convert(model, plan, simulation, new Journal());
      expect(difference(wanted, await scoresOf(model))).toBeLessThan(TOLERANCE);
      expect(checkModel(model)).toEqual([]);
      const steps = [...model.graph.initializers.values()].find(
        ({ name }) => name.startsWith("b.w.") && /steps|scales|factors/.test(name),
      );
      if (steps?.tensor)
        steps.tensor = Tensor.float32(
          steps.tensor.shape,
          (await floatsOf(steps)).map((step) => 1.1 * step),
        );
      expect(difference(wanted, await scoresOf(model))).toBeGreaterThan(TOLERANCE);
    },
  );

  test("multiplies on integers, and its file has few bits per weight", async () => {
    const { model, plan, simulation } = await simulated({ weights: 4, activations: 4 });
    await convert(model, plan, simulation, new Journal());
    const { operators } = await optimizedGraph(model);
    expect(operators["com.microsoft::QLinearConv"]).toBe(3);
    expect(operators["com.microsoft::QGemm"]).toBe(1);
    expect(operators["Conv"]).toBeUndefined();
    for (const [name, bits] of [
      ["a", 8],
      ["b", 4],
      ["c", 4],
    ] as const) {
      const elements = name === "a" ? 216 : 576;
      const codes = [...model.graph.initializers.values()].find((value) => value.name.startsWith(`${name}.w.codes`));
      expect(codes?.tensor?.byteLength).toBe((elements * bits) / 8);
    }
  });
});

describe("the technique", () => {
  const data = clouds({ size: 192, shape: [3, 8, 8], classes: 4, apart: 0.25 });
  const start = async (): Promise<Model> => {
    const model = buildArchitecture("resnet-20", { blocks: 1, width: 16, input: [3, 8, 8], classes: 4, seed: 1 });
    await train(model, data, { epochs: 2, batch: 32, learningRate: 0.05, inProcess: true });
    return model;
  };
  const accuracyOf = async (model: Model): Promise<number> =>
    (await evaluate(model, data, { inProcess: true })).metrics["accuracy"]?.value ?? 0;
  const common = { batch: 32, samples: 64, learningRate: 0.02 };

  test.each([
    ["4 bits", { weights: 4, activations: 4, epochs: 1 }],
    [
      "3 bits by way of 4, with a teacher",
      { weights: 3, activations: 3, epochs: 2, lowering: [4], teacher: "original" },
    ],
    ["ranges that are observed", { weights: 8, activations: 8, epochs: 1, scales: "observed" }],
    [
      "normalizations folded before, scales fixed",
      { weights: 4, activations: 8, epochs: 1, fold: "before", scales: "fixed" },
    ],
    ["ternary weights", { weights: "ternary", activations: "float", epochs: 2 }],
  ])("learns: %s", async (_, options) => {
    const original = await start();
    const { model, journal } = await runTechnique(quantizeAware, original, { ...common, ...options }, data);
    expect(checkModel(model).filter(({ severity }) => severity === "error")).toEqual([]);
    expect(journal.changed.length).toBe(8);
    expect(await accuracyOf(model)).toBeGreaterThan((await accuracyOf(original)) - 0.1);
    expect([...model.graph.allNodes()].filter(({ domain }) => domain === "pare.train")).toEqual([]);
  });

  test("leaves alone what is kept", async () => {
    const original = await start();
    const kept = original.graph.nodes.filter(({ opType }) => opType === "Conv")[1]?.name ?? "";
    const { model, journal } = await runTechnique(
      quantizeAware,
      original,
      { ...common, epochs: 1, keep: [kept] },
      data,
    );
    expect(journal.skipped).toContainEqual({ what: kept, why: "kept" });
    expect(journal.changed.length).toBe(7);
    expect(model.graph.nodes.find(({ name }) => name === kept)?.inputs[1]?.tensor?.dtype).toBe("float32");
  });

  test("counts few bits as such", async () => {
    const { model, plan, simulation } = await simulated({ weights: 3, activations: 4 });
    await convert(model, plan, simulation, new Journal());
    for (const node of model.graph.nodes) for (const output of node.outputs) output.dtype = undefined; // as a file has it
    const bits = costOf(model).layers.filter(({ macs }) => macs > 0);
    expect(bits.map(({ weightBits, activationBits }) => [weightBits, activationBits])).toEqual([
      [8, 8],
      [3, 4],
      [3, 4],
      [8, 8],
    ]);
  });
});

async function floatsOf(value: Value): Promise<Float32Array> {
  return ((await (value.tensor as Tensor).data()) as Float32Array).slice();
}
