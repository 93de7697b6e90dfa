/** Criteria of structured pruning: planted channels are found, gradients agree with differences, and what is cut equals what is masked. */
import { describe, expect, it } from "vitest";
import { channelGroups } from "../../src/analyse/groups.ts";
import { Rng } from "../../src/base/rng.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import { Builder } from "../../src/ir/builder.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import type { NdArray } from "../../src/run/session.ts";
import { allocate, normalize } from "../../src/techniques/prune/allocate.ts";
import { pruneChannels } from "../../src/techniques/prune/channels/prune-channels.ts";
import type { ChannelScore } from "../../src/techniques/prune/channels/channel-scores.ts";
import { CHANNEL_SCORES, scoreChannels } from "../../src/techniques/prune/channels/score-channels.ts";
import { formatStep } from "../../src/techniques/recipe.ts";
import { settleSizes } from "../../src/transform/settle-sizes.ts";
import { smallOf } from "../architectures/small.ts";
import { maskGroups } from "../support/mask-groups.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { contextOf, runTechnique } from "../support/run-technique.ts";

const [INPUTS, HIDDEN, CLASSES, SAMPLES] = [5, 8, 3, 40];

/** Numbers of logits = relu(x·w1 + b1)·w2, and the model. */
interface Net {
  readonly w1: Float32Array; // (inputs, hidden)
  readonly b1: Float32Array; // (hidden)
  readonly w2: Float32Array; // (hidden, classes)
}

function netOf(seed = 3): Net {
  const rng = new Rng(seed);
  const normal = (n: number): Float32Array => Float32Array.from({ length: n }, () => rng.normal());
  return { w1: normal(INPUTS * HIDDEN), b1: normal(HIDDEN).map(Math.abs), w2: normal(HIDDEN * CLASSES) };
}

function modelOf({ w1, b1, w2 }: Net): Model {
  const model = new Model();
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", INPUTS]);
  const first = b.op("MatMul", [x, b.constant("w1", Tensor.float32([INPUTS, HIDDEN], w1))], { name: "hidden" });
  const hidden = b.op("Relu", [b.op("Add", [first, b.constant("b1", Tensor.float32([HIDDEN], b1))])]);
  const y = b.op("MatMul", [hidden, b.constant("w2", Tensor.float32([HIDDEN, CLASSES], w2))], { name: "out" });
  [y.dtype, y.shape] = ["float32", ["n", CLASSES]];
  b.output(y, "y");
  return model;
}

const rng = new Rng(11);
const X = Float32Array.from({ length: SAMPLES * INPUTS }, () => rng.normal());
const LABELS = Int32Array.from({ length: SAMPLES }, () => rng.below(CLASSES));
const DATA = datasetOf({
  fields: { x: { dtype: "float32", shape: [SAMPLES, INPUTS], data: X } },
  labels: { dtype: "int32", shape: [SAMPLES], data: LABELS },
});
const UNLABELLED = datasetOf({ fields: { x: { dtype: "float32", shape: [SAMPLES, INPUTS], data: X } } });

/** Cross-entropy of a sample in double precision, hidden channels times their factors. */
function lossOf({ w1, b1, w2 }: Net, sample: number, factors: ArrayLike<number>): number {
  const hidden = Array.from({ length: HIDDEN }, (_, h) => {
    let sum = b1[h] as number;
    for (let i = 0; i < INPUTS; i++) sum += (X[sample * INPUTS + i] as number) * (w1[i * HIDDEN + h] as number);
    return Math.max(0, sum) * (factors[h] as number);
  });
  const logits = Array.from({ length: CLASSES }, (_, c) =>
    hidden.reduce((sum, value, h) => sum + value * (w2[h * CLASSES + c] as number), 0),
  );
  return Math.log(logits.reduce((sum, z) => sum + Math.exp(z), 0)) - (logits[LABELS[sample] as number] as number);
}

/** ∂L/∂m of each hidden channel by central differences, per sample. */
function derivatives(net: Net): number[][] {
  const step = 1e-5;
  return Array.from({ length: SAMPLES }, (_, sample) =>
    Array.from({ length: HIDDEN }, (_, h) => {
      const at = (factor: number): number =>
        lossOf(
          net,
          sample,
          Array.from({ length: HIDDEN }, (_, i) => (i === h ? factor : 1)),
        );
      return (at(1 + step) - at(1 - step)) / (2 * step);
    }),
  );
}

