/** Sparse training from the first step: how many weights there are where, and that moving them beats leaving them. */
import { describe, expect, it } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Model } from "../../src/ir/model.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { evaluateConstants } from "../../src/run/fold.node.ts";
import { tap } from "../../src/run/taps.node.ts";
import { installEngine } from "../../src/techniques/engine.ts";
import { trainSparse } from "../../src/techniques/sparsify/train-sparse.ts";
import { runTechnique } from "../support/run-technique.ts";

installEngine({
  openSession: (model, options) => openSession(model, { ...options, inProcess: true }),
  evaluateConstants,
  tap,
});

// Two of 64 inputs tell the class: weights that are anywhere else are wasted.
const [SIZE, K, TOLD] = [512, 64, 2];
const rng = new Rng(4);
const x = Float32Array.from({ length: SIZE * K }, () => rng.normal());
const labels = Int32Array.from({ length: SIZE }, (_, s) => {
  const [a = 0, b = 0] = x.subarray(s * K, s * K + TOLD);
  return (a > 0 ? 2 : 0) + (b > 0 ? 1 : 0);
});
const data = datasetOf({
  fields: { input: { dtype: "float32", shape: [SIZE, K], data: x } },
  labels: { dtype: "int32", shape: [SIZE], data: labels },
});
const network = (): Model => buildArchitecture("mlp", { input: [K], classes: 4, hidden: [32] });
const OPTIONS = { epochs: 20, batch: 64, learningRate: 0.1, ratio: 0.95, every: 10, weightDecay: 0 };

const weight = async (model: Model, name: string): Promise<Float32Array> =>
  (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;

/** Share of the first layer's weights that read the inputs that matter. */
async function onTarget(method: string): Promise<number> {
  const { model } = await runTechnique(trainSparse, network(), { ...OPTIONS, method }, data);
  const tensor = model.graph.initializers.get("fc1.weight")?.tensor;
  const w = await weight(model, "fc1.weight");
  const inputsLast = tensor?.shape[1] === K;
  const input = (at: number): number => (inputsLast ? at % K : Math.floor(at / 32));
  const taken = [...w.keys()].filter((at) => w[at] !== 0);
  return taken.filter((at) => input(at) < TOLD).length / taken.length;
}

describe("train-sparse", () => {
  it("RigL finds the inputs that matter, chance less so, and a fixed choice not at all", async () => {
    const [rigl, set, fixed] = [await onTarget("rigl"), await onTarget("set"), await onTarget("static")];
    expect(fixed).toBeLessThan(3 * (TOLD / K)); // as many as there were
    expect(rigl).toBeGreaterThan(4 * (TOLD / K));
    expect(rigl).toBeGreaterThan(1.5 * set);
  });

  it("has as many weights as was asked for, shares by shape or the same everywhere", async () => {
    const zeros = (w: Float32Array): number => w.filter((v) => v === 0).length;
    for (const allocation of ["erk", "uniform"]) {
      const options = { ...OPTIONS, epochs: 1, ratio: 0.8, allocation };
      const { model, journal } = await runTechnique(trainSparse, network(), options, data);
      const [first, last] = [await weight(model, "fc1.weight"), await weight(model, "fc2.weight")];
      expect(Math.abs(zeros(first) + zeros(last) - 0.8 * (first.length + last.length))).toBeLessThanOrEqual(2);
      const shares = [zeros(first) / first.length, zeros(last) / last.length];
      if (allocation === "uniform") for (const share of shares) expect(share).toBeCloseTo(0.8, 1);
      else expect(shares[0]).toBeGreaterThan((shares[1] as number) + 0.1);
      expect(journal.changed.some(({ how }) => /elsewhere at the end/.test(how))).toBe(true);
    }
  });
});
