/** Sensitivities and formats layer by layer: the planted layer is found, budgets hold, uniform bits are beaten, runs resume. */
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Dataset } from "../../../src/data/dataset.ts";
import type { Model } from "../../../src/ir/model.ts";
import { Journal } from "../../../src/techniques/journal.ts";
import { costOf, leastDamage } from "../../../src/techniques/mixed/assign.ts";
import { mix } from "../../../src/techniques/mixed/mix.ts";
import { damageOf, measureSensitivities, openBench } from "../../../src/techniques/mixed/sensitivity.ts";
import type { Cell, SensitivityOptions, Sensitivities } from "../../../src/techniques/mixed/sensitivity.ts";
import { encodedBytes } from "../../../src/techniques/mixed/variant.ts";
import { plantedData, plantedModel } from "../../support/planted-model.ts";
import { contextOf, runTechnique } from "../../support/run-technique.ts";

let folder = "";
const before = process.env["PARE_CACHE"];
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "pare-mix-"));
  process.env["PARE_CACHE"] = folder;
});
afterAll(() => {
  if (before === undefined) delete process.env["PARE_CACHE"];
  else process.env["PARE_CACHE"] = before;
  rmSync(folder, { recursive: true, force: true });
});

const PLANTED = 2;
const model = plantedModel([PLANTED]);
let data: Dataset;
beforeAll(async () => {
  data = await plantedData(model);
});

async function sensitivities(
  original: Model,
  samples: Dataset | undefined,
  options: SensitivityOptions,
): Promise<Sensitivities> {
  const context = contextOf(original, samples);
  const bench = await openBench(original, options, context);
  try {
    return await measureSensitivities(bench, options, context);
  } finally {
    await bench.close();
  }
}

function worst(found: Sensitivities, format: string): string {
  const cells = found.cells.filter((cell) => cell.format === format);
  return cells.sort((a, b) => damageOf(b, found.measure) - damageOf(a, found.measure))[0]?.layer ?? "";
}

describe("sensitivity", () => {
  it("finds the planted layer by the task's loss, and by divergence without labels", async () => {
    const labelled = await sensitivities(model, data, { formats: ["int8", "int4"], cache: false });
    expect(labelled.measure).toBe("loss");
    expect(labelled.cells).toHaveLength(12);
    expect(worst(labelled, "int4")).toBe(`w${PLANTED}`);
    const alone = await sensitivities(model, undefined, { formats: ["int4"], cache: false });
    expect(alone.measure).toBe("kl");
    expect(worst(alone, "int4")).toBe(`w${PLANTED}`);
  });

  it("does not find it where nothing is planted", async () => {
    const plain = plantedModel([]);
    const found = await sensitivities(plain, await plantedData(plain), { formats: ["int4"], cache: false });
    const damages = found.cells.map((cell) => damageOf(cell, "kl"));
    // One layer alone at 4 bits does little harm; the planted one does a hundred times as much.
    const planted = await sensitivities(model, data, { formats: ["int4"], cache: false });
    const there = planted.cells.find(({ layer }) => layer === `w${PLANTED}`);
    expect(there && damageOf(there, "kl")).toBeGreaterThan(20 * Math.max(...damages));
  });

  it("goes on where a killed run stopped, and reads torn lines as nothing", async () => {
    const options: SensitivityOptions = { formats: ["int8", "int4"] };
    const whole = await sensitivities(model, data, options);
    expect(whole.fromCache).toBe(0);
    const [name = ""] = readdirSync(join(folder, "sensitivity"));
    const path = join(folder, "sensitivity", name);
    const lines = readFileSync(path, "utf8").trimEnd().split("\n");
    expect(lines).toHaveLength(12);
    // Killed in the middle of the eighth line.
    writeFileSync(path, `${lines.slice(0, 7).join("\n")}\n${lines[7]?.slice(0, 20)}`);
    const resumed = await sensitivities(model, data, options);
    expect(resumed.fromCache).toBe(7);
    expect(resumed.cells).toEqual(whole.cells);
    const again = await sensitivities(model, data, options);
    expect(again.fromCache).toBe(12);
    // Other samples are another measurement.
    expect((await sensitivities(model, data, { ...options, samples: 32 })).fromCache).toBe(0);
  }, 200_000);

  it("stops when it is told to, and refuses activations without samples", async () => {
    const stop = new AbortController();
    const context = contextOf(model, data, { signal: stop.signal, onProgress: () => stop.abort() });
    const options: SensitivityOptions = { formats: ["int4"], cache: false };
    const bench = await openBench(model, options, context);
    await expect(measureSensitivities(bench, options, context)).rejects.toThrow("Stopped");
    await bench.close();
    await expect(sensitivities(model, undefined, { formats: ["w8a8"], cache: false })).rejects.toThrow("--data");
    await expect(sensitivities(model, data, { formats: ["int4"], keep: ["*"] })).rejects.toThrow("no float weights");
  });
});

