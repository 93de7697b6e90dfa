import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { type Computed, engineTensor, randomData, runInEngine } from "./engine.ts";
import { MODELS, controlFlowModel } from "./models.ts";

async function run(name: string, seed?: number): Promise<Computed> {
  const entry = MODELS[name] as (typeof MODELS)[string];
  const rng = new Rng(5);
  const feeds = Object.fromEntries(
    Object.entries(entry.feeds).map(([input, { dtype, shape, below }]) => [
      input,
      engineTensor(dtype, shape, randomData(dtype, shape, rng, below)),
    ]),
  );
  const outputs = await runInEngine(await encodeModel(entry.build(seed)), feeds);
  return [...outputs.values()][0] as Computed;
}

describe("models for tests", () => {
  it.each(Object.keys(MODELS))("%s runs in the engine, the same for the same seed", async (name) => {
    const [once, again, other] = [await run(name), await run(name), await run(name, 2)];
    const values = Array.from(once.data as Float32Array);
    expect(values.every(Number.isFinite)).toBe(true);
    expect(Math.max(...values.map(Math.abs))).toBeGreaterThan(0.01);
    expect(again).toEqual(once);
    expect(other.shape).toEqual(once.shape);
    expect(other.data).not.toEqual(once.data);
  });

  it("control flow takes both branches and counts its turns", async () => {
    const bytes = await encodeModel(controlFlowModel());
    const result = async (flag: number, times: number): Promise<number[]> => {
      const outputs = await runInEngine(bytes, {
        x: engineTensor("float32", [1, 4], Float32Array.of(1, -2, 3, 4)),
        flag: engineTensor("bool", [], Uint8Array.of(flag)),
        times: engineTensor("int64", [], BigInt64Array.of(BigInt(times))),
      });
      return Array.from(outputs.get("y")?.data as Float32Array);
    };
    expect(await result(0, 0)).toEqual([-1, 2, -3, -4]);
    expect(await result(1, 0)).not.toEqual([-1, 2, -3, -4]);
    const one = await result(0, 1);
    const two = await result(0, 2);
    const bias = one.map((value, i) => value - ([-1, 2, -3, -4][i] as number) / 2);
    for (const [i, value] of two.entries()) expect(value).toBeCloseTo((one[i] as number) / 2 + (bias[i] as number), 5);
  });
});
