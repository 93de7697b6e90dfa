/** First weights: each scheme's variance and range, small ends of deep branches, gates that remember. */
import { describe, expect, test } from "vitest";
import { drawWeights, type Scheme } from "../../src/architectures/blocks/weights.ts";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { Rng } from "../../src/base/rng.ts";
import type { Model } from "../../src/ir/model.ts";

const [IN, OUT] = [300, 200];

async function drawn(scheme: Scheme, gain?: number): Promise<Float32Array> {
  return (await drawWeights(new Rng(1), [OUT, IN], IN, OUT, scheme, gain).data()) as Float32Array;
}

async function weightOf(model: Model, name: string): Promise<Float32Array> {
  return (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
}

const variance = (values: Float32Array): number => values.reduce((sum, w) => sum + w * w, 0) / values.length;
const largest = (values: Float32Array): number => values.reduce((most, w) => Math.max(most, Math.abs(w)), 0);

describe("first weights", () => {
  // A normal cut at two deviations keeps 0.774 of its variance.
  const expected: Readonly<Record<Scheme, number>> = {
    "he-normal": 2 / IN,
    "he-uniform": 2 / IN,
    "he-normal-out": 2 / OUT,
    "glorot-uniform": 2 / (IN + OUT),
    "glorot-normal": 2 / (IN + OUT),
    "normal-0.01": 0.01 ** 2,
    "truncated-0.02": 0.774 * 0.02 ** 2,
    "uniform-0.1": 0.1 ** 2 / 3,
  };
  for (const [scheme, wanted] of Object.entries(expected) as [Scheme, number][])
    test(`${scheme} has its variance`, async () => {
      const values = await drawn(scheme);
      // 60,000 draws: the sample's variance is off by less than 2 % with all but certainty.
      expect(variance(values) / wanted).toBeGreaterThan(0.98);
      expect(variance(values) / wanted).toBeLessThan(1.02);
      expect(Math.abs(values.reduce((sum, w) => sum + w, 0) / values.length)).toBeLessThan(0.02 * Math.sqrt(wanted));
    });

  test("uniform and truncated laws keep within their bounds, a normal one does not", async () => {
    expect(largest(await drawn("he-uniform"))).toBeLessThanOrEqual(Math.sqrt(6 / IN) * (1 + 1e-6));
    expect(largest(await drawn("truncated-0.02"))).toBeLessThanOrEqual(0.04 * (1 + 1e-6));
    expect(largest(await drawn("normal-0.01"))).toBeGreaterThan(0.03);
  });

  test("a gain multiplies", async () => {
    const [plain, half] = [await drawn("he-normal"), await drawn("he-normal", 0.5)];
    expect(half).toEqual(plain.map((w) => 0.5 * w));
  });

  test("the layers that end a GPT's branches are smaller by the root of twice the depth", async () => {
    const model = buildArchitecture("gpt-nano", { layers: 8 });
    const inside = variance(await weightOf(model, "block1.mlp.1.weight"));
    for (const name of ["block1.mlp.2.weight", "block8.attention.output.weight"])
      expect(inside / variance(await weightOf(model, name))).toBeCloseTo(16, 0);
  });

  test("an LSTM starts by remembering", async () => {
    const bias = await weightOf(buildArchitecture("lstm-lm", { width: 4 }), "layer1.bias");
    // Input, output, forget and cell gate; then the same of the recurrent bias.
    expect(Array.from(bias)).toEqual([...Array(8).fill(0), ...Array(4).fill(1), ...Array(20).fill(0)]);
  });
});
