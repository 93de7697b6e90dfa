/** `pare train`: every option as a flag, mistakes in one line, what it writes. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { trainingSchema } from "../../src/train/training-schema.ts";
import { kebabCase } from "../../src/techniques/recipe.ts";

const folder = mkdtempSync(join(tmpdir(), "pare-train-cli-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const command = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "dist", "cli", "main.node.js");

const DATA = "glyphs:?count=256&scale=255";

function pare(...args: string[]): { code: number | null; out: string; error: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], { encoding: "utf8" });
  return { code: status, out: stdout, error: stderr };
}

const train = (...args: string[]): ReturnType<typeof pare> =>
  pare("train", "mlp", "--data", DATA, "--epochs", "2", "--batch", "32", "--threads", "1", ...args);

describe("pare train", () => {
  test("has a flag for every option, in its help", () => {
    const { out } = pare("train", "--help");
    for (const name of Object.keys(trainingSchema.shape)) expect(out).toContain(`--${kebabCase(name)} `);
  });

  test("prints one JSON document; the page is written beside the model, and again from the document", () => {
    const [model, page, again] = ["a.onnx", "a.html", "b.html"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    const { code, out, error } = train(
      "-o",
      model,
      "--validation",
      DATA,
      "--report",
      page,
      "--json",
      "--patience",
      "5",
    );
    expect([code, error.match(/epoch \d: loss/g)?.length]).toEqual([0, 2]);
    const document = JSON.parse(out) as { epochs: unknown[]; best: { epoch: number } };
    expect(document).toMatchObject({ output: model, epochs: [{ epoch: 1 }, { epoch: 2 }], stoppedEarly: false });
    expect(existsSync(model)).toBe(true);
    writeFileSync(join(folder, "a.json"), out);
    expect(pare("report", join(folder, "a.json"), "-o", again).code).toBe(0);
    expect(readFileSync(again, "utf8")).toBe(readFileSync(page, "utf8"));
    expect(error).not.toContain("\u001b"); // no cursor is moved where there is no terminal
  });

  test("finds a learning rate without writing a model", () => {
    const found = train("--find-learning-rate");
    expect(found.code).toBe(0);
    expect(found.out).toMatch(/Suggested .*--learning-rate \d/);
    const { suggestion, points } = JSON.parse(train("--find-learning-rate", "--json").out) as {
      suggestion: number;
      points: unknown[];
    };
    expect(suggestion).toBeGreaterThan(0);
    expect(points.length).toBeGreaterThan(10);
  });

  const output = join(folder, "x.onnx");
  const mistakes: [string, string[], RegExp][] = [
    ["no output", [], /Add -o/],
    ["early stopping without validation", ["-o", output, "--patience", "2"], /--validation/],
    ["a term without a teacher", ["-o", output, "--terms", "soft-logits"], /--teacher/],
    ["an unknown loss", ["-o", output, "--terms", "soft-logit"], /'soft-logits'/],
    ["an unknown setting of a term", ["-o", output, "--terms", "cross-entropy:smoothing=1"], /label-smoothing/],
    ["an unknown optimizer", ["-o", output, "--optimizer", "adamm"], /adamw/],
    ["a number out of range", ["-o", output, "--averaging", "2"], /averaging/],
    ["a group without settings", ["-o", output, "--group", "fc1"], /pattern:rate/],
    ["a batch that cannot be split", ["-o", output, "--accumulate", "3"], /divisor/],
    ["label smoothing of another loss", ["-o", output, "--loss", "bce", "--label-smoothing", "0.1"], /cross-entropy/],
    ["resuming from nothing", ["-o", output, "--resume"], /--checkpoint/],
  ];
  for (const [name, args, said] of mistakes)
    test(`${name}: one line with a way out`, () => {
      const { code, error } = train(...args);
      expect(code).toBe(2);
      expect(error.trim().split("\n")).toHaveLength(1);
      expect(error).toMatch(said);
      expect(existsSync(output)).toBe(false);
    });

  test("a pattern that matches nothing is said, with the nearest name", () => {
    const { code, error } = train("-o", join(folder, "p.onnx"), "--freeze", "fc1.weigth");
    expect(code).toBe(0);
    expect(error).toContain("pattern 'fc1.weigth' matches nothing");
  });
});
