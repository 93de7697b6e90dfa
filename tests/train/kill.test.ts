/** A training process that is killed goes on from its checkpoint to the same file, byte for byte. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const folder = mkdtempSync(join(tmpdir(), "pare-kill-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const command = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "dist", "cli", "main.node.js");

interface Ended {
  readonly code: number | null;
  readonly text: string;
}

/** Runs `pare train` on a synthetic set; `interrupt` is given the process as soon as it runs. */
function train(output: string, extra: readonly string[], interrupt?: (kill: (signal: NodeJS.Signals) => void) => void) {
  const args = ["train", "mlp", "--data", "glyphs:?count=512", "--epochs", "6", "--batch", "16", "--threads", "1"];
  const child = spawn(process.execPath, [command, ...args, "-o", join(folder, output), ...extra]);
  let text = "";
  child.stderr.on("data", (chunk: Buffer) => (text += chunk.toString()));
  interrupt?.((signal) => child.kill(signal));
  return new Promise<Ended>((resolve) => child.on("close", (code) => resolve({ code, text })));
}

async function appears(path: string): Promise<void> {
  while (!existsSync(path)) await new Promise((resolve) => setTimeout(resolve, 5));
}

const hash = (name: string): string =>
  createHash("sha256")
    .update(readFileSync(join(folder, name)))
    .digest("hex");

test("kill -9 and resume", { timeout: 120_000 }, async () => {
  const whole = await train("whole.onnx", []);
  expect(whole).toMatchObject({ code: 0 });
  const checkpoint = join(folder, "run.ckpt");
  const killed = await train("resumed.onnx", ["--checkpoint", checkpoint], async (kill) => {
    await appears(checkpoint);
    kill("SIGKILL");
  });
  expect(killed.code).toBe(null);
  expect(existsSync(join(folder, "resumed.onnx"))).toBe(false);
  const resumed = await train("resumed.onnx", ["--checkpoint", checkpoint, "--resume"]);
  expect(resumed).toMatchObject({ code: 0 });
  expect(hash("resumed.onnx")).toBe(hash("whole.onnx"));
});

test("kill -9 at several points of a run with everything on", { timeout: 180_000 }, async () => {
  const options = [
    "--optimizer adamw --learning-rate 0.002 --weight-decay 0.01 --clip-norm 1 --averaging 0.9 --accumulate 2",
    "--precision mixed --schedule one-cycle --flip --crop 2 --cutout 4 --noise 0.1 --mixup 0.2 --cutmix 1",
    "--validation glyphs:?count=128&split=test --patience 5 --group fc1*:rate=0.5",
  ].flatMap((line) => line.split(" "));
  const whole = await train("all.onnx", options);
  expect(whole).toMatchObject({ code: 0 });
  const checkpoint = join(folder, "all.ckpt");
  const resumable = [...options, "--checkpoint", checkpoint, "--resume"];
  let kills = 0;
  for (const more of [0, 60, 150]) {
    rmSync(join(folder, "again.onnx"), { force: true });
    const before = existsSync(checkpoint) ? statSync(checkpoint).mtimeMs : 0;
    const ended = await train("again.onnx", resumable, async (kill) => {
      while (!existsSync(checkpoint) || statSync(checkpoint).mtimeMs === before)
        await new Promise((resolve) => setTimeout(resolve, 5));
      await new Promise((resolve) => setTimeout(resolve, more));
      kill("SIGKILL");
    });
    if (ended.code === null) kills++;
  }
  expect(kills).toBeGreaterThan(1);
  const resumed = await train("again.onnx", [...resumable, "--force"]);
  expect(resumed).toMatchObject({ code: 0 });
  expect(hash("again.onnx")).toBe(hash("all.onnx"));
});

test("resuming where there is no checkpoint says so and starts", { timeout: 120_000 }, async () => {
  const fresh = await train("fresh.onnx", ["--checkpoint", join(folder, "none.ckpt"), "--resume", "--epochs", "1"]);
  expect(fresh).toMatchObject({ code: 0 });
  expect(fresh.text).toContain("There is no checkpoint yet");
});

test("Ctrl-C stops it with exit code 2 and leaves no output", { timeout: 120_000 }, async () => {
  const checkpoint = join(folder, "stopped.ckpt");
  const stopped = await train("stopped.onnx", ["--checkpoint", checkpoint], async (kill) => {
    await appears(checkpoint);
    kill("SIGINT");
  });
  expect(stopped.code).toBe(2);
  expect(stopped.text).toContain("nothing was written");
  expect(existsSync(join(folder, "stopped.onnx"))).toBe(false);
});
