/** `npm test`: everything that must be green, each check counted, closing with "N passed, N failed". */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const bin = (name) => join(root, "node_modules", ".bin", name);
const scratch = mkdtempSync(join(tmpdir(), "pare-test-"));
const report = join(scratch, "vitest.json");
let passed = 0;
let failed = 0;
let skipped = 0;

/** Runs one check as a process; its output is shown as it comes. */
function check(name, command, args) {
  const started = performance.now();
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${status === 0 ? "ok  " : "FAIL"} ${name} (${seconds} s)`);
  if (status === 0) passed++;
  else failed++;
}

check("build", process.execPath, ["tools/build.mjs"]);
check("format", bin("biome"), ["format", "--max-diagnostics=20", "."]);
check("lint", bin("oxlint"), ["--quiet"]);
check("types", bin("tsc"), ["-p", "tsconfig.json"]);

const { status } = spawnSync(
  bin("vitest"),
  ["run", "--reporter=default", "--reporter=json", `--outputFile.json=${report}`],
  {
    cwd: root,
    stdio: "inherit",
  },
);
try {
  const result = JSON.parse(readFileSync(report, "utf8"));
  passed += result.numPassedTests;
  failed += result.numFailedTests;
  skipped += result.numPendingTests + (result.numTodoTests ?? 0);
  // A file that fails to load has no failed test of its own.
  const broken = result.testResults.filter((file) => file.status === "failed" && file.assertionResults.length === 0);
  failed += broken.length;
  if (status !== 0 && result.numFailedTests + broken.length === 0) failed++;
} catch {
  console.log("FAIL the test runner left no report");
  failed++;
}
rmSync(scratch, { recursive: true, force: true });
console.log(`${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ""}`);
process.exit(failed === 0 ? 0 : 1);
