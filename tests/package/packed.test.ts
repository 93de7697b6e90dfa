import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { VERSION } from "../../src/base/version.ts";

const root = join(import.meta.dirname, "..", "..");
const run = (command: string, args: readonly string[], cwd: string): string =>
  execFileSync(command, [...args], { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

describe("the packed package, installed into an empty folder", () => {
  let folder = "";
  let files: string[] = [];

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "pare-packed-"));
    const [packed] = JSON.parse(
      run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], root),
    ) as [{ filename: string; files: { path: string }[] }];
    files = packed.files.map((file) => file.path);
    writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }));
    run("npm", ["install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", packed.filename], folder);
  }, 300_000);

  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("has the command, and it tells its version", () => {
    expect(run(join(folder, "node_modules", ".bin", "pare"), ["--version"], folder).trim()).toBe(VERSION);
  });

  it("exports the library with types, and a Node program can compress with it", () => {
    const program = `
      import { load, save, compress, simplify, quantizeWeights, buildArchitecture } from "pare";
      const model = buildArchitecture("lenet-300-100", { seed: 1 });
      const { model: small, report } = await compress(model, [simplify(), quantizeWeights({ bits: 4 })], { seed: 1 });
      await save(small, "small.onnx");
      const again = await load("small.onnx");
      console.log(JSON.stringify({ ratio: report.ratio, nodes: again.graph.nodes.length }));
      process.exit(0);`;
    writeFileSync(join(folder, "program.mjs"), program);
    const result = JSON.parse(run(process.execPath, ["program.mjs"], folder)) as { ratio: number; nodes: number };
    expect(result.ratio).toBeGreaterThan(5);
    expect(result.nodes).toBeGreaterThan(3);
    expect(existsSync(join(folder, "node_modules", "pare", "dist", "index.d.ts"))).toBe(true);
  });

  it("carries what it needs and nothing else", () => {
    expect(files).toContain("LICENSE");
    expect(files.some((path) => path.endsWith("kernels-wasm.js"))).toBe(true);
    expect(files.filter((path) => /^(src|tests|bench|tools)\//.test(path))).toEqual([]);
  });

  it("has one version everywhere", () => {
    const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
    expect(manifest.version).toBe(VERSION);
  });
});
