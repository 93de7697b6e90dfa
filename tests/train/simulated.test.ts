/** Simulated low-bit numbers under training: values, LSQ's gradients against their formulas, and blocked images. */
import { describe, expect, test } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { float } from "../../src/ir/attribute.ts";
import { Builder } from "../../src/ir/builder.ts";
import type { Value } from "../../src/ir/graph.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { SIMULATED_DOMAIN } from "../../src/ops/simulated.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { imageBlock } from "../../src/train/blocked/image-block.ts";
import { grad } from "../../src/train/grad.ts";
import { lowerSimulated } from "../../src/train/lower.ts";
import { buildStepGraph } from "../../src/train/step-graph.ts";

const ROWS = 5;
const COLS = 9;

interface Fake {
  readonly op: string;
  /** Initializers after the data. */
  readonly parameters: readonly (readonly number[])[];
  readonly attributes?: Readonly<Record<string, number>>;
  readonly gradientScale?: number;
}

const rng = new Rng(7);
const X = Float32Array.from({ length: ROWS * COLS }, () => rng.normal(0, 1));
const G = Float32Array.from({ length: ROWS * COLS }, () => rng.normal(0, 1));

/** y = fake(x), loss = Σ y·G: y and the gradients of x and of every parameter. */
async function run({ op, parameters, attributes = {}, gradientScale = 1 }: Fake): Promise<Record<string, number[]>> {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", [ROWS, COLS]);
  const stored = parameters.map((data, i) => {
    const shape = "axis" in attributes ? [data.length] : [];
    return b.constant(`p${i}`, Tensor.float32(shape, Float32Array.from(data)));
  });
  const own = { learned: parameters.length > 0 ? 1 : 0, gradient_scale: float(gradientScale), ...attributes };
  const y = b.op(op, [x, ...stored], { domain: SIMULATED_DOMAIN, attributes: own });
  const weighted = b.op("Mul", [y, b.constant("g", Tensor.float32([ROWS, COLS], G))]);
  const loss = b.op("ReduceSum", [weighted], { attributes: { keepdims: 0 } });
  b.output(loss, "loss");
  const wrt = ["x", ...stored.map(({ name }) => name)];
  const result = grad(model, { of: "loss", wrt });
  const outputs = result.graph.nodes.find(({ opType }) => opType === op)?.outputs as Value[];
  result.graph.outputs.push(outputs[0] as Value);
  (outputs[0] as Value).name = "y";
  lowerSimulated(result);
  const session = await openSession(result, { inProcess: true });
  const found = await session.run({ x: { dtype: "float32", shape: [ROWS, COLS], data: X } });
  await session.close();
  return Object.fromEntries(Object.entries(found).map(([name, { data }]) => [name, Array.from(data as Float32Array)]));
}

/** Float sums of 45 products in another order. */
const TOLERANCE = 2e-5;

function expectClose(found: readonly number[] | undefined, wanted: readonly number[]): void {
  expect(found?.length).toBe(wanted.length);
  for (const [i, value] of wanted.entries())
    expect(Math.abs((found?.[i] ?? Number.NaN) - value)).toBeLessThan(TOLERANCE);
}

/** LSQ by its formula, one scale for each index of the first axis or for all. */
function lsq(
  scales: readonly number[],
  [low, high]: readonly [number, number],
  factor = 1,
): { y: number[]; x_grad: number[]; p0_grad: number[] } {
  const result = { y: [] as number[], x_grad: [] as number[], p0_grad: scales.map(() => 0) };
  for (const [i, x] of X.entries()) {
    const at = scales.length === 1 ? 0 : Math.floor(i / COLS);
    const s = Math.fround(scales[at] as number);
    const ratio = x / s;
    const code = Math.max(low, Math.min(high, Math.round(ratio)));
    const inside = ratio >= low && ratio <= high;
    const g = G[i] as number;
    result.y.push(code * s);
    result.x_grad.push(inside ? g : 0);
    // Equation 3 of the paper: −v/s + round(v/s) inside, −Q_N and Q_P outside
    result.p0_grad[at] = (result.p0_grad[at] as number) + factor * g * (inside ? code - ratio : code);
  }
  return result;
}

