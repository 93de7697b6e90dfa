/** GPTQ's solver: equal to the paper's loops, never worse than rounding to nearest, exact where inputs are independent. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { type Kernels, loadKernels } from "../../src/kernels/kernels.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { MatrixEngine } from "../../src/run/matrix-engine.ts";
import { type GptqOptions, gptq } from "../../src/techniques/quantize/weights/gptq.ts";
import { type Weights, gridOf, roundToGrid } from "../../src/techniques/quantize/weights/weight-grid.ts";
import { gptqReference } from "../support/gptq-reference.ts";

let kernels: Kernels;
let engine: MatrixEngine;
beforeAll(async () => {
  kernels = await loadKernels();
  engine = await MatrixEngine.open(openSession, kernels, { inProcess: true, threads: 1 });
});
afterAll(() => engine.close());

function noise(length: number, seed: number): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length }, () => rng.normal());
}

/** XᵀX of correlated inputs of different size, some of them always zero. */
function gramOf(k: number, seed: number, rows = 2 * k): Float64Array {
  const rng = new Rng(seed);
  const sizes = Array.from({ length: k }, (_, i) => (i % 11 === 7 ? 0 : Math.exp(rng.normal())));
  const gram = new Float64Array(k * k);
  const x = new Float64Array(k);
  for (let row = 0; row < rows; row++) {
    const common = rng.normal();
    for (let i = 0; i < k; i++) x[i] = (sizes[i] ?? 0) * (common + rng.normal());
    for (let i = 0; i < k; i++)
      for (let j = 0; j < k; j++) gram[i * k + j] = (gram[i * k + j] ?? 0) + (x[i] ?? 0) * (x[j] ?? 0);
  }
  return gram;
}

/** tr(EᵀGE). */
function outputError(errors: Float32Array, gram: Float64Array, n: number): number {
  const k = errors.length / n;
  let sum = 0;
  for (let i = 0; i < k; i++)
    for (let j = 0; j < k; j++) {
      let dot = 0;
      for (let o = 0; o < n; o++) dot += (errors[i * n + o] ?? 0) * (errors[j * n + o] ?? 0);
      sum += (gram[i * k + j] ?? 0) * dot;
    }
  return sum;
}

const spec = (given: Partial<GptqOptions> = {}): GptqOptions => ({
  bits: 4,
  group: 16,
  symmetric: false,
  scale: "range",
  scaleType: "float32",
  rule: "blocks",
  actOrder: false,
  damping: 0.01,
  ...given,
});

const weightsOf = (k: number, n: number, seed: number): Weights => ({ k, n, data: noise(k * n, seed) });

describe("gptq", () => {
  it.each([
    [40, 24, false],
    [40, 24, true],
    [300, 17, true],
    [300, 17, false],
  ])("equals the paper's loops: %i inputs, %i outputs, act-order %s", async (k, n, actOrder) => {
    const weights = weightsOf(k, n, 1);
    const gram = gramOf(k, 2);
    const options = spec({ actOrder });
    const grid = gridOf(kernels, weights, options);
    const found = await gptq(engine, kernels, weights, gram, { ...options, grid });
    const order = Array.from({ length: k }, (_, i) => i);
    if (actOrder) order.sort((a, b) => (gram[b * (k + 1)] ?? 0) - (gram[a * (k + 1)] ?? 0) || a - b);
    const at = (input: number, output: number): number => Math.floor(input / 16) * n + output;
    const { codes } = gptqReference(weights.data, n, gram, {
      damping: 0.01,
      order,
      top: 15,
      scale: (i, o) => grid.scales[at(i, o)] ?? 0,
      zeroPoint: (i, o) => grid.zeroPoints[at(i, o)] ?? 0,
    });
    // Single against double precision: a few weights lie on the border of two codes, and those after them in their column follow.
    const different = codes.filter((code, i) => code !== found.codes[i]).length;
    expect(different / codes.length).toBeLessThan(0.02);
    // The control: rounding to nearest is something else.
    const nearest = roundToGrid(kernels, weights, grid, options).codes;
    expect(nearest.filter((code, i) => code !== codes[i]).length / codes.length).toBeGreaterThan(0.1);
  });

  it("loses less than rounding to nearest on its own inputs, whatever the sizes, bits and order", async () => {
    const rng = new Rng(8);
    const ratios: number[] = [];
    for (const bits of [2, 3, 4, 8] as const)
      for (const actOrder of [true, false]) {
        const [k, n, symmetric] = [8 + rng.below(170), 4 + rng.below(40), rng.below(2) === 1];
        const weights = weightsOf(k, n, ratios.length);
        const gram = gramOf(k, ratios.length + 1);
        const options = spec({ bits, symmetric, actOrder, group: 32 });
        const found = await gptq(engine, kernels, weights, gram, options);
        const nearest = roundToGrid(kernels, weights, gridOf(kernels, weights, options), options);
        ratios.push(outputError(found.errors, gram, n) / outputError(nearest.errors, gram, n));
      }
    // Greedy, hence no theorem for a single layer (the technique keeps the better of the two); on average much is won.
    expect(Math.max(...ratios)).toBeLessThan(1.1);
    expect(ratios.reduce((a, b) => a + b) / ratios.length).toBeLessThan(0.7);
  });

  it("rounds to nearest where inputs are independent and of one size", async () => {
    for (const [k, actOrder] of [
      [50, false],
      [200, true],
    ] as const) {
      const weights = weightsOf(k, 20, 3);
      const identity = Float64Array.from({ length: k * k }, (_, at) => (at % (k + 1) === 0 ? 5 : 0));
      const options = spec({ actOrder });
      const found = await gptq(engine, kernels, weights, identity, options);
      const nearest = roundToGrid(kernels, weights, gridOf(kernels, weights, options), options);
      expect(found.codes).toEqual(nearest.codes);
    }
  });

  it("says what its damped loss is", async () => {
    const weights = weightsOf(200, 9, 4);
    const gram = gramOf(200, 5);
    const found = await gptq(engine, kernels, weights, gram, spec({ actOrder: true }));
    const mean = Array.from({ length: 200 }, (_, i) => gram[i * 201] ?? 0).reduce((a, b) => a + b) / 200;
    const damped = gram.map((g, at) => g / mean + (at % 201 === 0 ? 0.01 : 0));
    const exact = outputError(found.errors, damped, 9);
    expect(Math.abs(found.loss / exact - 1)).toBeLessThan(1e-3);
  });

  it("raises the damping where the second moments are of low rank, and refuses those that are not finite", async () => {
    const weights = weightsOf(150, 5, 6);
    const found = await gptq(engine, kernels, weights, gramOf(150, 7, 3), spec({ damping: 0 }));
    expect(found.damping).toBeGreaterThan(0);
    const broken = gramOf(150, 7).fill(Number.NaN, 450, 600);
    await expect(gptq(engine, kernels, weights, broken, spec())).rejects.toMatchObject({ code: "bad-data" });
  });
});
