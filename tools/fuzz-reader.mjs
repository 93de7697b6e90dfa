/**
 * Fuzzes the reader: `node tools/fuzz-reader.mjs [CASES] [SEED] [FIGURES.json]` loads that many damaged copies of generated
 * models and, where shared/data lies beside the checkout, of real ones (tests/onnx/fuzz.test.ts). Without a file name the
 * figures go to tests/onnx/fuzz-run.json, which is the run that is committed.
 */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const require = createRequire(import.meta.url);
const [cases = "100000", seed = "1", figures = join(root, "tests", "onnx", "fuzz-run.json")] = process.argv.slice(2);
if (!/^\d+$/.test(cases) || !/^\d+$/.test(seed)) {
  console.error("Usage: node tools/fuzz-reader.mjs [CASES] [SEED] [FIGURES.json]");
  process.exit(2);
}
const vitest = join(dirname(require.resolve("vitest/package.json")), "vitest.mjs");
const env = {
  ...process.env,
  PARE_FUZZ_CASES: cases,
  PARE_FUZZ_SEED: seed,
  PARE_FUZZ_FIGURES: resolve(figures),
};
const { status } = spawnSync(process.execPath, [vitest, "run", "tests/onnx/fuzz.test.ts"], {
  cwd: root,
  env,
  stdio: "inherit",
});
process.exit(status ?? 1);
