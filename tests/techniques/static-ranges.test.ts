/** Ranges of activations: by entropy, and by what they do to the model's outputs; layers that stay in floating point for their sake. */
import { describe, expect, it } from "vitest";
import { inferShapes } from "../../src/analyse/shapes.ts";
import { Rng } from "../../src/base/rng.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import type { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { loadKernels } from "../../src/kernels/kernels.ts";
import { optimizedGraph } from "../../src/run/optimized-graph.node.ts";
import { Journal } from "../../src/techniques/journal.ts";
import { entropyRange } from "../../src/techniques/quantize/static/entropy-range.ts";
import { floatLayers } from "../../src/techniques/quantize/static/float-layers.ts";
import { outputEffects } from "../../src/techniques/quantize/static/output-effects.ts";
import { planQdq } from "../../src/techniques/quantize/static/qdq-plan.ts";
import { quantize } from "../../src/techniques/quantize/static/quantize.ts";
import { gridOf } from "../../src/techniques/quantize/static/range-search.ts";
import { contextOf, runTechnique } from "../support/run-technique.ts";
import { classifier, randomTensor, unary } from "../support/small-models.ts";

/** The definition, bin by bin, for ranges [0, T]: every T is tried. `outliers`: whether the last bin takes what is cut off. */
function plainEntropyEnd(counts: readonly number[], levels: number, outliers = true): number {
  const own = [0, ...counts.slice(1)]; // the bin that holds zero
  let best = { end: own.length, divergence: Number.POSITIVE_INFINITY };
  for (let end = own.length; end >= levels; end--) {
    const inside = own.slice(0, end);
    const cut = own.slice(end).reduce((a, b) => a + b, 0);
    if (cut > 0 && inside.at(-1) === 0) continue;
    const p = inside.slice();
    if (outliers) p[end - 1] = (p[end - 1] ?? 0) + cut;
    const q = inside.map(() => 0);
    for (let level = 0; level < levels; level++) {
      const [from, to] = [level, level + 1].map((edge) => Math.round((edge * end) / levels));
      const bins = Array.from({ length: (to ?? 0) - (from ?? 0) }, (_, i) => (from ?? 0) + i);
      const filled = bins.filter((i) => (inside[i] ?? 0) > 0);
      for (const i of filled) q[i] = bins.reduce((sum, k) => sum + (inside[k] ?? 0), 0) / filled.length;
    }
    const [sumP, sumQ] = [p, q].map((list) => list.reduce((a, b) => a + b, 0));
    const divergence = p.reduce(
      (sum, x, i) => (x > 0 ? sum + (x / (sumP ?? 1)) * Math.log(x / (sumP ?? 1) / ((q[i] ?? 0) / (sumQ ?? 1))) : sum),
      0,
    );
    if (divergence < best.divergence) best = { end, divergence };
  }
  return best.end;
}

/** Magnitudes of normal numbers with a long tail, in 128 bins over [0, 8]. */
function tailed(seed: number): number[] {
  const rng = new Rng(seed);
  const counts = Array.from({ length: 128 }, () => 0);
  for (let i = 0; i < 20_000; i++) {
    const bin = Math.floor((Math.abs(rng.normal()) * (rng.uniform() < 0.01 ? 3 : 1) * 128) / 8);
    if (bin < 128) counts[bin] = (counts[bin] ?? 0) + 1;
  }
  return counts;
}

describe("calibration by entropy", () => {
  it("equals the definition; a wrong definition would be noticed", () => {
    let differing = 0;
    for (let seed = 1; seed <= 8; seed++) {
      const counts = tailed(seed);
      const histogram = { low: 0, high: 8, counts: Float64Array.from(counts) };
      const { low, high } = entropyRange(histogram, 16);
      expect([low, Math.round((high * 128) / 8)]).toEqual([0, plainEntropyEnd(counts, 16)]);
      if (plainEntropyEnd(counts, 16) !== plainEntropyEnd(counts, 16, false)) differing++;
    }
    expect(differing).toBeGreaterThan(0);
  });

  it("cuts off a far outlier, on the side where it is, and nothing of a flat histogram", () => {
    const rng = new Rng(4);
    const counts = new Float64Array(2000); // of width 0.01, zero lies at the 1000th
    for (let i = 0; i < 50_000; i++) {
      const bin = 1000 + Math.floor(rng.normal(0, 0.5) * 100);
      counts[bin] = (counts[bin] as number) + 1;
    }
    counts[1999] = 1;
    const { low, high } = entropyRange({ low: -10, high: 10, counts }, 64);
    expect(low).toBeLessThan(-1);
    expect(high).toBeLessThan(5);
    const flat = entropyRange({ low: -1, high: 3, counts: new Float64Array(1024).fill(5) }, 256);
    expect([flat.low, flat.high]).toEqual([-1, 3]);
  });
});

function noise(shape: readonly number[], samples: number, deviation = 1): Dataset {
  const rng = new Rng(9);
  const data = Float32Array.from({ length: samples * shape.reduce((a, b) => a * b, 1) }, () =>
    rng.normal(0, deviation),
  );
  return datasetOf({ fields: { x: { dtype: "float32", shape: [samples, ...shape], data } } });
}

