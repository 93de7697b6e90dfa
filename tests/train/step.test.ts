/** The step graph's parts: accumulation, clipping, groups, averages, projections, dropout, half precision, teachers inside. */
import { describe, expect, test } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { Rng } from "../../src/base/rng.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { NdArray } from "../../src/run/session.ts";
import { noiseFor } from "../../src/train/dropout.ts";
import { maxNorm, nonNegative } from "../../src/train/projections.ts";
import { buildStepGraph, type StepOptions } from "../../src/train/step-graph.ts";

/** y = x·W with a matrix and a bias, trained on fixed numbers. */
function linear(weights: readonly number[] = [0.5, -1, 2, 0.25], bias: readonly number[] = [0.1, -0.2]): Model {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", 2]);
  const w = b.constant("w", Tensor.float32([2, 2], weights));
  b.output(b.op("Gemm", [x, w, b.constant("c", Tensor.float32([2], bias))]), "y");
  return model;
}

const X = [1, -2, 0.5, 1, -1, 0.25, 2, 0.75];
const T = [1, 0, 0, 1, 1, 1, 0.5, -1];

interface Ran {
  readonly state: Readonly<Record<string, Float32Array>>;
  readonly losses: readonly number[];
}

/** Steps over these rows, `runs` runs each. */
async function run(
  model: Model,
  options: Partial<StepOptions>,
  steps = 3,
  rate = 0.1,
  samples: (step: number) => readonly number[] = () => X,
): Promise<Ran> {
  const runs = options.accumulate ?? 1;
  const rows = 4 / runs;
  const graph = buildStepGraph(model, { loss: "mse", ...options, batch: rows });
  const session = await openSession(graph.model, { inProcess: true, threads: 1 });
  const resident = await session.resident(await graph.initialState(), graph.links);
  const part = (values: readonly number[], i: number): NdArray => ({
    dtype: "float32",
    shape: [rows, 2],
    data: Float32Array.from(values.slice(2 * rows * i, 2 * rows * (i + 1))),
  });
  const losses: number[] = [];
  for (let step = 0; step < steps; step++)
    for (let i = 0; i < runs; i++) {
      const feeds: Record<string, NdArray> = {
        x: part(samples(step), i),
        ...graph.scalars({ step, learningRate: rate, run: i }),
      };
      if (graph.labels) feeds[graph.labels] = part(T, i);
      if (graph.noise) feeds[graph.noise.name] = noiseFor(graph.noise, 1, step * runs + i);
      const { [graph.loss]: loss } = await resident.step(feeds, [graph.loss]);
      losses.push((loss?.data as Float32Array | undefined)?.[0] ?? Number.NaN);
    }
  const state = await resident.read();
  await session.close();
  return {
    losses,
    state: Object.fromEntries(Object.entries(state).map(([name, { data }]) => [name, data as Float32Array])),
  };
}

const apart = (a: ArrayLike<number> | undefined, b: ArrayLike<number> | undefined): number =>
  Math.max(...Array.from(a ?? [Number.NaN], (value, i) => Math.abs(value - (b?.[i] ?? Number.NaN))));

const of = async (options: Partial<StepOptions>, steps?: number, rate?: number): Promise<Ran["state"]> =>
  (await run(linear(), options, steps, rate)).state;

describe("accumulated runs", () => {
  for (const optimizer of ["sgd", "adam", "lion"] as const)
    test(`equal one large batch with ${optimizer}`, async () => {
      const whole = await of({ optimizer, clipNorm: 0.5, weightDecay: 0.1, averaging: 0.9 });
      for (const accumulate of [2, 4]) {
        const parts = await of({ optimizer, clipNorm: 0.5, weightDecay: 0.1, averaging: 0.9, accumulate });
        // The same sums in another order: float32 rounding, which lion's sign may not see.
        for (const name of ["w", "c", "w/average"]) expect(apart(parts[name], whole[name])).toBeLessThan(1e-5);
      }
      expect(apart((await of({ optimizer }))["w"], whole["w"])).toBeGreaterThan(1e-3);
    });
});

describe("gradients", () => {
  test("are scaled to the largest norm of all together", async () => {
    const free = await of({ momentum: 0 }, 1, 1);
    const start = [0.5, -1, 2, 0.25, 0.1, -0.2];
    const moved = (state: Ran["state"]): number[] =>
      [...(state["w"] ?? []), ...(state["c"] ?? [])].map((value, i) => (start[i] ?? 0) - value);
    const norm = Math.hypot(...moved(free));
    expect(norm).toBeGreaterThan(0.1);
    const clipped = moved(await of({ momentum: 0, clipNorm: 0.1 }, 1, 1));
    for (const [i, value] of clipped.entries()) expect(value).toBeCloseTo(((moved(free)[i] ?? 0) * 0.1) / norm, 6);
    expect(moved(await of({ momentum: 0, clipNorm: 1000 }, 1, 1))).toEqual(moved(free));
  });

  test("are cut element by element", async () => {
    const free = await of({ momentum: 0 }, 1, 1);
    const cut = await of({ momentum: 0, clipValue: 0.3 }, 1, 1);
    for (const [i, before] of [0.5, -1, 2, 0.25].entries()) {
      const gradient = before - (free["w"]?.[i] ?? 0);
      expect(before - (cut["w"]?.[i] ?? 0)).toBeCloseTo(Math.min(0.3, Math.max(-0.3, gradient)), 6);
    }
  });
});

