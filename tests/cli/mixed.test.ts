/** The verbs that look for the layers behind a loss of accuracy, from the command line: what they print, and what they refuse. */
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { saveFile } from "../../src/ir/save.node.ts";
import { plantedModel } from "../support/planted-model.ts";

const command = join(import.meta.dirname, "..", "..", "dist", "cli", "main.node.js");
const INT4 = "quantize-weights:bits=4,min-elements=1";
let folder = "";
let model = "";
let changed = "";
const at = (name: string): string => join(folder, name);
const pare = (...args: string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, [command, ...args], {
    cwd: folder,
    encoding: "utf8",
    timeout: 120_000,
    env: { ...process.env, PARE_CACHE: at("cache") },
  });

function json(...args: string[]): Record<string, unknown> {
  const { status, stdout, stderr } = pare(...args, "--json", "--threads", "1");
  expect(stderr).not.toMatch(/pare: /);
  expect(status).toBe(0);
  return JSON.parse(stdout) as Record<string, unknown>;
}

/** A user's mistake: exit code 2, nothing on stdout, one line on stderr, no stack trace. */
function expectMistake(args: readonly string[], ...words: RegExp[]): void {
  const { status, stdout, stderr } = pare(...args);
  expect(status).toBe(2);
  expect(stdout).toBe("");
  for (const word of words) expect(stderr).toMatch(word);
  expect(stderr).not.toMatch(/\n\s+at /);
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "pare-mixed-"));
  [model, changed] = [at("planted.onnx"), at("int4.onnx")];
  await saveFile(plantedModel([2]), model);
  expect(pare("compress", model, "--step", INT4, "-o", changed).status).toBe(0);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("pare sensitivity", () => {
  it("puts the planted layer first, as a table and as JSON, and remembers what it measured", () => {
    const { status, stdout } = pare("sensitivity", model, "--formats", "int4", "--threads", "1", "--top", "2");
    expect(status).toBe(0);
    expect(stdout.split("\n")[1]).toMatch(/^w2 /);
    expect(stdout).toMatch(/6 variants judged on/);
    const again = pare("sensitivity", model, "--formats", "int4", "--threads", "1");
    expect(again.stdout).toMatch(/6 of them by an earlier run/);
    const found = json("sensitivity", model, "--formats", "int4", "--no-cache");
    expect(found).toMatchObject({ path: model, measure: "kl" });
  });

  it("refuses what it cannot do", () => {
    expectMistake(["sensitivity", at("absent.onnx")], /absent\.onnx/);
    expectMistake(["sensitivity", model, "--formats", "int9"], /int9|formats/);
    expectMistake(["sensitivity", model, "--formats", "int4", "--by", "acuracy"], /acuracy/);
    expectMistake(["sensitivity", model, "--top", "0"], /whole number from 1 up/);
  });
});

describe("pare mix", () => {
  it("writes a model within the budget, and says what its layers got", () => {
    const report = json("mix", model, "-o", at("mixed.onnx"), "--average-bits", "5", "--formats", "int8", "int4");
    expect(existsSync(at("mixed.onnx"))).toBe(true);
    const [step] = report["steps"] as { notes: string[]; changed: unknown[] }[];
    expect(step?.notes.join("\n")).toMatch(/bits per weight on average.*\n.*\(kl on /);
    expect(step?.changed.length).toBeGreaterThan(3);
  });

  it("refuses no limit, two limits, and one that no format keeps", () => {
    const output = ["-o", at("no.onnx")];
    expectMistake(["mix", model, ...output], /mix needs a limit/, /--average-bits/);
    expectMistake(["mix", model, ...output, "--bytes", "9000", "--bops", "1"], /one limit/);
    expectMistake(["mix", model, ...output, "--bytes", "100", "--formats", "int4"], /bytes or more/);
    expect(existsSync(at("no.onnx"))).toBe(false);
  });
});

describe("pare bisect", () => {
  it("finds the layer behind the drop, and writes the model with it put back", () => {
    const { status, stdout } = pare("bisect", model, changed, "-o", at("back.onnx"), "--threads", "1", "--top", "3");
    expect(status).toBe(0);
    expect(stdout).toMatch(/\* layer2/);
    expect(stdout).toMatch(/Put back \d of 6 changed layers/);
    expect(existsSync(at("back.onnx"))).toBe(true);
    const found = json("bisect", model, "--step", INT4);
    expect((found["layers"] as { name: string; culprit: boolean }[])[0]).toMatchObject({
      name: "layer2",
      culprit: true,
    });
  });

  it("refuses no changed model, two of them, a bad limit, and to overwrite", () => {
    expectMistake(["bisect", model], /No changed model was named/);
    expectMistake(["bisect", model, changed, "--step", INT4], /A changed model and steps were named/);
    expectMistake(["bisect", model, changed, "--drop", "0"], /a number above 0/);
    expectMistake(["bisect", model, at("absent.onnx")], /absent\.onnx/);
    expectMistake(["bisect", model, changed, "-o", model, "--threads", "1"], /exists/);
  });
});

describe("pare restore", () => {
  it("puts back what a step before did too much of", () => {
    const steps = ["--step", INT4, "--step", "restore:drop=0.05,by=kl"];
    const report = json("compress", model, ...steps, "-o", at("restored.onnx"));
    const restored = (report["steps"] as { technique: string; changed: { what: string }[] }[])[1];
    expect(restored?.technique).toBe("restore");
    expect(restored?.changed.map(({ what }) => what)).toContain("layer2");
  });

  it("refuses to run without a drop, or with a measure that is not known", () => {
    expectMistake(["restore", model, "-o", at("no.onnx")], /drop/);
    const steps = ["--step", INT4, "--step", "restore:drop=0.05,by=kll"];
    expectMistake(["compress", model, ...steps, "-o", at("no.onnx")], /kll/);
  });
});

describe("pare explain", () => {
  it("shows a layer as text and as a page", () => {
    const { status, stdout } = pare("explain", model, "layer2", changed, "-o", at("page.html"));
    expect(status).toBe(0);
    expect(stdout).toMatch(/^layer2: MatMul, now MatMulNBits/);
    expect(readFileSync(at("page.html"), "utf8")).toMatch(/^<!doctype html>/i);
    expect(json("explain", model, "w2", "--step", INT4)).toMatchObject({ original: model });
  });

  it("refuses a layer that is not there, and to overwrite", () => {
    expectMistake(["explain", model, "layr2", changed], /layr2/);
    expectMistake(["explain", model, "layer2"], /No changed model was named/);
    expectMistake(["explain", model, "layer2", changed, "-o", model], /The output exists/);
  });
});
