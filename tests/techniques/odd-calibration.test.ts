/** Samples that calibration can meet: constant, empty of information, huge, broken. The result computes, or an error says what is wrong. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { PareError } from "../../src/base/error.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import type { Model } from "../../src/ir/model.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { Feeds } from "../../src/run/session.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { runTechnique } from "../support/run-technique.ts";
import { classifier, smallCnn } from "../support/small-models.ts";

type Fill = (i: number, rng: Rng) => number;

/** What the samples hold; `broken` ones have numbers that are not finite in every sample. */
const KINDS: Record<string, { readonly fill: Fill; readonly broken?: boolean }> = {
  "all zero": { fill: () => 0 },
  "one constant": { fill: () => 3 },
  "tiny numbers": { fill: (_, rng) => 1e-38 * rng.normal() },
  "huge numbers": { fill: (_, rng) => 1e30 * rng.normal() },
  "one outlier": { fill: (i, rng) => (i === 5 ? 1e6 : rng.normal()) },
  "one NaN": { fill: (i, rng) => (i === 5 ? Number.NaN : rng.normal()) },
  "one infinity": { fill: (i, rng) => (i === 5 ? Number.POSITIVE_INFINITY : rng.normal()) },
  "nothing but NaN": { fill: () => Number.NaN, broken: true },
};
const CALIBRATIONS = ["auto", "average", "entropy", "mse"];

function samplesOf(model: Model, count: number, fill: Fill): Dataset {
  return datasetOf({ fields: arraysOf(model, count, fill) });
}

function arraysOf(model: Model, count: number, fill: Fill): Feeds {
  const rng = new Rng(11);
  const fields = model.graph.inputs.map((input) => {
    const shape = [count, ...(input.shape ?? []).slice(1).map(Number)];
    const length = shape.reduce((a, b) => a * b, 1);
    return [
      input.name,
      { dtype: "float32", shape, data: Float32Array.from({ length }, (_, i) => fill(i, rng)) },
    ] as const;
  });
  return Object.fromEntries(fields);
}

/** Outputs for plain noise, whatever the model was calibrated on. */
async function outputsOf(model: Model): Promise<number[]> {
  const session = await openSession(model, { threads: 1 });
  try {
    return Object.values(await session.run(arraysOf(model, 2, (_, rng) => rng.normal()))).flatMap(({ data }) => [
      ...(data as Float32Array),
    ]);
  } finally {
    await session.close();
  }
}

/** The model, or the error that a user sees. */
async function tried(make: () => Promise<{ model: Model }>): Promise<Model | PareError> {
  try {
    return (await make()).model;
  } catch (error) {
    if (error instanceof PareError && error.code !== "internal") return error;
    throw error;
  }
}

describe.each(Object.entries(KINDS))("calibrated on samples that hold %s", (_, { fill, broken }) => {
  it.each(CALIBRATIONS)("static int8 by %s computes finite outputs, or says what is wrong", async (calibration) => {
    const original = smallCnn();
    const options = { calibration, equalize: "never", balance: false, samples: 6 };
    const result = await tried(() => runTechnique(quantize, original, options, samplesOf(original, 6, fill)));
    if (result instanceof PareError) expect(broken, result.message).toBe(true);
    else expect((await outputsOf(result)).every(Number.isFinite)).toBe(true);
  });

  it.each(["gptq", "awq"])("int4 weights by %s do, too", async (method) => {
    const original = classifier(32, 16);
    const result = await tried(() =>
      runTechnique(
        quantizeWeights,
        original,
        { to: "int4", method, samples: 6, minElements: 1 },
        samplesOf(original, 6, fill),
      ),
    );
    if (!(result instanceof PareError)) expect((await outputsOf(result)).every(Number.isFinite)).toBe(true);
  });
});
