/** What must hold for techniques on any model: identities, error bounds, unchanged outputs. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import { toFloat32 } from "../../src/base/to-float32.ts";
import { Builder } from "../../src/ir/builder.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { loadKernels } from "../../src/kernels/kernels.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { cast } from "../../src/techniques/quantize/cast.ts";
import { gridOf, leastErrorRange, percentileRange } from "../../src/techniques/quantize/static/range-search.ts";
import { quantizeDynamic } from "../../src/techniques/quantize/quantize-dynamic.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { rowCodes } from "../../src/techniques/quantize/weights/weight-codes.ts";
import { simplify } from "../../src/techniques/simplify/simplify.ts";
import { MODELS } from "../support/models.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";
import { randomTensor, smallCnn } from "../support/small-models.ts";

/** Models of the techniques' own concern beside the general ones: odd sizes, groups, shared and computed weights. */
function convNet(channels: number, group: number, seed: number, opset = 17): Model {
  const model = new Model(undefined, opset, 8);
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["n", 4, 6, 6]);
  const w = b.constant("w", randomTensor([channels, 4 / group, 3, 3], seed, 0.3));
  const conv = b.op("Conv", [x, w], { attributes: { group, pads: [1, 1, 1, 1] }, name: "conv" });
  const vector = (name: string, offset: number): ReturnType<Builder["constant"]> => {
    const data = Float32Array.from({ length: channels }, (_, i) => offset + (((i * 37 + seed) % 11) - 5) / 16);
    return b.constant(name, Tensor.float32([channels], data));
  };
  const norm = b.op("BatchNormalization", [conv, vector("g", 1), vector("b", 0), vector("m", 0.2), vector("v", 1.5)], {
    name: "norm",
  });
  const half = b.constant("half", Tensor.float32([], [0.5]));
  const relu = b.op("Relu", [b.op("Mul", [norm, half])]);
  const up = b.constant("up", randomTensor([channels, 3, 2, 2], seed + 1, 0.3));
  const y = b.op("ConvTranspose", [relu, up], { attributes: { strides: [2, 2] }, name: "up_conv" });
  y.dtype = "float32";
  y.shape = ["n", 3, 12, 12];
  b.output(y, "y");
  return model;
}

async function dataOf(model: Model, name: string): Promise<Float32Array> {
  const tensor = model.graph.find(name)?.tensor;
  if (!tensor) throw new Error(`no constant ${name}`);
  return (await tensor.data()) as Float32Array;
}

describe("simplify", () => {
  it.each(Object.keys(MODELS))("leaves the outputs of %s as they were", async (name) => {
    const before = (MODELS[name] as (typeof MODELS)[string]).build(3);
    const { model } = await runTechnique(simplify, before);
    expect(worstError(await runOnSynthetic(before), await runOnSynthetic(model))).toBeLessThan(1e-5);
  });

  it("folds normalization into convolutions of any width and grouping, within float rounding", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(1, 2, 4),
        fc.integer({ min: 1, max: 3 }),
        fc.nat(1000),
        async (group, width, seed) => {
          const before = convNet(4 * width, group, seed);
          const { model } = await runTechnique(simplify, before);
          expect(model.graph.nodes.map((node) => node.opType)).toEqual(["Conv", "Relu", "ConvTranspose"]);
          // Both sum the same products; only the scale is applied earlier: some units in the last place of float32.
          expect(worstError(await runOnSynthetic(before), await runOnSynthetic(model))).toBeLessThan(1e-5);
        },
      ),
      { numRuns: 12 },
    );
  });

  it("does not fold into a weight that another operator reads", async () => {
    const before = convNet(4, 1, 1);
    const b = new Builder(before.graph);
    const conv = before.graph.nodes[0];
    const second = b.op("Conv", [before.graph.inputs[0], conv?.inputs[1]], { name: "second" });
    second.dtype = "float32";
    b.output(second, "z");
    const { model, journal } = await runTechnique(simplify, before);
    expect(model.graph.nodes.some((node) => node.opType === "BatchNormalization")).toBe(true);
    expect(journal.skipped.map(({ why }) => why).join()).toContain("shared");
    expect(worstError(await runOnSynthetic(before), await runOnSynthetic(model))).toBeLessThan(1e-5);
  });
});