describe("effects on the outputs", () => {
  it("are those of a linear model, whose first order is all there is; another grid's are not", async () => {
    const samples = 2048;
    const model = classifier(6, 3);
    inferShapes(model);
    const data = noise([6], samples);
    const grids = [0.25, 0.5, 1.5].map((end) => gridOf({ low: -end, high: end }, "uint8", false));
    const questions = [{ values: ["x"], grids }];
    const kernels = await loadKernels();
    const found = await outputEffects(model, data, questions, kernels, samples, contextOf(model, data, { seed: 3 }));
    const w = (await randomTensor([6, 3], 1).data()) as Float32Array;
    const batch = await data.take(Array.from({ length: samples }, (_, i) => i));
    const x = batch.fields.x?.data as Float32Array;
    const squares = (of: (i: number, k: number) => number): number => {
      let sum = 0;
      for (let row = 0; row < samples; row++)
        for (let c = 0; c < 3; c++) {
          let y = 0;
          for (let k = 0; k < 6; k++) y += of(6 * row + k, 3 * k + c);
          sum += y * y;
        }
      return sum / samples;
    };
    const { mean, error } = found.grids[0] as (typeof found.grids)[number];
    for (const [g, { scale, zeroPoint, lowest, highest }] of grids.entries()) {
      const rounded = x.map((value) => {
        const code = Math.round(value / scale) + zeroPoint;
        return (Math.min(highest, Math.max(lowest, code)) - zeroPoint) * scale - value;
      });
      const exact = squares((i, at) => (rounded[i] as number) * (w[at] as number));
      // One direction is drawn for each sample
      expect(Math.abs((mean[g] as number) - exact)).toBeLessThan(5 * (error[g] as number));
      expect(error[g]).toBeLessThan(0.2 * exact);
      expect(Math.abs((mean[(g + 1) % 3] as number) - exact)).toBeGreaterThan(0.3 * exact);
    }
    expect(found.spread).toBeGreaterThan(0);
  });
});

/** Four layers; what the second gives has one channel that is 300 times as large as the others, which the third brings back. */
function hardNet(): Model {
  return unary(
    "float32",
    ["n", 4, 8, 8],
    (b, x) => {
      const conv = (name: string, from: typeof x, w: Tensor): typeof x =>
        b.op("Conv", [from, b.constant(`${name}.w`, w)], { name });
      const first = b.op("Relu", [conv("first", x, randomTensor([8, 4, 1, 1], 1, 0.5))]);
      const spread = Float32Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? (i === 0 ? 300 : 1) : 0));
      const second = conv("second", first, Tensor.float32([8, 8, 1, 1], spread));
      const rng = new Rng(3);
      const read = Float32Array.from({ length: 64 }, (_, i) =>
        i % 8 === 0 || i < 8 ? (i === 0 ? 1 / 300 : 0) : rng.normal(0, 0.5),
      );
      const third = b.op("Relu", [conv("third", second, Tensor.float32([8, 8, 1, 1], read))]);
      return conv("last", third, randomTensor([4, 8, 1, 1], 4, 0.5));
    },
    { shape: ["n", 4, 8, 8] },
    17,
  );
}

describe("layers in floating point", () => {
  it("are those around the activation with the largest effect, within the share", () => {
    const model = hardNet();
    inferShapes(model);
    const planning = { reasonToKeep: () => undefined, operators: undefined };
    const names = [...planQdq(model, planning).groups.keys()].map(({ name }) => name);
    const second = model.graph.nodes.find(({ name }) => name === "second")?.outputs[0]?.name ?? "";
    expect(names).toContain(second);
    const grid = gridOf({ low: 0, high: 1 }, "uint8", false);
    const effects = new Map(names.map((name) => [name, { grid, effect: name === second ? 100 : 1 }]));
    const floats = [...floatLayers(model, planning, effects, 0.75)];
    const kept = model.graph.nodes
      .filter((node) => floats.includes(node.outputs[0]?.name ?? ""))
      .map(({ name }) => name);
    expect(kept).toEqual(expect.arrayContaining(["second", "third"]));
    expect(kept).not.toContain("first");
    expect([...floatLayers(model, planning, effects, 0.3)]).toEqual([]);
  });

  it("bring the outputs nearer, are stored as int8 and computed as floats", async () => {
    const data = noise([4, 8, 8], 160);
    const errorIn = ({ notes }: Journal): number => Number(/differ by ([\d.e-]+) %/.exec(notes.join("\n"))?.[1]);
    const [plain, mixed] = [
      await runTechnique(quantize, hardNet(), { equalize: "never", floatShare: 0 }, data),
      await runTechnique(quantize, hardNet(), { equalize: "never", floatShare: 0.75 }, data),
    ];
    expect(errorIn(plain.journal)).toBeGreaterThan(5);
    expect(errorIn(mixed.journal)).toBeLessThan(0.7 * errorIn(plain.journal));
    const codes = mixed.model.graph.initializers.get("second.w.codes")?.tensor;
    expect([codes?.dtype, codes?.byteLength]).toEqual(["int8", 64]);
    const { operators } = await optimizedGraph(mixed.model, { threads: 1, inProcess: true });
    const names = Object.keys(operators);
    const floats = names.filter((name) => /(^|:)(Fused)?Conv$/.test(name)); // blocked ones have a domain of their own
    expect(floats.reduce((sum, name) => sum + (operators[name] ?? 0), 0)).toBeGreaterThanOrEqual(2);
    expect(operators["com.microsoft::QLinearConv"]).toBeGreaterThanOrEqual(1);
    expect(operators).not.toHaveProperty("Mul");
  });
});
