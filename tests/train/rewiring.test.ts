/** Moving weights in dynamic sparse training: which go, which come, along which course, and that a killed run goes on the same. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { buildArchitecture } from "../../src/architectures/build.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import type { Checkpoint } from "../../src/train/checkpoint.ts";
import { trainModel } from "../../src/train/loop.ts";
import { moved, movedShare } from "../../src/train/rewiring.ts";
import { clouds } from "./tiny-data.ts";

describe("a move", () => {
  it("gives up the least weights and takes the free places of the largest scores", () => {
    //                         kept  gone  free  kept  free  gone, and taken again
    const weights = Float32Array.of(3, -0.1, 0, -2, 0, 0.2);
    const mask = Float32Array.of(1, 1, 0, 1, 0, 1);
    const scores = Float32Array.of(9, 0, 0.5, 9, 1, 2);
    expect([...moved(weights, mask, scores, 2)]).toEqual([1, 0, 0, 1, 1, 1]);
    expect([...moved(weights, mask, scores, 0)]).toEqual([...mask]);
  });

  it.each([1, 2, 3])("keeps the number of weights, whatever the ties; seed %i", (seed) => {
    const rng = new Rng(seed);
    const mask = Float32Array.from({ length: 500 }, () => Number(rng.uniform() < 0.3));
    const weights = mask.map((each) => each * Math.round(3 * rng.normal()));
    const scores = mask.map(() => Math.round(2 * rng.uniform()));
    const count = mask.reduce((sum, each) => sum + each, 0);
    const next = moved(weights, mask, scores, Math.round(count / 3));
    expect(next.reduce((sum, each) => sum + each, 0)).toBe(count);
    const sorted = [...weights]
      .filter((_, i) => mask[i] === 1)
      .map(Math.abs)
      .sort((a, b) => a - b);
    const largest = sorted[Math.round(count / 3)] as number;
    for (const [i, each] of mask.entries())
      if (each === 1 && Math.abs(weights[i] as number) > largest) expect(next[i]).toBe(1);
  });

  it("moves less and less along half a cosine, and nothing from the end on", () => {
    const course = { grow: "gradient" as const, share: 0.4, every: 1, until: 0.5 };
    expect(movedShare(course, 0, 100)).toBeCloseTo(0.4, 12);
    expect(movedShare(course, 25, 100)).toBeCloseTo(0.2, 12);
    expect(movedShare(course, 50, 100)).toBe(0);
    expect(movedShare(course, 80, 100)).toBe(0);
  });
});

describe("training", () => {
  const data = clouds({ size: 128, shape: [16], classes: 4 });
  const NAMES = ["fc1.weight", "fc2.weight"];

  async function thinned(): Promise<Model> {
    const model = buildArchitecture("mlp", { input: [16], classes: 4, hidden: [24] });
    for (const name of NAMES) {
      const value = model.graph.initializers.get(name);
      const w = (await value?.tensor?.data()) as Float32Array;
      const rng = new Rng(2).fork(name);
      if (value?.tensor)
        value.tensor = Tensor.float32(
          value.tensor.shape,
          w.map((v) => (rng.uniform() < 0.8 ? 0 : v)),
        );
    }
    return model;
  }
  const weight = async (model: Model, name: string): Promise<Float32Array> =>
    (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
  const OPTIONS = { epochs: 3, batch: 16, learningRate: 0.05, maskThreshold: 0, inProcess: true, threads: 1 };
  const rigl = { grow: "gradient" as const, share: 0.5, every: 4, until: 0.75 };
  const open = (model: Model): ReturnType<typeof openSession> => openSession(model, { inProcess: true, threads: 1 });

  it.each(["gradient", "random"] as const)(
    "by %s: the zeros move, their number stays; without rewiring they stay",
    async (grow) => {
      const first = await thinned();
      const [plain, other] = [await thinned(), await thinned()];
      await trainModel(plain, data, OPTIONS, open);
      await trainModel(other, data, { ...OPTIONS, rewiring: { ...rigl, grow } }, open);
      for (const name of NAMES) {
        const [start, held, now] = [await weight(first, name), await weight(plain, name), await weight(other, name)];
        const places = (w: Float32Array): boolean[] => Array.from(w, (v) => v !== 0);
        expect(places(held)).toEqual(places(start));
        expect(places(now)).not.toEqual(places(start));
        const [count, most] = [places(now), places(start)].map((each) => each.filter(Boolean).length) as [
          number,
          number,
        ];
        // What appears begins at zero, and stays there where chance has put it behind a unit that is never active.
        if (grow === "gradient") expect(count).toBe(most);
        else expect(count / most).toBeGreaterThan(0.7);
        expect(count).toBeLessThanOrEqual(most);
      }
    },
  );

  it("goes on from a checkpoint to the same bytes", async () => {
    const whole = await thinned();
    await trainModel(whole, data, { ...OPTIONS, rewiring: rigl }, open);
    let saved: Checkpoint | undefined;
    let left = 2;
    const store = {
      read: async () => saved,
      async write(checkpoint: Checkpoint) {
        if (left-- === 0) throw new Error("killed");
        saved = structuredClone(checkpoint);
      },
    };
    const broken = { ...OPTIONS, rewiring: rigl, checkpoints: store };
    await expect(trainModel(await thinned(), data, broken, open)).rejects.toThrow("killed");
    expect(saved?.step).toBe(16);
    left = 100;
    const resumed = await thinned();
    await trainModel(resumed, data, { ...broken, resume: true }, open);
    for (const name of NAMES) expect(await weight(resumed, name)).toEqual(await weight(whole, name));
    const other = { ...broken, rewiring: { ...rigl, share: 0.4 }, resume: true };
    await expect(trainModel(await thinned(), data, other, open)).rejects.toThrow(/another run/);
  });
});
