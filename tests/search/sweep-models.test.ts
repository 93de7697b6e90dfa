/** A sweep over real models on the engine: built, saved, proven, judged; beginnings shared; files where the results say. */
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { Rng } from "../../src/base/rng.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { openDataset } from "../../src/data/open.node.ts";
import { Builder } from "../../src/ir/builder.ts";
import { loadFile } from "../../src/ir/load.node.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";
import { sweep } from "../../src/search/sweep.node.ts";
import { familyOf, nameRecipes, sharedPrefixes } from "../../src/search/sweep-recipes.ts";
import { pruneWeights } from "../../src/techniques/prune/weights/prune-weights.ts";
import { quantizeWeights } from "../../src/techniques/quantize/weights/quantize-weights.ts";
import { simplify } from "../../src/techniques/simplify/simplify.ts";
import { defineTechnique } from "../../src/techniques/technique.ts";

let runs = 0;
const counted = defineTechnique({
  name: "counted",
  family: "tune",
  summary: "Counts how often it is run.",
  needs: [],
  options: z.object({}),
  async run(model) {
    runs++;
    return model;
  },
});
const failing = defineTechnique({
  name: "failing",
  family: "prune",
  summary: "Fails.",
  needs: [],
  options: z.object({}),
  run: () => Promise.reject(new Error("this cannot work")),
});

/** A random two-layer network on the fields of `data`. */
function network(data: Dataset): Model {
  const [field] = data.fields;
  const size = (field?.shape ?? []).reduce((product, dim) => product * dim, 1);
  const random = new Rng(3);
  const matrix = (rows: number, columns: number): Tensor =>
    Tensor.float32(
      [rows, columns],
      Float32Array.from({ length: rows * columns }, () => random.normal() / Math.sqrt(rows)),
    );
  const model = new Model();
  const b = new Builder(model.graph);
  const x = b.input("x", "float32", ["batch", ...(field?.shape ?? [])]);
  const flat = b.op("Flatten", [x]);
  const hidden = b.op("Relu", [b.op("MatMul", [flat, b.constant("w1", matrix(size, 64))], { name: "fc1" })]);
  b.output(
    b.op("MatMul", [hidden, b.constant("w2", matrix(64, data.classes?.length ?? 10))], { name: "fc2" }),
    "scores",
  );
  return model;
}

describe("sweep", () => {
  let folder: string;
  let data: Dataset;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "pare-sweep-"));
    data = await openDataset("glyphs:?count=64&split=test");
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const recipes = () => [
    { label: "8 bits", steps: [counted(), simplify(), quantizeWeights({ bits: 8 })] },
    { id: "four", steps: [counted(), simplify(), quantizeWeights({ bits: 4 })] },
    { label: "half & half", steps: [counted(), pruneWeights({ ratio: 0.5 }), quantizeWeights({ bits: 8 })] },
    { label: "broken", steps: [failing()] },
  ];
  const options = () => ({
    directory: folder,
    evaluation: data,
    inProcess: true,
    memory: false,
    threads: 1,
    benchmarkSeconds: 0.05,
    layerSamples: 2,
  });

  it("measures every recipe, shares beginnings, saves the models, keeps the failure, and resumes", async () => {
    runs = 0;
    const model = network(data);
    const results = await sweep(model, recipes(), options());
    expect(runs).toBe(1);
    expect(results.entries.map(({ id, family }) => [id, family])).toEqual([
      ["baseline", "baseline"],
      ["8-bits", "quantize"],
      ["four", "quantize"],
      ["half-half", "combined"],
      ["broken", "prune"],
    ]);
    expect(results.entries[4]?.error).toEqual({ code: "internal", message: "this cannot work" });
    const [baseline, eight, four] = results.entries;
    for (const entry of [eight, four]) {
      const path = join(folder, entry?.output ?? "");
      expect((await stat(path)).size).toBe(entry?.bytes?.file);
      expect((await loadFile(path)).metadata.get("pare.recipe")).toContain("counted simplify quantize-weights");
      expect(entry?.verified).toMatchObject({ session: true, provider: "cpu" });
      expect(entry?.metrics["accuracy"]?.samples).toBe(64);
      expect(entry?.steps.map(({ technique }) => technique)).toEqual(["counted", "simplify", "quantize-weights"]);
      expect(entry?.latency?.ratio?.value).toBeGreaterThan(0);
    }
    // 64·classes + inputs·64 weights of 4 bytes become 1 byte, or half of one, and scales.
    const ratio = (entry: typeof eight): number => (baseline?.bytes?.file ?? 0) / (entry?.bytes?.file ?? 1);
    expect(ratio(eight)).toBeGreaterThan(3);
    expect(ratio(four)).toBeGreaterThan(5);
    const layers = four?.layers.map(({ name, bytes, bytesBefore }) => [name, bytes < bytesBefore / 4]);
    expect(layers).toEqual([
      ["fc1", true],
      ["fc2", true],
    ]);
    expect(four?.layers.every(({ error, localError }) => (error ?? 0) > 0.01 && (localError ?? 0) > 0.01)).toBe(true);
    // Eight bits err less than four: the errors are real.
    expect(eight?.layers[0]?.error ?? 1).toBeLessThan((four?.layers[0]?.error ?? 0) / 4);

    const resumed: string[] = [];
    const again = await sweep(model, recipes(), {
      ...options(),
      onEntry: (entry, old) => old && resumed.push(entry.id),
    });
    expect(resumed).toEqual(["baseline", "8-bits", "four", "half-half"]);
    expect(again.front).toEqual(results.front);
    const other = await sweep(model, recipes().slice(0, 1), {
      ...options(),
      seed: 2,
      onEntry: (_, old) => old && resumed.push("!"),
    });
    expect(other.entries).toHaveLength(2);
    expect(resumed).not.toContain("!");
  }, 60_000);

  it("names recipes once and safely, and knows families and shared beginnings", () => {
    const steps = [simplify(), quantizeWeights({ bits: 8 })];
    const named = nameRecipes([{ label: "../50 % <b>", steps }, { label: "../50 % <b>", steps }, { steps }]);
    expect(named.map(({ id }) => id)).toEqual(["50-pct-b", "50-pct-b-2", "simplify-quantize-weights-bits-8"]);
    expect(familyOf([simplify()])).toBe("simplify");
    expect(familyOf([simplify(), counted()])).toBe("tune");
    expect([...sharedPrefixes([{ steps }, { steps: steps.slice(0, 1) }]).values()]).toEqual([2]);
  });
});
