/** Training towards zeros: what it makes zero leaves without loss, and what it is told to keep stays. */
import { describe, expect, it } from "vitest";
import { buildArchitecture } from "../../src/architectures/build.ts";
import { channelGroups } from "../../src/analyse/groups.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { openSession } from "../../src/run/open-session.node.ts";
import { evaluateConstants } from "../../src/run/fold.node.ts";
import { tap } from "../../src/run/taps.node.ts";
import { installEngine } from "../../src/techniques/engine.ts";
import type { Journal } from "../../src/techniques/journal.ts";
import { pruneChannels } from "../../src/techniques/prune/channels/prune-channels.ts";
import { sparsify } from "../../src/techniques/sparsify/sparsify.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { finetune } from "../../src/techniques/tune/finetune.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { clouds } from "../train/tiny-data.ts";

installEngine({
  openSession: (model, options) => openSession(model, { ...options, inProcess: true }),
  evaluateConstants,
  tap,
});

const data = clouds({ size: 128, shape: [3, 8, 8], classes: 4 });
const network = (): Model => buildArchitecture("resnet-20", { blocks: 1, width: 6, input: [3, 8, 8], classes: 4 });
const TRAINING = { epochs: 3, batch: 16, learningRate: 0.05, weightDecay: 0 };

const sparsified = (options: object): Promise<{ model: Model; journal: Journal }> =>
  runTechnique(sparsify, network(), { ...TRAINING, ...options }, data);

async function zeros(model: Model, name: string): Promise<number> {
  const w = (await model.graph.initializers.get(name)?.tensor?.data()) as Float32Array;
  return w.filter((v) => v === 0).length;
}

/** Channels that the journal says are zero, over all families. */
const zeroChannels = (journal: Journal): number =>
  journal.changed.reduce((sum, { how }) => sum + Number(/^(\d+) of \d+ channels are zero/.exec(how)?.[1] ?? 0), 0);

const channelsOf = (model: Model): number =>
  channelGroups(cloneModel(model)).families.reduce((sum, { groups }) => sum + groups.length, 0);

describe("sparsify, then the cut", () => {
  it.each([
    ["group-lasso", 0.02, "l2"],
    ["scale", 0.16, "scale"],
    ["growing", 1, "l1"],
  ])("%s: channels that became zero leave without any loss", async (method, strength, score) => {
    const { model, journal } = await sparsified({ method, strength });
    const gone = zeroChannels(journal);
    const all = channelsOf(model);
    expect(gone).toBeGreaterThan(3);
    expect(gone).toBeLessThan(all);
    const cut = await runTechnique(pruneChannels, model, { score, threshold: 0 });
    expect(channelsOf(cut.model)).toBe(all - gone);
    const before = await runOnSynthetic(model);
    expect(worstError(before, await runOnSynthetic(cut.model))).toBeLessThan(1e-4); // float32 sums in another order
    // Negative control: as many channels by chance change the answer
    const other = await runTechnique(pruneChannels, model, { score: "random", ratio: gone / all });
    expect(worstError(before, await runOnSynthetic(other.model))).toBeGreaterThan(1e-2);
  });

  it("growing presses the share that was asked for, of every layer, least norms first", async () => {
    const { journal } = await sparsified({ method: "growing", ratio: 0.5 });
    for (const { how } of journal.changed) {
      const [, zero, of] = /^(\d+) of (\d+) channels are zero/.exec(how) ?? [];
      expect(Number(zero)).toBe(Math.round(0.5 * Number(of)));
    }
  });

  it("without a penalty worth the name makes nothing zero", async () => {
    const { model, journal } = await sparsified({ method: "group-lasso", strength: 1e-9 });
    expect(zeroChannels(journal)).toBe(0);
    const cut = await runTechnique(pruneChannels, model, { score: "l2", threshold: 0 });
    expect(channelsOf(cut.model)).toBe(channelsOf(model));
  });
});

describe("sparsify", () => {
  it("l1 makes single weights zero, except in what is kept", async () => {
    const { model, journal } = await sparsified({ method: "l1", strength: 3e-3, keep: ["fc"] });
    const kept = await zeros(model, "fc.weight");
    expect(kept).toBe(0);
    const found = journal.changed.map(({ what, how }) => [what, Number(/^(\d+) of/.exec(how)?.[1])] as const);
    for (const [name, count] of found) expect(await zeros(model, name)).toBe(count);
    expect(found.reduce((sum, [, count]) => sum + count, 0)).toBeGreaterThan(100);
  });

  it("targeted dropout leaves a network that loses less by the cut", async () => {
    const mlp = buildArchitecture("mlp", { input: [3, 8, 8], classes: 4, hidden: [32] });
    const set = clouds({ size: 512, shape: [3, 8, 8], classes: 4, apart: 0.5 });
    const training = { epochs: 12, batch: 32, learningRate: 0.05, weightDecay: 0 };
    const cutError = async (technique: typeof sparsify, options: object): Promise<number> => {
      const { model } = await runTechnique(technique, mlp, { ...training, ...options }, set);
      const cut = await runTechnique(pruneWeights, model, { ratio: 0.7, store: "dense" });
      return worstError(await runOnSynthetic(model), await runOnSynthetic(cut.model));
    };
    const targeted = await cutError(sparsify, { method: "targeted-dropout", ratio: 0.7, rate: 0.66 });
    expect(targeted).toBeLessThan(0.6 * (await cutError(finetune, {})));
  });

  it("leaves kept layers' channels alone, and says why others cannot be shrunk", async () => {
    const { journal } = await sparsified({ method: "scale", strength: 0.05, keep: ["stem*"] });
    expect(journal.skipped.some(({ why }) => why === "kept")).toBe(true);
    const plain = buildArchitecture("mlp", { input: [3, 8, 8], classes: 4, hidden: [16] });
    const { journal: none } = await runTechnique(sparsify, plain, { ...TRAINING, method: "scale" }, data);
    expect(none.notes.join()).toMatch(/not trained/);
    expect(none.skipped.map(({ why }) => why).join()).toMatch(/no scale of a normalization/);
  });

  it("does not take a threshold together with a target", async () => {
    await expect(runTechnique(pruneChannels, network(), { threshold: 0, macs: 0.5 })).rejects.toThrow(/both say/);
  });
});