async function scoresOf(model: Model, score: string, data?: Dataset): Promise<number[][]> {
  const groups = channelGroups(model);
  const { families } = groups;
  const scoring = {
    model,
    groups,
    families,
    options: { samples: SAMPLES, length: 8 },
    context: contextOf(model, data),
  };
  const found = await scoreChannels(score, scoring);
  return families.map((family) => [...(found.get(family) ?? [])]);
}

/** The channels that `prune-channels` removes when so many of the hidden ones go. */
async function removed(net: Net, score: string, count: number, data?: Dataset): Promise<number[]> {
  const { journal } = await runTechnique(pruneChannels, modelOf(net), { score, ratio: count / HIDDEN }, data);
  const [, gone = ""] = /gone: ([\d, ]+)/.exec(journal.changed[0]?.how ?? "") ?? [];
  return gone.split(", ").map(Number);
}

describe("scores by gradients", () => {
  it("equal differences of the loss: fisher over samples, taylor over batches", async () => {
    const net = netOf();
    const each = derivatives(net);
    const meanOf = (rows: readonly number[][], h: number): number =>
      rows.reduce((sum, row) => sum + (row[h] ?? 0), 0) / rows.length;
    const [fisher] = await scoresOf(modelOf(net), "fisher", DATA);
    const [taylor] = await scoresOf(modelOf(net), "taylor", DATA);
    // The data comes shuffled: batches hold the samples in the order of the seed.
    const order: number[][] = [];
    for await (const batch of DATA.batches({ limit: SAMPLES, size: 1, seed: 1 })) {
      const { data } = batch.fields["x"] as NdArray;
      const first = (data as Float32Array)[0];
      order.push(each[Array.from({ length: SAMPLES }, (_, i) => X[i * INPUTS]).indexOf(first)] as number[]);
    }
    const batches = [order.slice(0, 32), order.slice(32)];
    for (let h = 0; h < HIDDEN; h++) {
      // float32 against double precision
      expect(fisher?.[h]).toBeCloseTo(each.reduce((sum, row) => sum + (row[h] as number) ** 2, 0) / SAMPLES, 4);
      const wanted = batches.reduce((sum, rows) => sum + (rows.length / SAMPLES) * meanOf(rows, h) ** 2, 0);
      expect(taylor?.[h]).toBeCloseTo(wanted, 4);
    }
    expect(Math.max(...(taylor ?? []))).toBeGreaterThan(0.01);
  });

  it("tell the queries and keys of attention, convolutions with normalization, recurrent units and embeddings", async () => {
    for (const name of ["resnet-20", "gpt-nano"]) {
      const scores = await scoresOf(prepared(smallOf(name)), "fisher");
      expect(scores.length).toBeGreaterThan(0);
      for (const each of scores) {
        expect(each.length).toBeGreaterThan(0);
        expect(each.some((value) => value > 0)).toBe(true);
      }
    }
  });
});

function prepared(model: Model): Model {
  settleSizes(model);
  return model;
}

