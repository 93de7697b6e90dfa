/** Statistics of activations: ends that the engine finds against those of the values themselves. */
import { describe, expect, it } from "vitest";
import { Rng } from "../../src/base/rng.ts";
import type { Model } from "../../src/ir/model.ts";
import { loadKernels } from "../../src/kernels/kernels.ts";
import type { Feeds } from "../../src/run/session.ts";
import { tapEach } from "../../src/run/taps.node.ts";
import { observe } from "../../src/techniques/quantize/static/calibrate.ts";
import { smallCnn } from "../support/small-models.ts";

const NAMES = ["x", "conv", "relu"];

function samples(count: number): Feeds[] {
  const rng = new Rng(3);
  return Array.from({ length: count }, () => ({
    x: { dtype: "float32", shape: [2, 4, 8, 8], data: Float32Array.from({ length: 512 }, () => rng.normal()) },
  }));
}

async function endsOf(model: Model, data: Feeds[]): Promise<Map<string, { low: number; high: number }[]>> {
  const batches = new Map<string, { low: number; high: number }[]>(NAMES.map((name) => [name, []]));
  await tapEach(
    model,
    NAMES,
    () => data,
    (name, { data: values }) => {
      const finite = [...(values as Float32Array)].filter(Number.isFinite);
      batches.get(name)?.push({ low: Math.min(...finite), high: Math.max(...finite) });
    },
  );
  return batches;
}

describe("observed values", () => {
  it.each([13, 21])("have the ends of all samples and the mean ends of the batches, operator set %i", async (opset) => {
    const model = smallCnn();
    model.opsets.set("", opset);
    const data = samples(5);
    const kernels = await loadKernels();
    const expected = await endsOf(model, data);
    for (const histograms of [false, true]) {
      const seen = await observe(model, NAMES, () => data, kernels, { histograms });
      expect([...seen.keys()]).toEqual(NAMES);
      for (const [name, { ends, averageEnds, histogram }] of seen) {
        const batches = expected.get(name) ?? [];
        const mean = (side: "low" | "high"): number =>
          batches.reduce((sum, each) => sum + each[side], 0) / batches.length;
        expect(ends.low).toBeCloseTo(Math.min(...batches.map(({ low }) => low)), 5);
        expect(ends.high).toBeCloseTo(Math.max(...batches.map(({ high }) => high)), 5);
        expect(averageEnds.low).toBeCloseTo(mean("low"), 5);
        expect(averageEnds.high).toBeCloseTo(mean("high"), 5);
        expect(histogram !== undefined).toBe(histograms);
      }
    }
  });

  it("leave out what is not finite", async () => {
    const model = smallCnn();
    const data = samples(2);
    const input = data[1]?.x?.data as Float32Array;
    input[7] = Number.POSITIVE_INFINITY;
    input[9] = Number.NaN;
    const expected = await endsOf(model, data);
    const seen = await observe(model, ["x"], () => data, await loadKernels(), { histograms: false });
    const ends = seen.get("x")?.ends;
    expect(ends?.high).toBe(Math.max(...(expected.get("x") ?? []).map(({ high }) => high)));
    expect(ends?.low).toBe(Math.min(...(expected.get("x") ?? []).map(({ low }) => low)));
  });
});
