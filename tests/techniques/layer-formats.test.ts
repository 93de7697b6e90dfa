/** Formats layer by layer: patterns, first and last layers, key layers only; and how they are written in recipes and flags. */
import { describe, expect, it } from "vitest";
import { TECHNIQUES } from "../../src/catalog.ts";
import { endLayers } from "../../src/techniques/quantize/weights/layer-formats.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { formatStep, makeStep, parseStep, recipeFromData } from "../../src/techniques/recipe.ts";
import { weightSites } from "../../src/transform/weight-sites.ts";
import { cnnModel, mlpModel } from "../support/models.ts";
import { runOnSynthetic, worstError } from "../support/run-model.ts";
import { runTechnique } from "../support/run-technique.ts";

/** Number of bits of each weight that changed, by the layer that reads it. */
async function bitsOf(options: Readonly<Record<string, unknown>>): Promise<Record<string, number>> {
  const { model, journal } = await runTechnique(quantizeWeights, mlpModel(), { block: 16, minElements: 1, ...options });
  // Two bits in three layers of 16 to 32 inputs leave a third of the signal wrong, not all of it
  expect(worstError(await runOnSynthetic(mlpModel()), await runOnSynthetic(model))).toBeLessThan(2);
  return Object.fromEntries(
    journal.changed.map(({ what, how }) => [what.split(".")[0], Number(/(\d) bits/.exec(how)?.[1])]),
  );
}

describe("formats of single layers", () => {
  it("are what the last matching pattern says", async () => {
    expect(await bitsOf({ layers: { "*": "int4", fc2: "int8" } })).toEqual({ fc1: 4, fc2: 8, fc3: 4 });
    expect(await bitsOf({ layers: { fc2: "int8", "*": "int4" } })).toEqual({ fc1: 4, fc2: 4, fc3: 4 });
    expect(await bitsOf({ bits: 2, layers: { "fc2.weight": "int8", "op:Conv": "int8" } })).toEqual({
      fc1: 2,
      fc2: 8,
      fc3: 2,
    });
  });

  it("leave alone what is float, and say by which pattern", async () => {
    const { model, journal } = await runTechnique(quantizeWeights, mlpModel(), { layers: { fc1: "float" } });
    expect(model.graph.initializers.get("fc1.weight")?.tensor?.dtype).toBe("float32");
    expect(journal.skipped).toContainEqual({ what: "fc1.weight", why: "layers 'fc1'" });
  });

  it("give the first and last layers their own; a named layer goes before them, keep before all", async () => {
    expect(await bitsOf({ ends: "int8" })).toEqual({ fc1: 8, fc2: 4, fc3: 8 });
    expect(await bitsOf({ ends: "int8", layers: { fc3: "int2" } })).toEqual({ fc1: 8, fc2: 4, fc3: 2 });
    expect(await bitsOf({ ends: "int8", layers: { fc3: "int2" }, keep: ["fc3"] })).toEqual({ fc1: 8, fc2: 4 });
  });

  it("leave all but the key layers alone", async () => {
    expect(await bitsOf({ only: ["fc2"] })).toEqual({ fc2: 4 });
    expect(await bitsOf({ only: ["fc2"], layers: { fc1: "int8" } })).toEqual({ fc1: 8, fc2: 4 });
  });

  it("note a pattern that matches nothing", async () => {
    const { journal } = await runTechnique(quantizeWeights, mlpModel(), { layers: { fc9: "int8" } });
    expect(journal.notes.join()).toContain("layers 'fc9' matches nothing");
  });

  it("refuse an unknown format and name all", () => {
    expect(() => makeStep(quantizeWeights, { layers: { fc1: "int7" } })).toThrow(/int7.*int8, int6/);
  });
});

describe("the first and last layers", () => {
  it("of a network with a residual block are its stem and its head", () => {
    const model = cnnModel();
    const names = [...endLayers(model, weightSites(model))].map(({ name }) => name);
    expect(names).toEqual(["stem", "head"]);
  });
});

describe("formats as texts", () => {
  it("read back as they were written", () => {
    const step = parseStep("quantize-weights:bits=4,ends=int8,layers=/a=b/=int8+op:Conv=float", TECHNIQUES);
    expect(step.options).toMatchObject({ ends: "int8", layers: { "/a=b/": "int8", "op:Conv": "float" } });
    expect(parseStep(formatStep(step), TECHNIQUES).options).toEqual(step.options);
    expect(formatStep(parseStep("quantize-weights", TECHNIQUES))).toBe("quantize-weights");
    expect(makeStep(quantizeWeights, { layers: ["fc1=int8", "fc2=float"] }).options).toMatchObject({
      layers: { fc1: "int8", fc2: "float" },
    });
    const recipe = recipeFromData([{ "quantize-weights": { layers: { fc1: "int8" } } }], TECHNIQUES, "recipe");
    expect(recipe.steps[0]?.options).toMatchObject({ layers: { fc1: "int8" } });
  });

  it("need a format", () => {
    expect(() => parseStep("quantize-weights:layers=fc1", TECHNIQUES)).toThrow("Not a pair");
  });
});
