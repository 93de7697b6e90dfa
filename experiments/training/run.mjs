/**
 * Trains and judges from the command line and records what came out: `node experiments/training/run.mjs [--threads N]
 * [NAME …]`, by default all of experiments.mjs on all cores. Needs the data sets in ../shared/data beside the checkout. Afterwards README.md is written
 * anew by readme.mjs.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { measureNode, pare, root } from "../../bench/support.mjs";
import { machineInfo } from "../../dist/evaluate/machine.node.js";
import { EXPERIMENTS } from "./experiments.mjs";

const shared = join(root, "..", "shared", "data");
const runs = join(dirname(fileURLToPath(import.meta.url)), "runs");
const { values, positionals: wanted } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: "string", default: "0" } },
});
const unknown = wanted.filter((name) => !EXPERIMENTS.some((experiment) => experiment.name === name));
if (unknown.length > 0) {
  console.error(`No experiment ${unknown.join(", ")}; there are ${EXPERIMENTS.map(({ name }) => name).join(", ")}`);
  process.exit(2);
}

if (!existsSync(shared)) {
  console.error(`skipped: needs ${shared}`);
  process.exit(0);
}

/** The folder that an experiment's data names start from. */
function dataFolder({ archive }) {
  if (archive === undefined) return shared;
  const folder = join(tmpdir(), "pare-unpacked");
  if (!existsSync(join(folder, archive.replace(/\.tar\.gz$/, "")))) {
    mkdirSync(folder, { recursive: true });
    const { status } = spawnSync("tar", ["-xzf", join(shared, archive), "-C", folder], { stdio: "inherit" });
    if (status !== 0) throw new Error(`${archive} did not unpack`);
  }
  return folder;
}

/** A command as one types it: arguments that a shell would take apart are quoted. */
const typed = (args) => args.map((arg) => (/^[\w./:=-]+$/.test(arg) ? arg : `'${arg}'`)).join(" ");

const round = (value) => Number(value.toPrecision(4));

for (const experiment of EXPERIMENTS.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
  process.chdir(dataFolder(experiment));
  const scratch = mkdtempSync(join(tmpdir(), "pare-training-"));
  const model = join(scratch, "model.onnx");
  const train = ["train", experiment.network, "--data", experiment.data, ...experiment.flags.split(" ")];
  if (values.threads !== "0") train.push("--threads", values.threads);
  const evaluate = ["--data", experiment.test, "--json"];
  console.error(`${experiment.name}: training`);
  const start = round(loadavg()[0]);
  try {
    const trained = await measureNode([pare, ...train, "-o", model, "--json"]);
    const end = round(loadavg()[0]);
    console.error(`${experiment.name}: ${Math.round(trained.seconds)} s`);
    const judged = await measureNode([pare, "evaluate", model, ...evaluate]);
    const { epochs, secondsPerStep, steps } = JSON.parse(trained.stdout);
    const { versions, ...machine } = machineInfo();
    const record = {
      experiment: experiment.name,
      train: typed(["pare", ...train, "-o", "model.onnx"]),
      evaluate: typed(["pare", "evaluate", "model.onnx", ...evaluate]),
      date: new Date().toISOString().slice(0, 10),
      machine,
      versions,
      load: { start, end },
      seconds: round(trained.seconds),
      processorSeconds: round(trained.cpuSeconds),
      peakBytes: trained.peakBytes,
      steps,
      secondsPerStep: round(secondsPerStep),
      epochs,
      result: JSON.parse(judged.stdout),
    };
    mkdirSync(runs, { recursive: true });
    writeFileSync(join(runs, `${experiment.name}.json`), `${JSON.stringify(record, null, 2)}\n`);
    console.error(`${experiment.name}: ${JSON.stringify(record.result.metrics)}`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
process.chdir(root);
spawnSync(process.execPath, [join(root, "experiments", "training", "readme.mjs")], { stdio: "inherit" });
