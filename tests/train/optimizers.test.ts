/** Optimizer steps in the engine against the published formulas in double precision. */
import { expect, test } from "vitest";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { buildStepGraph, type StepOptions } from "../../src/train/step-graph.ts";

const START = [0.5, -1, 2, 0.25];
const X = [
  [1, -2],
  [0.5, 1],
  [-1, 0.25],
];
const T = [
  [1, 0],
  [0, 1],
  [1, 1],
];
const STEPS = 4;
const RATE = 0.1;

/** y = x·W with W (2, 2), trained by mean squared error. */
async function inEngine(options: Partial<StepOptions>): Promise<number[]> {
  const model = new Model();
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", 2]);
  const y = b.op("MatMul", [x, b.constant("w", Tensor.float32([2, 2], START))]);
  b.output(y, "y");
  const graph = buildStepGraph(model, { ...options, batch: 3, loss: "mse" });
  const session = await openSession(graph.model, { inProcess: true, threads: 1 });
  const resident = await session.resident(await graph.initialState(), graph.links);
  const array = (rows: number[][]) => ({
    dtype: "float32" as const,
    shape: [3, 2],
    data: Float32Array.from(rows.flat()),
  });
  for (let step = 0; step < STEPS; step++)
    await resident.step({ x: array(X), labels: array(T), ...graph.scalars({ step, learningRate: RATE }) });
  const state = await resident.read(["w"]);
  await session.close();
  return Array.from(state["w"]?.data as Float32Array);
}

/** ∂L/∂W of L = (1/6)Σ(xW − t)². */
function gradient(w: readonly number[]): number[] {
  const g = [0, 0, 0, 0];
  for (const [row, x] of X.entries())
    for (const k of [0, 1]) {
      const error = (x[0] ?? 0) * (w[k] ?? 0) + (x[1] ?? 0) * (w[2 + k] ?? 0) - (T[row]?.[k] ?? 0);
      for (const i of [0, 1]) g[2 * i + k] = (g[2 * i + k] ?? 0) + (2 * error * (x[i] ?? 0)) / 6;
    }
  return g;
}

type Rule = (w: number, g: number, slots: number[], step: number) => number;

function byHand(rule: Rule): number[] {
  let w = [...START];
  const slots = w.map(() => [0, 0]);
  for (let step = 1; step <= STEPS; step++) {
    const g = gradient(w);
    w = w.map((value, i) => rule(value, g[i] ?? 0, slots[i] ?? [], step));
  }
  return w;
}

const sgd =
  (momentum: number, nesterov: boolean, decay: number): Rule =>
  (w, plain, slots) => {
    const g = plain + decay * w;
    slots[0] = momentum * (slots[0] ?? 0) + g;
    return w - RATE * (nesterov ? g + momentum * slots[0] : slots[0]);
  };

const adam =
  (decay: number, decoupled: boolean): Rule =>
  (w, plain, slots, step) => {
    const g = decoupled ? plain : plain + decay * w;
    slots[0] = 0.9 * (slots[0] ?? 0) + 0.1 * g;
    slots[1] = 0.999 * (slots[1] ?? 0) + 0.001 * g * g;
    const moved = (RATE * (slots[0] / (1 - 0.9 ** step))) / (Math.sqrt(slots[1] / (1 - 0.999 ** step)) + 1e-8);
    return (decoupled ? w * (1 - RATE * decay) : w) - moved;
  };

const rmsprop =
  (decay: number, momentum: number): Rule =>
  (w, plain, slots) => {
    const g = plain + decay * w;
    slots[0] = 0.99 * (slots[0] ?? 0) + 0.01 * g * g;
    slots[1] = momentum * (slots[1] ?? 0) + g / (Math.sqrt(slots[0]) + 1e-8);
    return w - RATE * slots[1];
  };

const lion =
  (decay: number): Rule =>
  (w, g, slots) => {
    const m = slots[0] ?? 0;
    slots[0] = 0.99 * m + 0.01 * g;
    return w - RATE * (Math.sign(0.9 * m + 0.1 * g) + decay * w);
  };

const CASES: [string, Partial<StepOptions>, Rule][] = [
  ["plain", { momentum: 0 }, sgd(0, false, 0)],
  ["momentum", { momentum: 0.9 }, sgd(0.9, false, 0)],
  ["Nesterov", { momentum: 0.8, nesterov: true }, sgd(0.8, true, 0)],
  ["Nesterov with decay", { momentum: 0.8, nesterov: true, weightDecay: 0.1 }, sgd(0.8, true, 0.1)],
  ["Adam", { optimizer: "adam" }, adam(0, false)],
  ["Adam with decay", { optimizer: "adam", weightDecay: 0.1 }, adam(0.1, false)],
  ["RMSprop", { optimizer: "rmsprop" }, rmsprop(0, 0)],
  ["RMSprop with momentum and decay", { optimizer: "rmsprop", momentum: 0.5, weightDecay: 0.1 }, rmsprop(0.1, 0.5)],
  ["Lion", { optimizer: "lion" }, lion(0)],
  ["Lion with decay", { optimizer: "lion", weightDecay: 0.1 }, lion(0.1)],
  ["AdamW", { optimizer: "adamw", weightDecay: 0.1 }, adam(0.1, true)],
];

for (const [name, options, rule] of CASES)
  test(name, async () => {
    const [engine, hand] = [await inEngine(options), byHand(rule)];
    for (const [i, value] of hand.entries()) expect(engine[i]).toBeCloseTo(value, 4);
  });

test("another rule is told apart: the negative control", async () => {
  const [engine, hand] = [await inEngine({ momentum: 0.9 }), byHand(sgd(0.8, false, 0))];
  expect(Math.max(...hand.map((value, i) => Math.abs(value - (engine[i] ?? 0))))).toBeGreaterThan(1e-3);
});
