/** Rounds of training, pruning and rewinding: equal to their parts done by hand, and to themselves after a kill. */
import { describe, expect, it } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import type { Model } from "../../src/ir/model.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { evaluateConstants } from "../../src/run/fold.node.ts";
import { tap } from "../../src/run/taps.node.ts";
import { installEngine } from "../../src/techniques/engine.ts";
import { lottery } from "../../src/techniques/prune/weights/lottery.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { rewindWeights, snapshotWeights } from "../../src/techniques/prune/weights/rewind.ts";
import { finetune } from "../../src/techniques/tune/finetune.ts";
import { runTechnique } from "../support/run-technique.ts";
import { clouds } from "../train/tiny-data.ts";

installEngine({
  openSession: (model, options) => openSession(model, { ...options, inProcess: true }),
  evaluateConstants,
  tap,
});

const data = clouds({ size: 128, shape: [16], classes: 4 });
const network = (): Model => buildArchitecture("mlp", { input: [16], classes: 4, hidden: [24] });
const TRAINING = { epochs: 2, batch: 32, learningRate: 0.05 };

async function weight(model: Model, name = "fc1.weight"): Promise<Float32Array> {
  return (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
}

async function lot(options: object, rest = {}): Promise<Model> {
  return (await runTechnique(lottery, network(), { ...TRAINING, ...options }, data, rest)).model;
}

const zeros = (w: Float32Array): number => w.filter((v) => v === 0).length;
const apply = async (
  technique: typeof finetune,
  model: Model,
  options: Readonly<Record<string, unknown>>,
): Promise<Model> => (await runTechnique(technique, model, options, data)).model;

describe("rewinding", () => {
  it("brings first values back, except where there are zeros now", async () => {
    const model = network();
    const first = snapshotWeights(model);
    let trained = await apply(finetune, model, TRAINING);
    trained = await apply(pruneWeights, trained, { ratio: 0.6, store: "dense" });
    const mask = (await weight(trained)).map((v) => (v === 0 ? 0 : 1));
    await rewindWeights(trained, first);
    expect(await weight(trained)).toEqual((await weight(model)).map((v, i) => (mask[i] === 0 ? 0 : v)));
    expect(await weight(trained, "fc1.bias")).toEqual(await weight(model, "fc1.bias"));
  });
});

describe("lottery", () => {
  it("with two rounds is train, prune and rewind twice, then train", async () => {
    let model = network();
    const first = snapshotWeights(model);
    for (const ratio of [0.6, 0.84]) {
      model = await apply(finetune, model, TRAINING);
      model = await apply(pruneWeights, model, { ratio, store: "dense" });
      model = cloneModel(model);
      await rewindWeights(model, first);
    }
    const expected = await weight(await apply(finetune, model, TRAINING));
    const found = await weight(await lot({ ratio: 0.84, rounds: 2 }));
    expect(found).toEqual(expected);
    expect(zeros(found)).toBe(Math.round(0.84 * found.length));
    // Negative controls: no rewinding, and rewinding to a later point, end elsewhere
    expect(await weight(await lot({ ratio: 0.84, rounds: 2, rewind: "none" }))).not.toEqual(expected);
    expect(await weight(await lot({ ratio: 0.84, rounds: 2, rewind: "early" }))).not.toEqual(expected);
  });

  it("without rewinding prunes first, and then trains what is left", async () => {
    const model = await apply(pruneWeights, network(), { ratio: 0.5, store: "dense" });
    const expected = await weight(await apply(finetune, model, TRAINING));
    expect(await weight(await lot({ ratio: 0.5, rounds: 1, rewind: "none" }))).toEqual(expected);
  });

  it("holds a few zeros, too, and those that a random choice has made", async () => {
    const few = await weight(await lot({ ratio: 0.03, rounds: 1 }));
    expect(zeros(few)).toBe(Math.round(0.03 * few.length));
    const random = await weight(await lot({ ratio: 0.75, rounds: 2, score: "random" }));
    expect(zeros(random)).toBe(Math.round(0.75 * random.length));
  });

  it.each(["initial", "early", "none"])("rewinding to %s gives the same bytes after a kill", async (rewind) => {
    const options = { ratio: 0.8, rounds: 3, rewind };
    const whole = await encodeModel(await lot(options));
    const kept = new Map<string, Uint8Array>();
    let left = 2;
    const get = async (key: string): Promise<Uint8Array | undefined> => kept.get(key);
    const put = async (key: string, bytes: Uint8Array): Promise<void> => {
      if (left-- === 0) throw new Error("killed");
      kept.set(key, bytes);
    };
    await expect(lot(options, { finished: { get, put } })).rejects.toThrow("killed");
    expect(kept.size).toBe(2);
    left = 10;
    expect(Buffer.compare(await encodeModel(await lot(options, { finished: { get, put } })), whole)).toBe(0);
    expect(10 - left).toBe(rewind === "early" ? 2 : 1); // the phases that were not finished
  });

  it("refuses rounds of a pattern that sets its own share", async () => {
    await expect(lot({ pattern: "2:4", rounds: 2 })).rejects.toThrow(/sets its own share/);
    const w = await weight(await lot({ pattern: "2:4", rounds: 1 }));
    expect(zeros(w)).toBe(w.length / 2);
  });
});
