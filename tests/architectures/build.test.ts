/** Architectures: sizes, shapes, initial weights, errors. */
import { describe, expect, test } from "vitest";
import { ARCHITECTURES, buildArchitecture } from "../../src/architectures/build.ts";
import { checkModel } from "../../src/ir/check.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import type { Model } from "../../src/ir/model.ts";
import { costOf } from "../../src/analyse/cost.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { samplesFor, smallOf } from "./small.ts";

function parametersOf(model: Model): number {
  return costOf(model).parameters;
}

async function outputOf(model: Model, batch: number): Promise<{ shape: readonly number[]; data: Float32Array }> {
  const session = await openSession(model, { inProcess: true });
  const { logits } = await session.run((await samplesFor(model, batch).take([...Array(batch).keys()])).fields);
  await session.close();
  return { shape: logits?.shape ?? [], data: logits?.data as Float32Array };
}

describe("architectures", () => {
  test("the small network has 50,000 to 100,000, with residual blocks a little more", () => {
    const plain = parametersOf(buildArchitecture("small-cnn"));
    expect(plain).toBeGreaterThan(50_000);
    expect(plain).toBeLessThan(100_000);
    expect(parametersOf(buildArchitecture("small-cnn", { residual: true }))).toBeLessThan(2 * plain);
  });

  for (const name of ARCHITECTURES.keys())
    test(`${name} is sound and gives finite logits of a sensible size`, async () => {
      const model = smallOf(name);
      expect(checkModel(model)).toEqual([]);
      const { shape, data } = await outputOf(model, 3);
      expect(shape).toEqual([3, ...((model.graph.outputs[0]?.shape ?? []).slice(1) as number[])]);
      expect(Math.max(...data.map(Math.abs))).toBeLessThan(50);
      expect(new Set(data).size).toBeGreaterThan(10);
    });

  test("the same seed gives the same bytes, another others", async () => {
    const bytes = async (seed: number): Promise<string> =>
      Buffer.from(await encodeModel(buildArchitecture("small-cnn", { seed }))).toString("base64");
    const first = await bytes(1);
    expect(await bytes(1)).toBe(first);
    expect(await bytes(2)).not.toBe(first);
  });

  test("weights have the variance of their scheme", async () => {
    const model = buildArchitecture("lenet-300-100");
    const data = (await model.graph.initializers.get("fc1.weight")?.tensor?.data()) as Float32Array;
    const variance = data.reduce((sum, w) => sum + w * w, 0) / data.length;
    expect(variance).toBeCloseTo(2 / 784, 4); // He et al. 2015: 2/fan_in
  });

  test("shapes and widths are options, also as text", async () => {
    const model = buildArchitecture("mlp", { input: "3x4x4", hidden: "20-10", classes: 5 });
    expect((await outputOf(model, 2)).shape).toEqual([2, 5]);
    expect(parametersOf(model)).toBe(48 * 20 + 20 + 20 * 10 + 10 + 10 * 5 + 5);
  });

  test("errors name the nearest", () => {
    expect(() => buildArchitecture("lenet5")).toThrow("lenet-5");
    expect(() => buildArchitecture("small-cnn", { widht: 3 })).toThrow("width");
    expect(() => buildArchitecture("lenet-5", { input: [1, 8, 8] })).toThrow("16x16");
    expect(() => buildArchitecture("small-cnn", { width: 0 })).toThrow("small-cnn width");
  });
});