describe("learned step size", () => {
  test.each([
    ["a scale for all", [0.4], [-4, 3], 1],
    ["2 bits", [0.7], [-2, 1], 1],
    ["ternary", [0.9], [-1, 1], 0.25],
    ["a scale per row", [0.2, 0.4, 0.6, 0.3, 0.5], [-4, 3], 0.5],
  ] as const)("equals the paper's formula: %s", async (_, scales, [low, high], gradientScale) => {
    const attributes = { low, high, ...(scales.length > 1 ? { axis: 0 } : {}) };
    const found = await run({ op: "FakeQuantize", parameters: [scales], attributes, gradientScale });
    const wanted = lsq(scales, [low, high], gradientScale);
    expectClose(found["y"], wanted.y);
    expectClose(found["x_grad"], wanted.x_grad);
    expectClose(found["p0_grad"], wanted.p0_grad);
    const wrong = lsq(scales, [low, high - 1], gradientScale); // the check notices one code less
    expect(() => expectClose(found["p0_grad"], wrong.p0_grad)).toThrow();
  });

  test("offsets learn from what is cut off (LSQ+)", async () => {
    const [s, offset, high] = [0.5, 2.3, 3];
    const found = await run({ op: "FakeQuantize", parameters: [[s], [offset]], attributes: { low: 0, high } });
    const zero = Math.round(offset);
    let gradient = 0;
    const [y, slope] = [[] as number[], [] as number[]];
    for (const [i, x] of X.entries()) {
      const place = x / s + zero;
      const inside = place >= 0 && place <= high;
      y.push((Math.max(0, Math.min(high, Math.round(x / s) + zero)) - zero) * s);
      slope.push(inside ? (G[i] as number) : 0);
      if (!inside) gradient -= s * (G[i] as number);
    }
    expectClose(found["y"], y);
    expectClose(found["x_grad"], slope);
    expectClose(found["p1_grad"], [gradient]);
  });

  test("ranges that do not learn let every gradient through", async () => {
    const found = await run({ op: "FakeQuantize", parameters: [[0.1]], attributes: { low: -2, high: 1, learned: 0 } });
    expectClose(found["x_grad"], [...G]);
    expectClose(found["p0_grad"], [0]);
  });
});

describe("binary and ternary", () => {
  test("binary: the sign times a learned scale", async () => {
    const found = await run({ op: "FakeBinary", parameters: [[0.6]], gradientScale: 0.5 });
    const sign = Array.from(X, (x) => (x < 0 ? -1 : 1));
    const s = Math.fround(0.6);
    expectClose(
      found["y"],
      sign.map((each) => each * s),
    );
    expectClose(found["x_grad"], [...G]);
    expectClose(found["p0_grad"], [sign.reduce((sum, each, i) => sum + 0.5 * each * (G[i] as number), 0)]);
  });

  test("binary: the mean magnitude of each row (XNOR-Net)", async () => {
    const found = await run({ op: "FakeBinary", parameters: [], attributes: { axis: 0 } });
    const means = Array.from({ length: ROWS }, (_, row) => {
      const own = X.subarray(row * COLS, (row + 1) * COLS);
      return own.reduce((sum, x) => sum + Math.abs(x), 0) / COLS;
    });
    expectClose(
      found["y"],
      Array.from(X, (x, i) => (x < 0 ? -1 : 1) * (means[Math.floor(i / COLS)] as number)),
    );
  });

  test("TWN: threshold 0.7·mean, scale the mean of what lies beyond", async () => {
    const found = await run({ op: "FakeTernary", parameters: [] });
    const size = Array.from(X, Math.abs);
    const threshold = (0.7 * size.reduce((sum, x) => sum + x, 0)) / size.length;
    const beyond = size.filter((x) => x > threshold);
    const scale = beyond.reduce((sum, x) => sum + x, 0) / beyond.length;
    expectClose(
      found["y"],
      Array.from(X, (x) => (Math.abs(x) > threshold ? Math.sign(x) * scale : 0)),
    );
    expectClose(found["x_grad"], [...G]);
  });

  test("TTQ: a learned magnitude for each sign", async () => {
    const [p, n] = [0.8, 0.5];
    const found = await run({ op: "FakeTrainedTernary", parameters: [[p], [n]] });
    const threshold = 0.05 * X.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const step = p / 63;
    const onGrid = Math.round(n / step) * step;
    const part = (x: number): -1 | 0 | 1 => (x > threshold ? 1 : x < -threshold ? -1 : 0);
    expectClose(
      found["y"],
      Array.from(X, (x) => ({ "1": p, "-1": -onGrid, "0": 0 })[part(x)]),
    );
    expectClose(
      found["x_grad"],
      Array.from(X, (x, i) => (G[i] as number) * { "1": p, "-1": n, "0": 1 }[part(x)]),
    );
    const sum = (sign: number): number => X.reduce((all, x, i) => all + (part(x) === sign ? (G[i] as number) : 0), 0);
    expectClose(found["p0_grad"], [sum(1)]);
    expectClose(found["p1_grad"], [-sum(-1)]);
  });
});

const SIZE = 16;
const CHANNELS = 20; // does not fill the blocks

