/**
 * Training steps (forward, loss, backward, SGD with momentum) in pare and, when python3 has PyTorch, in PyTorch: in turns,
 * each run in a process of its own, at every thread count up to the machine's, the best one counted; peak memory of both.
 * jax-js takes a few steps of the networks that bench/train-step-jax.mjs knows, where PARE_JAX names a folder that has it.
 * On a machine that does other work too, `--under "chrt -f 1"` starts every run by such a command, `--pause 3` waits so many
 * seconds before each.
 * `node bench/train-step.mjs [--rounds 3] [--steps 30] [network …]` after `npm run build`. Writes bench/runs/train-step.json.
 */
import { spawnSync } from "node:child_process";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { NETWORKS } from "./networks.mjs";
import { median, settle, writeRun } from "./support.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "3" },
    steps: { type: "string", default: "30" },
    under: { type: "string", default: "" },
    pause: { type: "string", default: "0" },
  },
});
const networks = positionals.length > 0 ? positionals : Object.keys(NETWORKS);
const [rounds, wanted] = [values.rounds, values.steps].map(Number);
const threadCounts = [...new Set([1, 2, Math.ceil(cpus().length / 2), cpus().length])].filter((n) => n <= cpus().length);
const here = dirname(fileURLToPath(import.meta.url));

const probe = spawnSync("python3", ["-c", "import torch; print(torch.__version__)"], { encoding: "utf8" });
const torch = probe.status === 0 ? probe.stdout.trim() : undefined;
if (!torch) console.error("PyTorch was not found: only pare is measured");

/** Networks that are also written for jax-js, and how many steps it takes of each. */
const JAX_STEPS = process.env.PARE_JAX ? { "lenet-300-100": 20, "lenet-5": 2 } : {};

const under = values.under.split(" ").filter((word) => word !== "");

function child(command, args) {
  settle();
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000 * Number(values.pause));
  const [first, ...rest] = [...under, command, ...args.map(String)];
  const { status, stdout, stderr } = spawnSync(first, rest, { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout.trim().split("\n").at(-1));
}

/** The thread count with the shortest median step; memory is that of its hungriest run. */
function best(runs) {
  return [...runs]
    .map(([threads, list]) => ({
      threads,
      seconds: median(list.map((each) => each.median)),
      min: Math.min(...list.map((each) => each.min)),
      peakBytes: Math.max(...list.map((each) => each.peakBytes)),
      emptyBytes: Math.max(...list.map((each) => each.emptyBytes)),
    }))
    .sort((a, b) => a.seconds - b.seconds)[0];
}

const rows = [];
for (const name of networks) {
  const { batch, steps: share } = NETWORKS[name];
  const steps = Math.max(5, Math.round(wanted * share));
  const found = { pare: new Map(), torch: new Map() };
  const note = (runs, threads, result) => runs.set(threads, [...(runs.get(threads) ?? []), result]);
  for (let round = 0; round < rounds; round++)
    for (const threads of threadCounts) {
      note(found.pare, threads, child(process.execPath, [join(here, "train-step-child.mjs"), name, batch, steps, threads, "best"]));
      if (torch) note(found.torch, threads, child("python3", [join(here, "train-step.py"), batch, steps, threads, name]));
    }
  const [pare, peer] = [best(found.pare), torch ? best(found.torch) : undefined];
  const jaxSteps = JAX_STEPS[name];
  const jax = jaxSteps && child(process.execPath, [join(here, "train-step-jax.mjs"), name, batch, jaxSteps]);
  rows.push({
    network: name,
    batch,
    steps,
    pareSeconds: pare.seconds,
    pareThreads: pare.threads,
    torchSeconds: peer?.seconds,
    torchThreads: peer?.threads,
    pareMinSeconds: pare.min,
    torchMinSeconds: peer?.min,
    ratio: peer && pare.seconds / peer.seconds,
    ratioOfMins: peer && pare.min / peer.min,
    parePeakBytes: pare.peakBytes,
    torchPeakBytes: peer?.peakBytes,
    pareEmptyBytes: pare.emptyBytes,
    torchEmptyBytes: peer?.emptyBytes,
    ratioOfPeaks: peer && pare.peakBytes / peer.peakBytes,
    jaxSeconds: jax?.median,
    jaxPeakBytes: jax?.peakBytes,
    jaxVersion: jax?.version,
    all: { pare: [...found.pare], torch: [...found.torch] },
  });
  const side = (entry) => (entry ? `${(entry.seconds * 1000).toFixed(2)} ms (${entry.threads} threads, ${(entry.peakBytes / 2 ** 20).toFixed(0)} MiB)` : "not measured");
  const ratio = peer ? `, ratio ${(pare.seconds / peer.seconds).toFixed(2)} (of the fastest steps: ${(pare.min / peer.min).toFixed(2)})` : "";
  const third = jax ? `, jax-js ${(jax.median * 1000).toFixed(1)} ms` : "";
  console.log(`${name}, batch ${batch}: pare ${side(pare)}, PyTorch ${side(peer)}${third}${ratio}`);
}
writeRun("train-step", rows, { versions: { torch: torch ?? "absent", jaxJs: rows.find((row) => row.jaxVersion)?.jaxVersion ?? "absent" } });
