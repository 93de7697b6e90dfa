/** Low-rank factors of a quantization error: near the optimum, less and less left with rank, nothing at full rank, inputs weighed. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { type Kernels, loadKernels } from "../../src/kernels/kernels.ts";
import { type Matrix, MatrixEngine } from "../../src/run/matrix-engine.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { lowRank } from "../../src/techniques/quantize/weights/low-rank.ts";

let kernels: Kernels;
let engine: MatrixEngine;
beforeAll(async () => {
  kernels = await loadKernels();
  engine = await MatrixEngine.open(openSession, kernels, { inProcess: true, threads: 1 });
});
afterAll(() => engine.close());

const normal = (rows: number, cols: number, seed: number): Matrix => {
  const rng = new Rng(seed);
  return { rows, cols, data: Float32Array.from({ length: rows * cols }, () => rng.normal()) };
};

/** ‖X(E − A·B)‖² in plain loops. */
function left(e: Matrix, { a, b }: { a: Matrix; b: Matrix }, x?: Matrix): number {
  const off = e.data.map((value, at) => {
    const [i, o] = [Math.floor(at / e.cols), at % e.cols];
    let sum = value;
    for (let r = 0; r < a.cols; r++) sum -= (a.data[i * a.cols + r] ?? 0) * (b.data[r * b.cols + o] ?? 0);
    return sum;
  });
  if (!x) return off.reduce((sum, d) => sum + d * d, 0);
  let total = 0;
  for (let row = 0; row < x.rows; row++)
    for (let o = 0; o < e.cols; o++) {
      let y = 0;
      for (let i = 0; i < e.rows; i++) y += (x.data[row * x.cols + i] ?? 0) * (off[i * e.cols + o] ?? 0);
      total += y * y;
    }
  return total;
}

const energy = (e: Matrix): number => e.data.reduce((sum, d) => sum + d * d, 0);

describe("low-rank factors", () => {
  it.each([
    [24, 40],
    [40, 24],
  ])("of a %i × %i error leave less with every rank, and nothing at full rank", async (k, n) => {
    const e = normal(k, n, 3);
    let before = energy(e);
    for (const rank of [1, 2, 4, 8, 16, 23]) {
      const rest = left(e, await lowRank(engine, kernels, e, rank));
      expect(rest).toBeLessThan(before);
      before = rest;
    }
    expect(left(e, await lowRank(engine, kernels, e, 24)) / energy(e)).toBeLessThan(1e-8);
  });

  it("find planted directions, in noise, as well as they are known", async () => {
    const [k, n, planted] = [60, 48, 3];
    const [u, v, noise] = [normal(k, planted, 1), normal(planted, n, 2), normal(k, n, 5)];
    const e = { rows: k, cols: n, data: noise.data.map((x) => 0.05 * x) };
    for (let i = 0; i < k; i++)
      for (let o = 0; o < n; o++)
        for (let r = 0; r < planted; r++)
          e.data[i * n + o] = (e.data[i * n + o] ?? 0) + (u.data[i * planted + r] ?? 0) * (v.data[r * n + o] ?? 0);
    const noiseEnergy = 0.0025 * k * n;
    expect(left(e, await lowRank(engine, kernels, e, planted))).toBeLessThan(1.05 * noiseEnergy);
    expect(left(e, await lowRank(engine, kernels, e, planted - 1))).toBeGreaterThan(20 * noiseEnergy);
  });

  it("weigh directions by the inputs: less is left of outputs than with plain factors, and plain ones leave less of the weight", async () => {
    const [k, n, rank] = [32, 28, 4];
    const e = normal(k, n, 7);
    const x = normal(200, k, 8);
    for (const [at, value] of x.data.entries()) x.data[at] = value * ((at % k) % 8 === 0 ? 10 : 0.3);
    const gram = await engine.product({ rows: k, cols: 200, data: kernels.transpose(x.data, 200, k) }, x);
    const mean = gram.data.reduce((sum, g, at) => sum + (at % (k + 1) === 0 ? g : 0), 0) / k;
    const scaled = { ...gram, data: gram.data.map((g) => g / mean) };
    const [plain, weighed] = [await lowRank(engine, kernels, e, rank), await lowRank(engine, kernels, e, rank, scaled)];
    expect(left(e, weighed, x)).toBeLessThan(0.5 * left(e, plain, x));
    expect(left(e, plain)).toBeLessThan(left(e, weighed));
  });

  it("of no error are zero", async () => {
    const { a, b } = await lowRank(engine, kernels, { rows: 8, cols: 6, data: new Float32Array(48) }, 2);
    expect(left({ rows: 8, cols: 6, data: new Float32Array(48) }, { a, b })).toBe(0);
  });
});
