/** Every file in goldens/: a model before, the options, the model after and the journal, in text form. UPDATE_GOLDENS=1 rewrites the results. */
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { TECHNIQUES } from "../../src/catalog.ts";
import { datasetOf } from "../../src/data/arrays.ts";
import { Rng } from "../../src/base/rng.ts";
import { checkModel } from "../../src/ir/check.ts";
import type { Model } from "../../src/ir/model.ts";
import { parseModel } from "../../src/ir/text-parse.ts";
import { printModel } from "../../src/ir/text-print.ts";
import { runTechnique } from "../support/run-technique.ts";

const FOLDER = join(import.meta.dirname, "goldens");
const UPDATE = process.env["UPDATE_GOLDENS"] === "1";
const SECTIONS = ["technique", "options", "before", "after", "journal"] as const;

type Golden = Record<(typeof SECTIONS)[number], string>;

function read(file: string): Golden {
  const text = readFileSync(join(FOLDER, file), "utf8");
  const parts = text.split(/^=== (\w+)\n/m).slice(1);
  const golden: Record<string, string> = {};
  for (let i = 0; i < parts.length; i += 2) golden[parts[i] as string] = (parts[i + 1] ?? "").trim();
  return golden as Golden;
}

/** 16 seeded samples for the model's only input. */
function samples(model: Model): ReturnType<typeof datasetOf> {
  const input = model.graph.inputs[0];
  const shape = (input?.shape ?? []).map((dim) => (typeof dim === "number" ? dim : 16));
  const rng = new Rng(3);
  const data = Float32Array.from({ length: shape.reduce((product, size) => product * size, 1) }, () => rng.normal());
  return datasetOf({ fields: { [input?.name ?? "x"]: { dtype: "float32", shape, data } } });
}

describe("goldens", () => {
  it.each(readdirSync(FOLDER).filter((file) => file.endsWith(".txt")))("%s", async (file) => {
    const golden = read(file);
    const technique = TECHNIQUES.get(golden.technique);
    if (!technique) throw new Error(`no technique ${golden.technique}`);
    const before = parseModel(golden.before);
    const { model, journal } = await runTechnique(technique, before, JSON.parse(golden.options), samples(before));
    const after = (await printModel(model)).trim();
    const log = [
      ...journal.changed.map(
        ({ what, how, error, bytesBefore, bytesAfter }) =>
          `change ${what}: ${how}${error === undefined ? "" : `; error ${error.toPrecision(3)}`}${bytesAfter === undefined ? "" : `; ${bytesBefore} -> ${bytesAfter} bytes`}`,
      ),
      ...journal.skipped.map(({ what, why }) => `skip ${what}: ${why}`),
      ...journal.notes.map((note) => `note ${note}`),
    ].join("\n");
    expect(checkModel(model).filter(({ severity }) => severity === "error")).toEqual([]);
    if (UPDATE) {
      const all = { ...golden, after, journal: log };
      writeFileSync(join(FOLDER, file), SECTIONS.map((section) => `=== ${section}\n${all[section]}\n`).join(""));
      return;
    }
    expect(after).toBe(golden.after);
    expect(log).toBe(golden.journal);
    expect(after).not.toBe((await printModel(before)).trim());
  });
});
