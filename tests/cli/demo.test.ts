import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Results } from "../../src/search/results.ts";

const command = join(import.meta.dirname, "..", "..", "dist", "cli", "main.node.js");

describe("the demo", () => {
  const folder = mkdtempSync(join(tmpdir(), "pare-demo-"));
  const run = (): { seconds: number; stdout: string; status: number | null } => {
    const started = performance.now();
    const { stdout, status } = spawnSync(process.execPath, [command, "demo", "-o", "out", "--json"], {
      cwd: folder,
      encoding: "utf8",
      maxBuffer: 64 * 2 ** 20,
    });
    return { seconds: (performance.now() - started) / 1000, stdout, status };
  };
  let first: ReturnType<typeof run>;
  beforeAll(() => {
    first = run();
  }, 600_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("trains, compresses by a dozen recipes and more, and draws a front of five models or more", () => {
    expect(first.status).toBe(0);
    const results = JSON.parse(first.stdout) as Results;
    const [baseline, ...entries] = results.entries;
    expect(baseline?.metrics["accuracy"]?.value).toBeGreaterThan(0.95);
    expect(baseline?.metrics["accuracy"]?.value).toBeLessThan(0.99);
    expect(entries.length).toBeGreaterThanOrEqual(12);
    expect(entries.filter((entry) => entry.error)).toEqual([]);
    expect(results.front.length).toBeGreaterThanOrEqual(5);
    // Compression that is too harsh visibly costs.
    expect(Math.min(...entries.map((entry) => entry.metrics["accuracy"]?.value ?? 1))).toBeLessThan(0.8);
  });

  it("writes models, results, front and report", () => {
    const results = JSON.parse(first.stdout) as Results;
    expect(readdirSync(join(folder, "out", "models")).length).toBe(results.entries.length - 1);
    for (const name of ["results.json", "front.json", "front.svg", "report.md", "report.html"])
      expect(existsSync(join(folder, "out", name)), name).toBe(true);
    expect(readFileSync(join(folder, "out", "report.html"), "utf8")).not.toMatch(/src="http/);
  });

  it("goes on where it stopped: a second run measures nothing again", () => {
    const again = run();
    expect(again.status).toBe(0);
    expect(again.seconds).toBeLessThan(first.seconds / 3);
    expect((JSON.parse(again.stdout) as Results).front).toEqual((JSON.parse(first.stdout) as Results).front);
  }, 300_000);
});