describe("planted channels", () => {
  const silent = [1, 6];

  it.each(["taylor", "fisher"])("%s finds those that nobody reads, which magnitude misses", async (score) => {
    const net = netOf();
    for (const h of silent) {
      for (let c = 0; c < CLASSES; c++) net.w2[h * CLASSES + c] = 0;
      for (let i = 0; i < INPUTS; i++) net.w1[i * HIDDEN + h] = 4;
    }
    for (const data of [DATA, UNLABELLED, undefined]) expect(await removed(net, score, 2, data)).toEqual(silent);
    expect(await removed(net, "l2", 2)).not.toEqual(silent);
    expect(await removed(net, "random", 2)).not.toEqual(silent);
  });

  it.each(["apoz", "activation-mean"])("%s finds those that hardly ever fire", async (score) => {
    const net = netOf();
    for (const h of silent) net.b1[h] = -20;
    expect(await removed(net, score, 2, UNLABELLED)).toEqual(silent);
    expect(await removed(net, "l2", 2)).not.toEqual(silent);
    expect(await removed(net, "random", 2)).not.toEqual(silent);
  });

  it("activation-variance finds those that never change, which the mean misses", async () => {
    const net = netOf();
    for (const h of silent) {
      net.b1[h] = 9;
      for (let i = 0; i < INPUTS; i++) net.w1[i * HIDDEN + h] = 0.001;
    }
    expect(await removed(net, "activation-variance", 2, UNLABELLED)).toEqual(silent);
    expect(await removed(net, "activation-mean", 2, UNLABELLED)).not.toEqual(silent);
  });

  it.each(["l1", "l2"])("%s finds small filters", async (score) => {
    const net = netOf();
    for (const h of silent) for (let i = 0; i < INPUTS; i++) net.w1[i * HIDDEN + h] = 0.01;
    expect(await removed(net, score, 2)).toEqual(silent);
    expect(await removed(net, "random", 2)).not.toEqual(silent);
  });

  it("geometric-median finds filters that others stand for", async () => {
    const net = netOf();
    // Two filters in the middle of all others
    for (const h of silent)
      for (let i = 0; i < INPUTS; i++) {
        let sum = 0;
        for (let other = 0; other < HIDDEN; other++)
          if (!silent.includes(other)) sum += net.w1[i * HIDDEN + other] as number;
        net.w1[i * HIDDEN + h] = sum / (HIDDEN - silent.length);
      }
    expect(await removed(net, "geometric-median", 2)).toEqual(silent);
  });

  it("are found by a caller's own criterion, which must tell every group", async () => {
    const wanted = [2, 5];
    const mine: ChannelScore = ({ groups }) =>
      Promise.resolve(groups.map(({ index }) => (wanted.includes(index) ? 0 : 1)));
    const { journal } = await runTechnique(pruneChannels, modelOf(netOf()), { score: mine, ratio: 0.25 });
    expect(journal.changed[0]?.how).toBe("8 -> 6 neurons by mine; gone: 2, 5");
    const short: ChannelScore = () => Promise.resolve([1]);
    await expect(runTechnique(pruneChannels, modelOf(netOf()), { score: short })).rejects.toThrow(
      /importance of each group/,
    );
    expect(() => pruneChannels.options.parse({ score: "mine" })).toThrow();
    expect(formatStep(pruneChannels({ score: mine }))).toBe("prune-channels:score=mine");
  });

  it("says where a criterion cannot tell", async () => {
    const net = netOf();
    const model = modelOf(net);
    const relu = model.graph.nodes.find(({ opType }) => opType === "Relu");
    const [x, y] = [relu?.inputs[0], relu?.outputs[0]];
    if (relu && x && y) {
      model.graph.replaceValue(y, x);
      model.graph.remove(relu);
    }
    const { journal } = await runTechnique(pruneChannels, model, { score: "apoz" }, UNLABELLED);
    expect(journal.skipped).toContainEqual({ what: "hidden", why: "nothing there tells 'apoz' what is important" });
  });
});

