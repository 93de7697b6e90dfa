/**
 * Static calibration beside plain inference: images per second over resnet20's 1,000 images by each way of choosing ranges, and
 * of the model alone over the same images in the same batches, in turns. A run opens its session, streams the images and, in
 * calibration, ends with the range of every activation. Needs ../shared/data.
 * `node bench/calibration.mjs [--rounds 7] [--samples 1000] [--batch 16] [--threads 1,2]` after `npm run build`. Writes
 * bench/runs/calibration.json.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openDataset } from "../dist/data/open.node.js";
import { loadFile } from "../dist/ir/load.node.js";
import { loadKernels } from "../dist/kernels/kernels.js";
import { openSession } from "../dist/run/open-session.node.js";
import { Journal } from "../dist/techniques/journal.js";
import { observe, rangeOf } from "../dist/techniques/quantize/static/calibrate.js";
import { foldLayers } from "../dist/techniques/quantize/static/fold-layers.js";
import { planQdq } from "../dist/techniques/quantize/static/qdq-plan.js";
import { dataFeeds } from "../dist/techniques/samples.js";
import { SHARED, median, needsData, table, writeRun } from "./support.mjs";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "7" },
    samples: { type: "string", default: "1000" },
    batch: { type: "string", default: "16" },
    threads: { type: "string", default: "1,2" },
  },
});
needsData();
const [rounds, samples, size] = [values.rounds, values.samples, values.batch].map(Number);
const data = await openDataset(
  `cifar10:${SHARED}/cifar10-exact?split=train&scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225`,
);
const model = await loadFile(join(SHARED, "models", "resnet20-cifar10.onnx"));
await foldLayers(model, new Journal());
const names = [...planQdq(model, { reasonToKeep: () => undefined, operators: undefined }).groups.keys()].map(({ name }) => name);
const kernels = await loadKernels();
const stream = () => dataFeeds(model, data, { limit: samples, size, seed: 1, signal: undefined });

/** The model alone. */
async function plain(threads) {
  const session = await openSession(model, { threads });
  for await (const feeds of stream()) await session.run(feeds);
  await session.close();
}

async function calibrate(method, threads) {
  const histograms = method !== "min-max" && method !== "average";
  const observed = await observe(model, names, stream, kernels, { histograms, threads });
  for (const one of observed.values()) rangeOf(one, method, 99.99);
}

const METHODS = ["min-max", "average", "percentile", "entropy", "mse"];
const rows = [];
for (const threads of values.threads.split(",").map(Number)) {
  const seconds = new Map(["plain", ...METHODS].map((method) => [method, []]));
  for (let round = -1; round < rounds; round++)
    for (const [method, list] of seconds) {
      const start = performance.now();
      await (method === "plain" ? plain(threads) : calibrate(method, threads));
      if (round >= 0) list.push((performance.now() - start) / 1000); // the first round warms up
    }
  const base = seconds.get("plain");
  for (const method of METHODS) {
    const own = seconds.get(method);
    rows.push({
      method,
      threads,
      seconds: median(own),
      plainSeconds: median(base),
      ratio: median(own.map((each, round) => base[round] / each)),
      all: own.map((each, round) => base[round] / each),
    });
  }
}
writeRun("calibration", rows, { samples, batch: size, activations: names.length });
console.log(
  table(
    ["threads", "method", "seconds", "plain", "ratio"],
    rows.map((row) => [row.threads, row.method, row.seconds.toFixed(2), row.plainSeconds.toFixed(2), row.ratio.toFixed(2)]),
  ),
);
process.exit(0);
