/** Thin factors beside codes: less of the weight lacks with every rank, the model computes ŵ + A·B, and bytes are counted. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { toFloat32 } from "../../src/base/to-float32.ts";
import type { Model } from "../../src/ir/model.ts";
import type { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { packSolution, unpackSolution } from "../../src/techniques/quantize/weights/solved-codes.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { mlpModel } from "../support/models.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { storedWeight, weightModel, weightsOfCase, withWeights } from "../support/weight-models.ts";

const OPERATORS = ["MatMul", "Gemm", "Conv", "LSTM"];

const halves = async (tensor: Tensor): Promise<Float32Array> =>
  toFloat32(tensor.dtype, await tensor.bytes(), tensor.elements);

/** The factors' product in the stored shape; undefined without factors. */
async function productOf(model: Model, name: string, elements: number): Promise<Float32Array | undefined> {
  const [a, b] = ["low.a", "low.b"].map((part) => model.graph.find(`${name}.${part}`)?.tensor) as Tensor[];
  if (!a || !b) return undefined;
  const first = a.shape[1] === b.shape[0] ? a : b;
  const second = first === a ? b : a;
  const [x, y] = [await halves(first), await halves(second)];
  const [rank = 1, cols = 1] = second.shape;
  return Float32Array.from({ length: elements }, (_, at) => {
    let sum = 0;
    for (let r = 0; r < rank; r++) sum += (x[Math.floor(at / cols) * rank + r] ?? 0) * (y[r * cols + (at % cols)] ?? 0);
    return sum;
  });
}

interface Compensated {
  readonly model: Model;
  readonly weights: Record<string, Float32Array>;
  /** ‖w − (ŵ + A·B)‖² of each weight. */
  readonly errors: number[];
  readonly bytes: number[];
}

async function compensated(before: Model, options: Record<string, unknown>): Promise<Compensated> {
  const { model, journal } = await runTechnique(quantizeWeights, before, {
    compute: "fp32",
    minElements: 1,
    block: 16,
    ...options,
  });
  const weights: Record<string, Float32Array> = {};
  const errors: number[] = [];
  for (const [name, shape] of OPERATORS.flatMap(weightsOfCase)) {
    const elements = shape.reduce((x, y) => x * y, 1);
    const codes = await storedWeight(model, name, `int${options["bits"] as number}`, shape);
    let low = await productOf(model, name, elements);
    // Behind packed kernels factors stand as (inputs, rank) and (rank, outputs); Gemm's weight is stored the other way round
    if (low && name.startsWith("Gemm") && model.graph.find(`${name}.low.a`)?.tensor?.shape[0] === shape[1])
      low = Float32Array.from(
        low,
        (_, at) => low?.[(at % (shape[1] ?? 1)) * (shape[0] ?? 1) + Math.floor(at / (shape[1] ?? 1))] ?? 0,
      );
    const whole = codes.map((w, at) => w + (low?.[at] ?? 0));
    const w = (await before.graph.find(name)?.tensor?.data()) as Float32Array;
    weights[name] = whole;
    errors.push(w.reduce((sum, x, at) => sum + (x - (whole[at] ?? 0)) ** 2, 0));
  }
  return { model, weights, errors, bytes: journal.changed.map(({ bytesAfter = 0 }) => bytesAfter) };
}