describe("groups", () => {
  test("have rates and decays of their own; biases do not decay unless asked", async () => {
    const plain = await of({ momentum: 0 }, 1);
    const decayed = await of({ momentum: 0, weightDecay: 0.5 }, 1);
    expect(apart(decayed["c"], plain["c"])).toBe(0);
    expect(decayed["w"]?.[0]).toBeCloseTo((plain["w"]?.[0] ?? 0) - 0.1 * 0.5 * 0.5, 6);
    const asked = await of({ momentum: 0, groupOf: (name) => (name === "c" ? { weightDecay: 0.5 } : undefined) }, 1);
    expect(asked["c"]?.[0]).toBeCloseTo((plain["c"]?.[0] ?? 0) - 0.1 * 0.5 * 0.1, 6);
    for (const optimizer of ["sgd", "adamw"] as const) {
      const half = (name: string): { rate: number } | undefined => (name === "w" ? { rate: 0.5 } : undefined);
      const slow = await of({ optimizer, groupOf: half, weightDecay: 0.1 }, 1, 0.1);
      const other = await of({ optimizer, weightDecay: 0.1 }, 1, 0.05);
      expect(apart(slow["w"], other["w"])).toBe(0);
      expect(apart(slow["c"], other["c"])).toBeGreaterThan(1e-3);
    }
  });
});

describe("after each step", () => {
  test("weights are not negative, or no longer than the limit", async () => {
    const positive = await of({ projections: [nonNegative((name) => name === "w")] });
    expect(positive["w"]?.every((value) => value >= 0)).toBe(true);
    expect((await of({}))["w"]?.some((value) => value < 0)).toBe(true);
    const short = await of({ projections: [maxNorm((name) => name === "w", 0.5)] });
    const w = short["w"] ?? [];
    for (const row of [0, 2]) expect(Math.hypot(w[row] ?? 9, w[row + 1] ?? 9)).toBeLessThanOrEqual(0.5 + 1e-6);
  });

  test("masks hold exactly, after projections and under every optimizer", async () => {
    const masks = new Map([["w", Tensor.of("bool", [2, 2], Uint8Array.of(1, 0, 1, 0))]]);
    for (const optimizer of ["sgd", "adam", "adamw", "rmsprop", "lion"] as const) {
      const { w } = await of({ optimizer, masks, weightDecay: 0.1, averaging: 0.5 });
      expect([w?.[1], w?.[3]]).toEqual([0, 0]);
      expect(w?.[0]).not.toBe(0.5);
    }
  });

  test("the average follows the weights: young ones closely, old ones by the given share", async () => {
    let average = [0.5, -1, 2, 0.25];
    for (let step = 0; step < 12; step++) {
      const { w = [] } = await of({ averaging: 0.5 }, step + 1);
      const keep = Math.min(0.5, (1 + step) / (10 + step));
      average = average.map((value, i) => keep * value + (1 - keep) * (w[i] ?? 0));
    }
    expect(apart((await of({ averaging: 0.5 }, 12))["w/average"], average)).toBeLessThan(1e-5);
  });

  test("rate 0 changes nothing", async () => {
    for (const optimizer of ["sgd", "adam", "adamw", "rmsprop", "lion"] as const) {
      const options = { optimizer, weightDecay: 0.3, averaging: 0.9, clipNorm: 1, accumulate: 2 } as const;
      const { w, c, "w/average": average } = await of(options, 3, 0);
      expect([...(w ?? [])]).toEqual([0.5, -1, 2, 0.25]);
      expect([...(average ?? [])]).toEqual([0.5, -1, 2, 0.25]);
      expect([...(c ?? [])]).toEqual([...Float32Array.of(0.1, -0.2)]);
    }
  });
});

