/**
 * Training steps (forward, loss, backward, SGD with momentum) in pare and, when python3 has PyTorch, in PyTorch, in turns:
 * each at every thread count up to the machine's, the best one counted.
 * `node bench/train-step.mjs [--batch 128] [--rounds 3] [network …]` after `npm run build`. Writes bench/runs/train-step.json.
 */
import { spawnSync } from "node:child_process";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { buildArchitecture } from "../dist/architectures/build.js";
import { openSession } from "../dist/run/open-session.node.js";
import { buildStepGraph } from "../dist/train/step-graph.js";
import { median, writeRun } from "./support.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    batch: { type: "string", default: "128" },
    rounds: { type: "string", default: "3" },
    steps: { type: "string", default: "30" },
  },
});
const networks = positionals.length > 0 ? positionals : ["lenet-300-100", "lenet-5", "small-cnn", "resnet-20"];
const [batch, rounds, wanted] = [values.batch, values.rounds, values.steps].map(Number);
const threadCounts = [...new Set([1, 2, Math.ceil(cpus().length / 2), cpus().length])].filter((n) => n <= cpus().length);
const script = join(dirname(fileURLToPath(import.meta.url)), "train-step.py");
/** Small networks take more steps, so that a round lasts about as long for each. */
const FACTORS = { "lenet-300-100": 8, "small-cnn": 0.5, "resnet-20": 0.2 };
const stepsOf = (name) => Math.max(5, Math.round(wanted * (FACTORS[name] ?? 1)));

const probe = spawnSync("python3", ["-c", "import torch; print(torch.__version__)"], { encoding: "utf8" });
const torch = probe.status === 0 ? probe.stdout.trim() : undefined;
if (!torch) console.error("PyTorch was not found: only pare is measured");

async function pareSeconds(name, threads, steps) {
  const model = buildArchitecture(name);
  const graph = buildStepGraph(model, { batch });
  const session = await openSession(graph.model, { inProcess: true, threads });
  const resident = await session.resident(await graph.initialState(), graph.links);
  const shape = [batch, ...model.graph.inputs[0].shape.slice(1)];
  const data = Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, () => Math.random());
  const labels = BigInt64Array.from({ length: batch }, (_, i) => BigInt(i % 10));
  const feeds = {
    input: { dtype: "float32", shape, data },
    [graph.labels]: { dtype: "int64", shape: [batch], data: labels },
  };
  const seconds = [];
  for (let step = 0; step < steps + 3; step++) {
    const start = performance.now();
    await resident.step({ ...feeds, ...graph.scalars({ step, learningRate: 0.01 }) }, [graph.loss]);
    seconds.push((performance.now() - start) / 1000);
  }
  await session.close();
  const counted = seconds.slice(3);
  return { median: median(counted), min: Math.min(...counted) };
}

function torchSeconds(name, threads, steps) {
  const { status, stdout, stderr } = spawnSync("python3", [script, batch, steps, threads, name].map(String), {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout);
}

const rows = [];
for (const name of networks) {
  const found = { pare: new Map(), torch: new Map() };
  const note = (map, threads, seconds) => map.set(threads, [...(map.get(threads) ?? []), seconds]);
  for (let round = 0; round < rounds; round++)
    for (const threads of threadCounts) {
      note(found.pare, threads, await pareSeconds(name, threads, stepsOf(name)));
      if (torch) note(found.torch, threads, torchSeconds(name, threads, stepsOf(name)));
    }
  const best = (map) =>
    [...map]
      .map(([threads, list]) => ({
        threads,
        seconds: median(list.map((each) => each.median)),
        min: Math.min(...list.map((each) => each.min)),
      }))
      .sort((a, b) => a.seconds - b.seconds)[0];
  const [pare, peer] = [best(found.pare), best(found.torch)];
  rows.push({
    network: name,
    batch,
    pareSeconds: pare.seconds,
    pareThreads: pare.threads,
    torchSeconds: peer?.seconds,
    torchThreads: peer?.threads,
    pareMinSeconds: pare.min,
    torchMinSeconds: peer?.min,
    ratioOfMins: peer ? pare.min / peer.min : undefined,
    ratio: peer ? pare.seconds / peer.seconds : undefined,
    all: { pare: [...found.pare], torch: [...found.torch] },
  });
  const ms = (entry) => (entry ? `${(entry.seconds * 1000).toFixed(2)} ms (${entry.threads} threads)` : "not measured");
  const ratio = peer ? `, ratio ${(pare.seconds / peer.seconds).toFixed(2)}` : "";
  const mins = peer ? ` (of the fastest steps: ${(pare.min / peer.min).toFixed(2)})` : "";
  console.log(`${name}, batch ${batch}: pare ${ms(pare)}, PyTorch ${ms(peer)}${ratio}${mins}`);
}
writeRun("train-step", rows, { versions: { torch: torch ?? "absent" } });
