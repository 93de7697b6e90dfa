/** What the benchmarks share: the machine behind a run, where runs are recorded, and what a child process used. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { basename, dirname, isAbsolute, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { machineInfo } from "../dist/evaluate/machine.node.js";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..");
export const runs = join(root, "bench", "runs");
export const pare = join(root, "dist", "cli", "main.node.js");
const startLoad = loadavg()[0];
/** Where the data sets and models of the benchmarks are, beside the repository. */
export const SHARED = join(root, "..", "shared", "data");

/** Ends the benchmark, and says so, where it has no data. */
export function needsData(folder = SHARED) {
  if (existsSync(folder)) return;
  console.error(`skipped: needs ${folder}`);
  process.exit(0);
}

/** An argument as it is typed: in quotes where it has spaces, a path outside the repository by its name alone. */
function asTyped(argument) {
  const text = isAbsolute(argument) ? basename(argument) : argument;
  return /\s/.test(text) ? `'${text}'` : text;
}

/**
 * Writes bench/runs/<name>.json: command, machine, versions, the load of the machine when the run began and ended, rows.
 * Paths outside the repository do not belong into it.
 */
export function writeRun(name, rows, { versions = {}, ...rest } = {}) {
  const { versions: own, ...machine } = machineInfo();
  const script = relative(root, process.argv[1]).replaceAll("\\", "/");
  const record = {
    bench: name,
    command: ["node", script, ...process.argv.slice(2).map(asTyped)].join(" "),
    date: new Date().toISOString().slice(0, 10),
    machine,
    versions: { ...own, ...versions },
    load: { start: round(startLoad), end: round(loadavg()[0]) },
    ...rest,
    rows,
  };
  mkdirSync(runs, { recursive: true });
  writeFileSync(join(runs, `${name}.json`), `${JSON.stringify(record, null, 2)}\n`);
  return record;
}

/** The rows of bench/runs/<name>.json; none where there is no such run. */
export function recorded(name) {
  const file = join(runs, `${name}.json`);
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).rows : [];
}

function round(value) {
  return Number(value.toPrecision(3));
}

export function median(list) {
  const sorted = [...list].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.floor(middle)] + sorted[Math.ceil(middle - 1)]) / 2;
}

/** Rows of texts as a Markdown table. */
export function table(head, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

/** Runs `node …args` and says what it took: wall and processor seconds, peak resident bytes, standard output. */
export async function measureNode(args) {
  const folder = mkdtempSync(join(tmpdir(), "pare-usage-"));
  const file = join(folder, "usage.json");
  const probe = pathToFileURL(join(root, "bench", "usage-probe.mjs")).href;
  const started = performance.now();
  try {
    const { status, stdout, stderr } = await finished(
      spawn(process.execPath, ["--import", probe, ...args], {
        env: { ...process.env, PARE_USAGE_FILE: file },
        stdio: ["ignore", "pipe", "pipe"],
      }),
    );
    const seconds = (performance.now() - started) / 1000;
    if (status !== 0) throw new Error(`${args.join(" ")} ended with ${status}: ${stderr}`);
    return { seconds, ...JSON.parse(readFileSync(file, "utf8")), stdout };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function finished(child) {
  return new Promise((resolve, reject) => {
    const text = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"]) child[name].on("data", (part) => (text[name] += part));
    child.on("error", reject);
    child.on("close", (status) => resolve({ status, ...text }));
  });
}

/** Lets the system write out what earlier work left in its cache, so that the next measurement does not pay for it. */
export function settle() {
  spawnSync("sync");
}