describe("half precision", () => {
  test("products are float16, what they lead to comes close to full precision, weights stay float32", async () => {
    const graph = buildStepGraph(linear(), { batch: 4, loss: "mse", precision: "mixed" });
    const products = graph.model.graph.nodes.filter(({ opType }) => opType === "Gemm" || opType === "MatMul");
    expect(products.length).toBeGreaterThan(1); // the layer, and the gradient of its matrix
    for (const { inputs } of products) for (const input of inputs) expect(input?.producer?.opType).not.toBe(undefined);
    const forward = products[0]?.outputs[0];
    expect(forward?.dtype).toBe("float16");
    const [full, half] = [await of({}, 5), await of({ precision: "mixed" }, 5)];
    // float16 has 11 bits: products are off by 2⁻¹¹ of their size, and so are the steps
    expect(apart(half["w"], full["w"])).toBeLessThan(4e-3);
    expect(half["skipped_steps"]?.[0]).toBe(0);
    expect(half["calm_steps"]?.[0]).toBe(5);
  });

  test("an overflow skips the step and halves the scale; the next one goes on", async () => {
    const options = { precision: "mixed", momentum: 0.9, averaging: 0.9 } as const;
    const huge = X.map((value) => value * 1e30);
    const one = (await run(linear(), options, 1, 0.1, () => huge)).state;
    expect([one["skipped_steps"]?.[0], one["calm_steps"]?.[0], one["loss_scale"]?.[0]]).toEqual([1, 0, 2 ** 15]);
    expect([...(one["w"] ?? [])]).toEqual([0.5, -1, 2, 0.25]);
    expect([...(one["w/momentum"] ?? [])]).toEqual([0, 0, 0, 0]);
    const after = (await run(linear(), options, 3, 0.1, (step) => (step === 1 ? huge : X))).state;
    const without = (await run(linear(), options, 2, 0.1)).state;
    expect(apart(after["w"], without["w"])).toBeLessThan(4e-3);
    expect(after["w"]?.[0]).not.toBe(0.5);
    const parts = (await run(linear(), { ...options, accumulate: 2 }, 2, 0.1, (step) => (step === 0 ? huge : X))).state;
    const second = (await run(linear(), { ...options, accumulate: 2 }, 1, 0.1)).state;
    expect(apart(parts["w"], second["w"])).toBeLessThan(4e-3); // what overflowed is not carried into the next sum
  });
});

/** A Dropout of this rate between two layers of a network. */
function dropping(rate: number, width = 64): Model {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", 2]);
  const rng = new Rng(3);
  const draw = (shape: number[]): Tensor =>
    Tensor.float32(
      shape,
      Array.from({ length: (shape[0] ?? 1) * (shape[1] ?? 1) }, () => rng.normal()),
    );
  const h = b.op("MatMul", [x, b.constant("a", draw([2, width]))]);
  const d = b.op("Dropout", [h, b.constant("rate", Tensor.float32([], [rate]))]);
  b.output(b.op("MatMul", [d, b.constant("w", draw([width, 2]))]), "y");
  return model;
}

describe("dropout", () => {
  test("drops its share, scales the rest, independently over elements and steps", async () => {
    const [rows, width, rate] = [64, 96, 0.3];
    const graph = buildStepGraph(dropping(rate, width), { batch: rows, loss: "mse" });
    const mask = graph.model.graph.nodes.find((node) => node.opType === "Where")?.outputs[0];
    const port = graph.noise;
    if (!mask || !port) throw new Error("no dropout in the step");
    expect(port.length).toBeLessThanOrEqual(rows + width);
    [mask.dtype, mask.shape] = ["float32", [rows, width]];
    graph.model.graph.outputs.push(mask);
    const session = await openSession(graph.model, { inProcess: true, threads: 1 });
    const state = await graph.initialState();
    const array = (columns: number): NdArray => ({
      dtype: "float32",
      shape: [rows, columns],
      data: new Float32Array(rows * columns),
    });
    const masks: Float32Array[] = [];
    for (let step = 0; step < 40; step++) {
      const feeds = { x: array(2), labels: array(2), ...state, [port.name]: noiseFor(port, 7, step) };
      const outputs = await session.run({ ...feeds, ...graph.scalars({ step, learningRate: 0 }) }, [mask.name]);
      masks.push(outputs[mask.name]?.data as Float32Array);
    }
    await session.close();
    const all = masks.flatMap((values) => [...values]);
    expect(new Set(all)).toEqual(new Set([0, Math.fround(1 / (1 - rate))]));
    const dropped = (values: Iterable<number>): number[] => Array.from(values, (value) => (value === 0 ? 1 : 0));
    const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
    const n = all.length;
    // Deviation of a mean of n draws: √(p(1 − p)/n); five of them
    const slack = 5 * Math.sqrt((rate * (1 - rate)) / n);
    expect(Math.abs(mean(dropped(all)) - rate)).toBeLessThan(slack);
    // Correlation of neighbours in a row, in a column, around a rectangle, and from step to step
    const at = (step: number, i: number, j: number): number =>
      ((masks[step]?.[(i % rows) * width + (j % width)] ?? 0) === 0 ? 1 : 0) - rate;
    const products = { row: 0, column: 0, rectangle: 0, step: 0 };
    for (let step = 0; step < 39; step++)
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < width; j++) {
          products.row += at(step, i, j) * at(step, i, j + 1);
          products.column += at(step, i, j) * at(step, i + 1, j);
          products.rectangle += at(step, i, j) * at(step, i + 5, j) * at(step, i, j + 7) * at(step, i + 5, j + 7);
          products.step += at(step, i, j) * at(step + 1, i, j);
        }
    const deviation = rate * (1 - rate) * Math.sqrt(39 * rows * width);
    for (const name of ["row", "column", "step"] as const) expect(Math.abs(products[name])).toBeLessThan(5 * deviation);
    // Products of four: deviation (p(1 − p))²·√n; rectangles share factors, so that more is allowed
    expect(Math.abs(products.rectangle)).toBeLessThan(10 * rate * (1 - rate) * deviation);
  });

  test("its gradient is that of the mask; off, it passes everything", async () => {
    const off = await run(dropping(0.5), { dropout: false }, 2, 0.001);
    const plain = await run(dropping(0), {}, 2, 0.001);
    expect(apart(off.state["w"], plain.state["w"])).toBe(0);
    const on = await run(dropping(0.5), {}, 2, 0.001);
    expect(on.losses[0]).not.toBe(off.losses[0]);
    expect(await run(dropping(0.5), {}, 2, 0.001)).toEqual(on);
  });
});