describe("ratios", () => {
  it("follow the measured damage: a layer that nobody needs goes before one that all need", async () => {
    const twice = (silent: boolean): Model => {
      const model = new Model();
      const b = new Builder(model.graph);
      const x = b.input("x", "float32", ["n", INPUTS]);
      const parts = [0, 1].map((part) => {
        const { w1, w2 } = netOf(5 + part);
        const first = b.constant(`w1_${part}`, Tensor.float32([INPUTS, HIDDEN], w1));
        const scale = silent && part === 0 ? 0.001 : 1;
        const second = Tensor.float32(
          [HIDDEN, CLASSES],
          w2.map((w) => scale * w),
        );
        const hidden = b.op("Relu", [b.op("MatMul", [x, first], { name: `part${part}` })]);
        return b.op("MatMul", [hidden, b.constant(`w2_${part}`, second)]);
      });
      const y = b.op("Add", parts);
      [y.dtype, y.shape] = ["float32", ["n", CLASSES]];
      b.output(y, "y");
      return model;
    };
    const kept = async (model: Model, data: Dataset, options = {}): Promise<(number | undefined)[]> => {
      const result = await runTechnique(pruneChannels, model, { scope: "sensitivity", macs: 0.4, ...options }, data);
      return [0, 1].map((part) => result.model.graph.initializers.get(`w1_${part}`)?.tensor?.shape[1]);
    };
    for (const data of [DATA, UNLABELLED]) {
      const [first = 0, second = 0] = await kept(twice(true), data);
      expect(first).toBeLessThanOrEqual(2);
      expect(second).toBeGreaterThanOrEqual(7);
    }
    // Widths and floors hold here too.
    expect(
      (await kept(twice(true), DATA, { multipleOf: 4, minChannels: 4 })).every((width) => width === 4 || width === 8),
    ).toBe(true);
    // The control: where both matter, neither is emptied.
    expect(Math.min(...(await kept(twice(false), UNLABELLED)).map(Number))).toBeGreaterThan(2);
  });

  it("never close a layer when scores are global, unless asked", async () => {
    const model = smallOf("resnet-20");
    const widths = async (options: object): Promise<number> => {
      const { journal } = await runTechnique(pruneChannels, model, { scope: "global", ratio: 0.95, ...options });
      const kept = journal.changed.map(
        ({ how }) => /^(\d+) -> (\d+)/.exec(how)?.slice(1).map(Number) as [number, number],
      );
      return Math.min(...kept.map(([before, after]) => after / before));
    };
    expect(await widths({ maxRatio: 0.5 })).toBeGreaterThanOrEqual(0.5);
    expect(await widths({ maxRatio: 0.99 })).toBeLessThan(0.5);
  });

  it("reach a share of the measured time", async () => {
    // One wide layer: its time is that of its products.
    const wide = 1024;
    const model = new Model();
    const b = new Builder(model.graph);
    const x = b.input("x", "float32", ["n", wide]);
    const weight = (name: string): ReturnType<Builder["constant"]> =>
      b.constant(
        name,
        Tensor.float32(
          [wide, wide],
          new Float32Array(wide * wide).map((_, i) => Math.sin(i)),
        ),
      );
    const y = b.op("MatMul", [b.op("Relu", [b.op("MatMul", [x, weight("a")])]), weight("b")]);
    [y.dtype, y.shape] = ["float32", ["n", wide]];
    b.output(y, "y");
    const { model: pruned, journal } = await runTechnique(pruneChannels, model, { latency: 0.4, latencyBatch: 16 });
    expect(journal.notes.some((note) => /of the time of a run is gone/.test(note))).toBe(true);
    const width = Number(pruned.graph.initializers.get("a")?.tensor?.shape[1]);
    // A busy machine makes single measurements differ widely.
    expect(width).toBeLessThan(0.95 * wide);
    expect(width).toBeGreaterThan(0.05 * wide);
  }, 180_000);
});

describe("any score", () => {
  it.each(CHANNEL_SCORES)("%s: what is cut equals what is masked", async (score) => {
    const original = prepared(smallOf("mobilenet-v2"));
    const options = { score, ratio: 0.4, samples: 4, scope: "global", normalize: "mean" };
    const { model } = await runTechnique(pruneChannels, original, options);
    const masked = cloneModel(original);
    const groups = channelGroups(masked);
    const families = groups.families.filter(({ mixed }) => mixed === undefined);
    const scoring = {
      model: masked,
      groups,
      families,
      options: { samples: 4, length: 128 },
      context: contextOf(masked),
    };
    const scores = await scoreChannels(score, scoring);
    const scored = families.flatMap((family) => {
      const own = scores.get(family);
      return own ? [{ family, scores: normalize(own, "mean") }] : [];
    });
    const gone = [...allocate(scored, 0.4, { scope: "global", multipleOf: 1, least: 1, most: 0.9 }).values()].flat();
    expect(gone.length).toBeGreaterThan(0);
    await maskGroups(gone);
    const how = { like: original, optimize: "none" } as const;
    // Sums in another order
    expect(worstError(await runOnSynthetic(masked, how), await runOnSynthetic(model, how))).toBeLessThan(1e-5);
    expect(worstError(await runOnSynthetic(original, how), await runOnSynthetic(model, how))).toBeGreaterThan(1e-5);
  });
});