describe("quantize-weights", () => {
  it("keeps every weight within half a step of its scale (round to nearest)", async () => {
    const kernels = await loadKernels();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(2 as const, 4 as const, 8 as const),
        fc.boolean(),
        fc.integer({ min: 1, max: 40 }),
        fc.nat(1000),
        async (bits, symmetric, cols, seed) => {
          const tensor = randomTensor([5, cols], seed);
          const codes = rowCodes(
            kernels,
            tensor,
            5,
            { bits, symmetric, scale: "range", scaleType: "float32" },
            {
              codesShape: [Math.ceil((5 * cols * bits) / 8)],
              codesType: "uint8",
              scalesShape: [5, 1],
              transpose: undefined,
            },
          );
          const weights = (await tensor.data()) as Float32Array;
          const packed = await codes.codes.bytes();
          const scales = toFloat32("float32", (await codes.scales?.bytes()) as Uint8Array);
          const zeros = await codes.zeroPoints?.bytes();
          for (let i = 0; i < weights.length; i++) {
            const row = Math.floor(i / cols);
            const code = ((packed[Math.floor((i * bits) / 8)] ?? 0) >> ((i * bits) % 8)) & (2 ** bits - 1);
            const scale = scales[row] as number;
            const restored = (code - (zeros?.[row] ?? 2 ** (bits - 1))) * scale;
            // An asymmetric zero point is rounded too, which shifts the range by up to half a step.
            const bound = Math.abs(scale) * (symmetric ? 0.5 : 1) + 1e-6;
            expect(Math.abs(restored - (weights[i] as number))).toBeLessThanOrEqual(bound);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it.each([
    ["auto", 8],
    ["auto", 4],
    ["auto", 2],
    ["folded", 8],
    ["folded", 4],
    ["folded", 2],
  ] as const)("form %s in %i bits runs, is smaller and errs as much as its bits allow", async (form, bits) => {
    for (const name of Object.keys(MODELS)) {
      const before = (MODELS[name] as (typeof MODELS)[string]).build(3);
      const { model, journal } = await runTechnique(quantizeWeights, before, { form, bits, minElements: 64 });
      const [from, to] = [await encodeModel(before), await encodeModel(model)];
      if (journal.changed.length > 0) expect(to.length).toBeLessThan(from.length);
      for (const { error } of journal.changed) expect(error).toBeLessThan({ 8: 0.02, 4: 0.2, 2: 0.8 }[bits]);
      for (const array of Object.values(await runOnSynthetic(model)))
        expect(Array.from(array.data as Float32Array, Number).every(Number.isFinite)).toBe(true);
    }
  });

  it("never makes a model bigger, even of nothing but tiny weights", async () => {
    const before = smallCnn();
    const { model } = await runTechnique(quantizeWeights, before, { minElements: 1 });
    expect((await encodeModel(model)).length).toBeLessThanOrEqual((await encodeModel(before)).length);
  });

  it("writes packed codes at every opset, odd sizes included", async () => {
    for (const opset of [13, 17, 21, 25])
      for (const bits of [8, 4, 2]) {
        const before = convNet(37, 1, 5, opset);
        before.irVersion = opset === 25 ? 13 : 10;
        const { model, journal } = await runTechnique(quantizeWeights, before, { bits, minElements: 1 });
        expect(journal.changed.length).toBeGreaterThan(0);
        const error = worstError(await runOnSynthetic(before), await runOnSynthetic(model));
        expect(error).toBeLessThan({ 8: 0.05, 4: 0.8, 2: 4 }[bits] as number);
      }
  });
});

describe("quantize-dynamic", () => {
  it.each(Object.keys(MODELS))("%s runs near its outputs and is smaller", async (name) => {
    const before = (MODELS[name] as (typeof MODELS)[string]).build(3);
    const { model, journal } = await runTechnique(quantizeDynamic, before, { minElements: 64 });
    const after = await runOnSynthetic(model);
    if (journal.changed.length > 0)
      expect((await encodeModel(model)).length).toBeLessThan((await encodeModel(before)).length);
    for (const array of Object.values(after))
      expect(Array.from(array.data as Float32Array, Number).every(Number.isFinite)).toBe(true);
  });
});

describe("cast", () => {
  it.each(Object.keys(MODELS))("%s in float16 has no NaN and errs by float16's rounding", async (name) => {
    const before = (MODELS[name] as (typeof MODELS)[string]).build(3);
    const { model } = await runTechnique(cast, before);
    expect(worstError(await runOnSynthetic(before), await runOnSynthetic(model))).toBeLessThan(0.02);
  });

  it("keeps what overflows float16 in float32 and says so", async () => {
    const model = new Model(undefined, 17, 8);
    const b = new Builder(model.graph);
    const x = b.input("x", "float32", ["n", 4]);
    const big = b.op("Mul", [x, b.constant("huge", Tensor.float32([4], [1e6, 2e6, 3e6, 4e6]))], { name: "big" });
    const y = b.op("Mul", [big, b.constant("tiny", Tensor.float32([4], [1e-6, 1e-6, 1e-6, 1e-6]))], { name: "back" });
    y.dtype = "float32";
    y.shape = ["n", 4];
    b.output(y, "y");
    const { model: after, journal } = await runTechnique(cast, model);
    const result = Object.values(await runOnSynthetic(after))[0];
    expect(Array.from(result?.data as Float32Array).every(Number.isFinite)).toBe(true);
    expect(journal.skipped.map(({ why }) => why).join()).toMatch(/overflow/);
  });
});

describe("prune-weights", () => {
  it("with ratio 0 changes nothing", async () => {
    const before = smallCnn();
    const { model, journal } = await runTechnique(pruneWeights, before, { ratio: 0 });
    expect(journal.changed).toEqual([]);
    expect(await encodeModel(model)).toEqual(await encodeModel(before));
  });

  it("zeroes exactly the asked share, the smallest magnitudes", async () => {
    await fc.assert(
      fc.asyncProperty(fc.double({ min: 0.05, max: 0.95, noNaN: true }), async (ratio) => {
        const before = smallCnn();
        const { model } = await runTechnique(pruneWeights, before, { ratio });
        const weights = await dataOf(before, "w");
        const pruned = await dataOf(model, "w");
        const gone = weights.filter((_, i) => pruned[i] === 0).map(Math.abs);
        const kept = weights.filter((_, i) => pruned[i] !== 0).map(Math.abs);
        expect(gone.length).toBe(Math.round(ratio * weights.length));
        if (gone.length > 0 && kept.length > 0) expect(Math.max(...gone)).toBeLessThanOrEqual(Math.min(...kept));
      }),
      { numRuns: 20 },
    );
  });

  it("is the same for the same seed, and random differs between seeds", async () => {
    const once = await encodeModel((await runTechnique(pruneWeights, smallCnn(), { score: "random" })).model);
    const again = await encodeModel((await runTechnique(pruneWeights, smallCnn(), { score: "random" })).model);
    const byMagnitude = await encodeModel((await runTechnique(pruneWeights, smallCnn(), {})).model);
    expect(again).toEqual(once);
    expect(byMagnitude).not.toEqual(once);
  });
});

describe("ranges", () => {
  const counts = new Float64Array(1000).fill(1);
  it("percentile cuts the asked share", () => {
    const { low, high } = percentileRange({ low: -1, high: 1, counts }, 0.9);
    expect(low).toBeCloseTo(-0.9, 2);
    expect(high).toBeCloseTo(0.9, 2);
  });

  it("least error clips an outlier and leaves a flat histogram alone", () => {
    const outlier = new Float64Array(1000);
    outlier.fill(1e6, 0, 100);
    outlier[999] = 1;
    expect(leastErrorRange({ low: 0, high: 1, counts: outlier }).high).toBeLessThan(0.5);
    expect(leastErrorRange({ low: -1, high: 1, counts }).high).toBeGreaterThan(0.97);
  });

  it("least error is no worse than any candidate, bin by bin", () => {
    const errorOf = (counts: Float64Array, low: number, high: number, range: { low: number; high: number }): number => {
      const width = (high - low) / counts.length;
      const scale = (range.high - range.low) / 255;
      return counts.reduce((sum, count, bin) => {
        const left = low + bin * width;
        if (left <= 0 && left + width > 0) return sum;
        const x = left + width / 2;
        return sum + count * (scale ** 2 / 12 + (x - Math.min(range.high, Math.max(range.low, x))) ** 2);
      }, 0);
    };
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 1e6 }), fc.boolean(), (seed, signed) => {
        const rng = new Rng(seed);
        const bins = Float64Array.from({ length: 400 }, (_, i) =>
          Math.floor(1e5 * rng.uniform() ** (1 + Math.abs(i - 200) / 10)),
        );
        const [low, high] = [signed ? -3 : 0, 2];
        const found = leastErrorRange({ low, high, counts: bins });
        const least = errorOf(bins, low, high, found);
        for (let step = 0; step <= 128; step++) {
          const other = { ...found, high: high * (1 - (0.8 * step) / 128) };
          expect(least).toBeLessThanOrEqual(errorOf(bins, low, high, other) * (1 + 1e-9));
        }
      }),
      { numRuns: 30 },
    );
  });

  it("a grid holds zero exactly and covers the range", () => {
    fc.assert(
      fc.property(
        fc.float({ min: -100, max: 100, noNaN: true }),
        fc.float({ min: -100, max: 100, noNaN: true }),
        fc.boolean(),
        (a, c, symmetric) => {
          const [low, high] = a < c ? [a, c] : [c, a];
          const grid = gridOf({ low, high }, "uint8", symmetric);
          expect(Number.isInteger(grid.zeroPoint)).toBe(true);
          expect((grid.highest - grid.zeroPoint) * grid.scale).toBeGreaterThanOrEqual(Math.max(0, high) - grid.scale);
          expect((grid.lowest - grid.zeroPoint) * grid.scale).toBeLessThanOrEqual(Math.min(0, low) + grid.scale);
        },
      ),
    );
  });
});