/** conv → norm → Relu → rounded → conv → rounded, offset learned → scores; a scale per channel for the second kernel. */
function image(observed = 0): Model {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const rng = new Rng(11);
  const random = (name: string, shape: readonly number[], deviation: number, mean = 0): Value => {
    const data = Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, () =>
      rng.normal(mean, deviation),
    );
    return b.constant(name, Tensor.float32(shape, data));
  };
  const number = (name: string, value: number): Value => b.constant(name, Tensor.float32([], [value]));
  const fake = (x: Value, parameters: readonly Value[], attributes: Readonly<Record<string, number>>): Value =>
    b.op("FakeQuantize", [x, ...parameters], {
      domain: SIMULATED_DOMAIN,
      attributes: { low: 0, high: 15, learned: 1 - observed, observed, gradient_scale: float(0.05), ...attributes },
    });
  const pads = { pads: [1, 1, 1, 1] };
  const x = b.input("x", "float32", ["batch", 3, 6, 6]);
  const first = b.op("Conv", [x, random("w1", [CHANNELS, 3, 3, 3], 0.3)], { attributes: pads });
  const statistics = [random("m", [CHANNELS], 0.1), random("v", [CHANNELS], 0.05, 1)];
  const norm = [random("g", [CHANNELS], 0.1, 1), random("h", [CHANNELS], 0.2), ...statistics];
  const inner = b.op("Relu", [b.op("BatchNormalization", [first, ...norm])]);
  const rounded = fake(inner, [number("s1", 0.11)], { nonnegative: 1 });
  const w2 = random("w2", [CHANNELS, CHANNELS, 3, 3], 0.08);
  const scales = b.constant("s2", Tensor.float32([CHANNELS], new Float32Array(CHANNELS).fill(0.04)));
  const kernel = fake(w2, [scales], { low: -4, high: 3, axis: 0, learned: 1, observed: 0 });
  const second = b.op("Conv", [rounded, kernel], { attributes: pads });
  const last = fake(second, [number("s3", 0.3), number("z3", 6.2)], {});
  const pooled = b.op("Flatten", [b.op("GlobalAveragePool", [last])]);
  b.output(b.op("Gemm", [pooled, random("w3", [CHANNELS, 4], 0.3)]), "scores");
  return model;
}

const IMAGES = Float32Array.from({ length: SIZE * 108 }, () => rng.normal());

/** The loss, and the state after one step. */
async function oneStep(
  model: Model,
  block: number | undefined,
  options: { readonly observeSteps?: number } = {},
): Promise<Record<string, Float32Array>> {
  const graph = buildStepGraph(model, { batch: SIZE, block, ...options });
  const session = await openSession(graph.model, { inProcess: true });
  try {
    const resident = await session.resident(await graph.initialState(), graph.links);
    const outputs = await resident.step({
      x: { dtype: "float32", shape: [SIZE, 3, 6, 6], data: IMAGES },
      labels: { dtype: "int64", shape: [SIZE], data: BigInt64Array.from({ length: SIZE }, (_, i) => BigInt(i % 4)) },
      ...graph.scalars({ step: 0, learningRate: 0.1 }),
    });
    const state = await resident.read(graph.weights);
    const arrays = Object.entries({ ...state, loss: outputs[graph.loss] });
    return Object.fromEntries(arrays.map(([name, array]) => [name, array?.data as Float32Array]));
  } finally {
    await session.close();
  }
}

describe("in a step", () => {
  const block = imageBlock(openSession);

  test("blocked images give the same numbers as plain ones", async () => {
    const [plain, blocked] = [await oneStep(image(), undefined), await oneStep(image(), await block)];
    expect(Object.keys(plain).sort()).toEqual(["g", "h", "loss", "m", "s1", "s2", "s3", "v", "w1", "w2", "w3", "z3"]);
    for (const [name, data] of Object.entries(plain))
      for (const [i, value] of data.entries())
        expect(Math.abs(value - (blocked[name]?.[i] ?? Number.NaN)), name).toBeLessThan(
          1e-4 * Math.max(1, Math.abs(value)),
        );
  });

  test("scales and offsets learn", async () => {
    const state = await oneStep(image(), undefined);
    for (const [name, before] of [
      ["s1", 0.11],
      ["s3", 0.3],
      ["z3", 6.2],
    ] as const)
      expect(Math.abs((state[name]?.[0] ?? 0) - before)).toBeGreaterThan(1e-7);
  });

  test("observers follow the data while they watch, then ranges stay", async () => {
    const watched = await oneStep(image(1), await block, { observeSteps: 1 });
    const frozen = await oneStep(image(1), await block);
    expect([frozen["s1"]?.[0], frozen["s3"]?.[0], frozen["z3"]?.[0]]).toEqual([0.11, 0.3, 6.2].map(Math.fround));
    expect(watched["s1"]?.[0]).not.toBe(Math.fround(0.11));
    expect(watched["s1"]?.[0]).toBeGreaterThan(0.95 * 0.11);
    expect(watched["s3"]?.[0]).not.toBe(Math.fround(0.3));
    expect(watched["z3"]?.[0]).toBeGreaterThan(0);
  });
});
