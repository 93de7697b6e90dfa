/** `pare train NAME`: architectures by name from the command line, sized by flags and by the data. */
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";

const command = join(import.meta.dirname, "..", "..", "dist", "cli", "main.node.js");
const folder = mkdtempSync(join(tmpdir(), "pare-train-cli-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const pare = (...args: string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, [command, ...args], { cwd: folder, encoding: "utf8", timeout: 120_000 });

/** Trains one short epoch and gives the written model's inspection. */
function trained(name: string, data: string, ...flags: string[]): Record<string, unknown> {
  const out = ["-o", `${name}.onnx`, "--force", "--epochs", "1", "--batch", "8"];
  const { status, stderr } = pare("train", name, "--data", data, ...out, ...flags);
  expect(stderr.split("\n").filter((line) => line.startsWith("pare:"))).toEqual([]);
  expect(status).toBe(0);
  return JSON.parse(pare("inspect", `${name}.onnx`, "--json").stdout) as Record<string, unknown>;
}

describe("pare train", () => {
  it("sizes an architecture to images, and by its flags", () => {
    const inspected = trained("resnet-20", "glyphs:?count=16&scale=255", "--width", "4", "--blocks", "1");
    expect(inspected["inputs"]).toMatchObject([{ shape: ["batch", 1, 28, 28] }]);
    expect(inspected["outputs"]).toMatchObject([{ shape: ["batch", 10] }]);
    expect(inspected["parameters"]).toBeLessThan(10_000);
  });

  it("sizes a language model to a text", () => {
    writeFileSync(join(folder, "text.txt"), "to be or not to be, that is the question. ".repeat(10));
    const text = "text:text.txt?vocab=chars&length=16";
    const inspected = trained("gpt-nano", text, "--width", "16", "--heads", "2", "--layers", "1");
    const characters = new Set("to be or not to be, that is the question. ").size;
    expect(inspected["inputs"]).toMatchObject([{ name: "input_ids", shape: ["batch", 16] }]);
    expect(inspected["outputs"]).toMatchObject([{ shape: ["batch", 16, characters] }]);
  });

  it("sizes an encoder to labelled sentences, whose numbers of tokens and classes differ", () => {
    writeFileSync(join(folder, "said.tsv"), Array.from({ length: 16 }, (_, i) => `said ${i}\t${i % 3}\n`).join(""));
    const text = "text:said.tsv?format=tsv&vocab=bytes&length=10";
    const inspected = trained("bert-mini", text, "--width", "16", "--heads", "2", "--layers", "1");
    expect(inspected["outputs"]).toMatchObject([{ shape: ["batch", 3] }]);
    const layers = inspected["layers"] as { name: string; parameters: number }[];
    expect(layers.find(({ name }) => name === "tokens")?.parameters).toBe(256 * 16);
  });

  it("lists what exists, and each one's options", () => {
    const { stdout } = pare("train", "--help");
    for (const name of ["mobilenet-v3-small", "bert-mini", "kws"]) expect(stdout).toContain(name);
    expect(stdout).toMatch(/--heads <n>/);
    const unknown = pare("train", "rezzznet", "--data", "glyphs:?count=16", "-o", "x.onnx");
    expect(unknown.status).toBe(2);
    expect(unknown.stderr).toMatch(/Known: mlp, .*resnet-50.*kws/);
    const near = pare("train", "resnet20", "--data", "glyphs:?count=16", "-o", "x.onnx");
    expect(near.stderr).toContain("Did you mean 'resnet-20'?");
  });

  it("refuses options that the architecture does not have, and any of them for a file", () => {
    const lenet = pare("train", "lenet-5", "--heads", "2", "--data", "glyphs:?count=16", "-o", "x.onnx");
    expect(lenet.status).toBe(2);
    expect(lenet.stderr).toMatch(/lenet-5: Unknown option 'heads'; expected one of input, classes/);
    const file = pare("train", "some.onnx", "--heads", "2", "--data", "glyphs:?count=16", "-o", "x.onnx");
    expect(file.status).toBe(2);
    expect(file.stderr).toMatch(/--heads.*does not apply to a model file/);
  });
});