describe.each([
  ["int3, unpacked at load", { bits: 3, method: "rtn" }],
  ["int4, in packed kernels where there are some", { bits: 4, method: "mse" }],
  ["int4 by HQQ", { bits: 4, method: "hqq" }],
] as const)("%s", (_, options) => {
  it("lacks less with every rank, and runs as ŵ + A·B", async () => {
    const before = weightModel(OPERATORS, 17);
    let last = await compensated(before, options);
    for (const compensate of [1, 4, 12]) {
      const next = await compensated(before, { ...options, compensate });
      for (const [i, error] of next.errors.entries()) expect(error).toBeLessThan(last.errors[i] ?? 0);
      const plain = await withWeights(before, next.weights);
      expect(worstError(await runOnSynthetic(plain), await runOnSynthetic(next.model))).toBeLessThan(1e-4);
      last = next;
    }
    // The check above can fail
    expect(worstError(await runOnSynthetic(before), await runOnSynthetic(last.model))).toBeGreaterThan(1e-3);
  });

  it("counts the factors' bytes", async () => {
    const before = weightModel(OPERATORS, 17);
    const [without, of4] = [
      await compensated(before, options),
      await compensated(before, { ...options, compensate: 4 }),
    ];
    // rows + cols of MatMul, Gemm, Conv (24, 144), LSTM (64, 48), (64, 16), in the order in which they are done
    const more = of4.bytes.map((bytes, i) => bytes - (without.bytes[i] ?? 0)).sort((x, y) => x - y);
    expect(more).toEqual([80, 112, 112, 112, 168].map((sizes) => 2 * 4 * sizes));
  });
});

describe("compensation", () => {
  it.each(["gptq", "awq", "awq-gptq"])("on samples: outputs come nearer with every rank, %s", async (method) => {
    const before = mlpModel();
    const rng = new Rng(9);
    const rows = Float32Array.from({ length: 512 * 16 }, () => rng.normal());
    const logitsOf = async (model: Model): Promise<Float32Array> => {
      const session = await openSession(model, { inProcess: true, threads: 1 });
      const { logits } = await session.run({ input: { dtype: "float32", shape: [512, 16], data: rows } });
      await session.close();
      return logits?.data as Float32Array;
    };
    const wanted = await logitsOf(before);
    const errorOf = async (compensate?: number): Promise<number> => {
      const options = { bits: 4, block: 16, method, compute: "fp32", minElements: 1, samples: 64, compensate };
      const { model } = await runTechnique(quantizeWeights, before, options);
      const got = await logitsOf(model);
      return wanted.reduce((sum, y, at) => sum + (y - (got[at] ?? 0)) ** 2, 0);
    };
    const [none, two, six] = [await errorOf(), await errorOf(2), await errorOf(6)];
    expect(two).toBeLessThan(none);
    expect(six).toBeLessThan(0.7 * two);
  });

  it("says what it leaves alone: tables, grouped kernels, other formats, ranks that would take more than the weight", async () => {
    const before = weightModel(["Gather", "depthwise Conv", "MatMul"], 17);
    const { journal } = await runTechnique(quantizeWeights, before, { bits: 4, minElements: 1, compensate: 1000 });
    const notes = journal.notes.join("\n");
    expect(notes).toContain("Gather w0 is not compensated: rows of it are looked up");
    expect(notes).toContain("depthwise Conv w0 is not compensated");
    expect(notes).toContain(
      "MatMul w0 is not compensated: factors of 1000 columns and the codes would take more than it has",
    );
    const levels = await runTechnique(quantizeWeights, before, { to: "nf4", minElements: 1, compensate: 4 });
    expect(levels.journal.notes.join("\n")).toContain(
      "MatMul w0 is not compensated: nf4 is not a grid of few integers",
    );
  });

  it("is kept and taken over after a kill", () => {
    const solved = {
      rows: 2,
      cols: 3,
      group: 3,
      codes: Uint8Array.of(1, 2, 3, 4, 5, 6),
      scales: Float32Array.of(1, 2),
      zeroPoints: Uint8Array.of(7, 8),
      error: 0.5,
    };
    const factors = { rank: 1, a: Uint16Array.of(1, 2, 3), b: Uint16Array.of(4, 5) };
    const layers = [
      { how: "a", solved: { ...solved, factors } },
      { how: "b", solved: { ...solved, factors: undefined } },
    ];
    const scales = Float32Array.of(9, 10, 11);
    expect(unpackSolution(packSolution({ scales, layers }))).toEqual({ scales, layers });
  });
});