describe("mix", () => {
  const layersOf = (journal: Journal): Record<string, string> =>
    Object.fromEntries(journal.changed.map(({ what, how }) => [what, /(\d) bits/.exec(how)?.[1] ?? ""]));

  it("gives the planted layer more bits within a budget of average bits", async () => {
    const { journal } = await runTechnique(
      mix,
      model,
      { averageBits: 4, formats: ["int8", "int4", "int2"], by: "kl" },
      data,
    );
    const bits = layersOf(journal);
    expect(bits[`w${PLANTED}`] ?? "float").not.toBe("4");
    expect(journal.notes.join("\n")).toMatch(/The best uniform format within the same limit, int4, loses/);
    const [, mixed] = /together they lose ([\d.e-]*\d)/.exec(journal.notes.join("\n")) ?? [];
    const [, same] = /int4, loses ([\d.e-]*\d)/.exec(journal.notes.join("\n")) ?? [];
    expect(Number(mixed)).toBeLessThan(Number(same) / 3);
    const elements = (name: string): number => (name === "head" ? 512 : 4096);
    const total = ["w0", "w1", "w2", "w3", "w4", "head"].reduce(
      (sum, name) => sum + elements(name) * Number(bits[name] ?? 32),
      0,
    );
    expect(total / (5 * 4096 + 512)).toBeLessThanOrEqual(4);
  });

  it("keeps a budget of bytes, and says how far one can go", async () => {
    const { model: small } = await runTechnique(mix, model, { bytes: 18_000 }, data);
    expect(encodedBytes(small)).toBeLessThanOrEqual(18_000);
    expect(encodedBytes(small)).toBeGreaterThan(14_000);
    await expect(runTechnique(mix, model, { bytes: 3000 }, data)).rejects.toThrow(/bytes or more/);
    await expect(runTechnique(mix, model, {}, data)).rejects.toThrow("mix needs a limit");
    await expect(runTechnique(mix, model, { bytes: 9000, drop: 1 }, data)).rejects.toThrow("one limit");
    await expect(runTechnique(mix, model, { bytes: 9000, by: "acuracy" }, data)).rejects.toThrow("acuracy");
  });

  it("keeps a tolerated drop on the real metric with fewer bytes the more is tolerated", async () => {
    const strict = await runTechnique(mix, model, { drop: 0.002, by: "kl" }, data);
    const loose = await runTechnique(mix, model, { drop: 0.2, by: "kl" }, data);
    expect(encodedBytes(loose.model)).toBeLessThan(encodedBytes(strict.model));
    for (const [{ model: made }, drop] of [
      [strict, 0.002],
      [loose, 0.2],
    ] as const) {
      const context = contextOf(model, data);
      const bench = await openBench(model, { formats: ["int8"], cache: false }, context);
      const { damages } = await bench.probe.judge(made);
      await bench.close();
      expect(damages["kl"]?.value).toBeLessThanOrEqual(drop);
    }
  });

  it("goes by divergence unless told otherwise: it adds up, where the loss on training samples hardly moves", async () => {
    const { journal } = await runTechnique(mix, model, { averageBits: 6, formats: ["int8", "int4"] }, data);
    expect(journal.notes.join("\n")).toMatch(/together they lose [\d.e-]+ \(kl on /);
    const named = await runTechnique(mix, model, { averageBits: 6, formats: ["int8", "int4"], by: "loss" }, data);
    expect(named.journal.notes.join("\n")).toMatch(/together they lose [\d.e-]+ \(loss rise on /);
  });

  it("keeps a budget of time as measured, and says how far one can go", async () => {
    const few = { keep: ["w0", "w1", "w3", "w4"] };
    const { journal } = await runTechnique(mix, model, { latency: 4, formats: ["int8"], ...few }, data);
    const [, used] = /([\d.]+) of 4 latency/.exec(journal.notes.join("\n")) ?? [];
    expect(Number(used)).toBeGreaterThan(0);
    expect(Number(used)).toBeLessThanOrEqual(4);
    await expect(runTechnique(mix, model, { latency: 0.001, formats: ["int8"], ...few }, data)).rejects.toThrow(
      /about [\d.]+ of the original's time or more/,
    );
  }, 200_000);

  it("weighs damage against the time that each layer was measured at", () => {
    const layers = ["a", "b"].map((name) => ({ name, nodes: [name], op: "MatMul", elements: 10, bytes: 40, macs: 10 }));
    const score = { damages: {} } as Cell["score"];
    const cost = { bytes: -30, sharedBytes: 0, bops: 0, error: undefined };
    const cell = (layer: string, format: "int8" | "int4"): Cell => ({ layer, format, cost, score });
    const [a8, a4, b8, b4] = [cell("a", "int8"), cell("a", "int4"), cell("b", "int8"), cell("b", "int4")];
    // Of layer a int4 is the slower form, of layer b the faster: nobody would choose so by bytes.
    const times = new Map([
      [a8, 0.8],
      [a4, 1.1],
      [b8, 0.95],
      [b4, 0.7],
    ]);
    const damages = new Map([
      [a8, 1],
      [a4, 5],
      [b8, 1],
      [b4, 3],
    ]);
    const problem = {
      layers,
      cells: [a8, a4, b8, b4],
      damage: (each: Cell) => damages.get(each) ?? 0,
      cost: costOf("latency", layers, times),
    };
    const within = (budget: number): Record<string, string> =>
      Object.fromEntries(leastDamage(problem, budget - 1)?.assignment ?? []);
    expect(within(1)).toEqual({ a: "float", b: "float" });
    expect(within(0.8)).toEqual({ a: "int8", b: "float" });
    expect(within(0.75)).toEqual({ a: "int8", b: "int8" });
    expect(within(0.5)).toEqual({ a: "int8", b: "int4" });
    expect(leastDamage(problem, 0.45 - 1)).toBeUndefined();
  });

  it("counts bit operations, and mixes static activations in", async () => {
    const { journal } = await runTechnique(
      mix,
      model,
      { bops: 7e6, formats: ["w8a8"], keep: ["w0", "w1", "w2"], by: "kl" },
      data,
    );
    expect(journal.changed.some(({ how }) => how.includes("input uint8"))).toBe(true);
  }, 200_000);
});