describe("a teacher inside the step", () => {
  const teacher = linear([1, 2, -1, 0.5], [0, 0.3]);

  test("gives the same as its scores fed from outside", async () => {
    const share = { share: 1, temperature: 3 };
    const inside = await run(linear(), { teacher: { model: teacher, ...share } });
    const graph = buildStepGraph(linear(), { batch: 4, teacher: share });
    const session = await openSession(graph.model, { inProcess: true, threads: 1 });
    const resident = await session.resident(await graph.initialState(), graph.links);
    const rows = (values: readonly number[]): NdArray => ({
      dtype: "float32",
      shape: [4, 2],
      data: Float32Array.from(values),
    });
    const scores = [0, 1, 2, 3].flatMap((i) => {
      const [a = 0, b = 0] = X.slice(2 * i);
      return [a - b, 2 * a + 0.5 * b + 0.3];
    });
    for (let step = 0; step < 3; step++)
      await resident.step({ x: rows(X), teacher_logits: rows(scores), ...graph.scalars({ step, learningRate: 0.1 }) });
    const { w } = await resident.read(["w"]);
    await session.close();
    expect(apart(inside.state["w"], w?.data as Float32Array)).toBeLessThan(1e-6);
    expect(Object.keys(inside.state).filter((name) => name.startsWith("teacher"))).toEqual([]);
  });

  test("hidden states of another width are matched through a learned projection that is not part of the result", async () => {
    const student = buildArchitecture("mlp", { input: [2], classes: 2, hidden: [5] });
    const wide = buildArchitecture("mlp", { input: [2], classes: 2, hidden: [9], seed: 3 });
    const relu = (model: Model): string =>
      model.graph.nodes.find((node) => node.opType === "Relu")?.outputs[0]?.name ?? "";
    const graph = buildStepGraph(student, {
      batch: 4,
      terms: [
        { kind: "cross-entropy", weight: 0.5 },
        { kind: "hidden", student: relu(student), teacher: relu(wide), weight: 2 },
        { kind: "relation-distance" },
      ],
      teacher: { model: wide },
    });
    expect(graph.weights.some((name) => name.includes("projection"))).toBe(false);
    const session = await openSession(graph.model, { inProcess: true, threads: 1 });
    const resident = await session.resident(await graph.initialState(), graph.links);
    const losses: number[] = [];
    for (let step = 0; step < 40; step++) {
      const { loss } = await resident.step({
        [graph.inputs[0] ?? ""]: { dtype: "float32", shape: [4, 2], data: Float32Array.from(X) },
        labels: { dtype: "int64", shape: [4], data: BigInt64Array.of(0n, 1n, 0n, 1n) },
        ...graph.scalars({ step, learningRate: 0.02 }),
      });
      losses.push((loss?.data as Float32Array | undefined)?.[0] ?? Number.NaN);
    }
    await session.close();
    expect(losses.at(-1)).toBeLessThan(0.7 * (losses[0] ?? 0));
  });

  test("a value that it does not have is named with the nearest", () => {
    const terms = [{ kind: "mse" }, { kind: "hidden", student: "y", teacher: "yy" }] as const;
    expect(() => buildStepGraph(linear(), { batch: 4, terms, teacher: { model: teacher } })).toThrow(/'yy'.*'y'/);
    expect(() => buildStepGraph(linear(), { batch: 4, terms })).toThrow("no");
  });
});
