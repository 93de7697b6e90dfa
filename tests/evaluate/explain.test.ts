/** One layer's weights before and after: the engine's own numbers, by hand, in every form, and on a page that cannot be broken. */
import { describe, expect, it } from "vitest";
import { explainLayer } from "../../src/evaluate/explain.node.ts";
import { viewLayer } from "../../src/evaluate/layer-view.ts";
import { cloneModel } from "../../src/ir/clone.ts";
import type { Model } from "../../src/ir/model.ts";
import { explainPage, explainText } from "../../src/report/explain.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { simplify } from "../../src/techniques/simplify/simplify.ts";
import { runTechnique } from "../support/run-technique.ts";
import { plantedModel } from "../support/planted-model.ts";
import { randomTensor, smallCnn, unary } from "../support/small-models.ts";

describe("viewing a layer", () => {
  it("gives what a hand calculation gives", () => {
    const before = { values: Float32Array.of(1, 2, 3, -4), shape: [2, 2], channelAxis: 0 };
    const view = viewLayer(before, { ...before, values: Float32Array.of(1, 2, 3, -3) });
    expect(view.sqnrDb).toBeCloseTo(10 * Math.log10(30), 10);
    expect(view.relativeError).toBeCloseTo(Math.sqrt(1 / 30), 10);
    expect(view.maxAbsError).toBe(1);
    expect(view.meanError).toBe(0.25);
    expect(view.channels.map(({ low, high, levels }) => [low, high, levels])).toEqual([
      [1, 2, 2],
      [-4, 3, 2],
    ]);
    expect(view.channels[0]?.sqnrDb).toBe(Number.POSITIVE_INFINITY);
    expect(view.closest).toEqual({ channel: 1, levels: [-3, 3], before: [3, -4], after: [3, -3] });
    for (const { counts } of [view.before, view.after, view.errors]) expect(counts.reduce((a, b) => a + b)).toBe(4);
    expect(view.rescaled).toBe(false);
  });

  it("divides a folded normalization out, and takes rounding for none", () => {
    const tensor = randomTensor([4, 64], 3);
    const values = new Float32Array(tensor.peek()?.buffer.slice(0) ?? new ArrayBuffer(0));
    const before = { values, shape: [4, 64], channelAxis: 0 };
    const scaled = viewLayer(before, { ...before, values: values.map((value, i) => value * (1 + Math.floor(i / 64))) });
    expect(scaled.rescaled).toBe(true);
    expect(scaled.sqnrDb).toBeGreaterThan(120);
    expect(viewLayer(before, { ...before, values: values.map((value) => Math.round(value * 8) / 8) }).rescaled).toBe(
      false,
    );
  });
});

describe("explaining a layer", () => {
  const quantized = async (model: Model, options: Readonly<Record<string, unknown>>): Promise<Model> =>
    (await runTechnique(quantizeWeights, model, { minElements: 16, ...options })).model;

  it("reads packed, folded and dequantized weights alike: the error is the journal's", async () => {
    const model = plantedModel([]);
    for (const options of [
      { bits: 4 },
      { bits: 8 },
      { bits: 4, form: "folded" },
      { bits: 4, form: "dequantize" },
      { bits: 3 },
    ]) {
      const { model: small, journal } = await runTechnique(quantizeWeights, model, options);
      const found = await explainLayer(model, small, "w2");
      const change = journal.changed.find(({ what }) => what === "w2");
      // Codes, and for each block of 32 a scale in 32 bits and a zero point of at most 8.
      expect(found.bitsPerWeight).toBeGreaterThan(options.bits);
      expect(found.bitsPerWeight).toBeLessThanOrEqual(options.bits + 40 / 32);
      // Both sum the same differences, one in the kernel, one here.
      expect(Math.abs(found.relativeError / (change?.error ?? 0) - 1)).toBeLessThan(1e-3);
      expect(found.layer).toBe("layer2");
    }
  });

  it("reads convolutions, whose 2-bit grid has four numbers for each channel", async () => {
    const conv = unary("float32", [1, 16, 8, 8], (b, x) =>
      b.op("Conv", [x, b.constant("w", randomTensor([24, 16, 3, 3], 4))], { name: "conv" }),
    );
    const found = await explainLayer(conv, await quantized(conv, { bits: 2, block: "channel" }), "conv");
    expect(found.shape).toEqual([24, 16, 3, 3]);
    expect(found.channels).toHaveLength(24);
    for (const { levels } of found.channels) expect(levels).toBeLessThanOrEqual(4);
  });

  it("reads tables by their rows", async () => {
    const model = unary(
      "int64",
      ["n"],
      (b, x) => b.op("Gather", [b.constant("table", randomTensor([50, 64], 8)), x], { name: "embed" }),
      { dtype: "float32", shape: ["n", 64] },
    );
    const found = await explainLayer(model, await quantized(model, { bits: 4 }), "table");
    expect(found.opAfter).toBe("GatherBlockQuantized");
    expect(found.relativeError).toBeGreaterThan(0.01);
    expect(found.relativeError).toBeLessThan(0.2);
  });

  it("sees no change in the same model, and refuses what it cannot compare", async () => {
    const model = plantedModel([]);
    const same = await explainLayer(model, cloneModel(model), "w1");
    expect(same.sqnrDb).toBe(Number.POSITIVE_INFINITY);
    expect(explainText(same)).toContain("nothing was rounded");
    await expect(explainLayer(model, model, "w9")).rejects.toThrow("No layer with weights has that name");
    await expect(explainLayer(model, model, "w*")).rejects.toThrow("Several layers");
    await expect(explainLayer(model, smallCnn(), "w1")).rejects.toThrow("no such layer");
    const { model: simple } = await runTechnique(simplify, model);
    expect((await explainLayer(model, simple, "w1")).maxAbsError).toBe(0);
  });

  it("makes a page without scripts or requests in which names are text", async () => {
    const model = plantedModel([]);
    const found = await explainLayer(model, await quantized(model, { bits: 4 }), "w2");
    const page = explainPage({ ...found, layer: '<script>alert("x")</script>' });
    expect(page).not.toContain("<script");
    expect(page).toContain("&lt;script&gt;");
    expect(page).not.toMatch(/https?:\/\/(?!www\.w3\.org)/);
    for (const title of ["Weights before and after", "The grid", "Rounding error", "Channels"])
      expect(page).toContain(title);
    expect(page.length).toBeLessThan(300_000);
    expect(page).not.toContain("NaN");
  });
});
