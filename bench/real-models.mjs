/**
 * Accuracy, bytes and speed of the first techniques on real networks, side by side with fp32. Needs ../shared/data.
 * `node bench/real-models.mjs [--out bench/runs/real-models.json] [--rounds 15] [--threads 2] [model …]` after `npm run build`.
 * Writes its figures to the file and a table to stdout. Networks whose data has one part only are calibrated on one half and judged on the other, both ways.
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { pairedDifference, wilsonInterval } from "../dist/base/statistics.js";
import { openDataset } from "../dist/data/open.node.js";
import { evaluate } from "../dist/evaluate/evaluate.node.js";
import { latencyRatio } from "../dist/evaluate/latency.js";
import { machineInfo } from "../dist/evaluate/machine.node.js";
import { sizeOf } from "../dist/evaluate/size.node.js";
import { cloneModel } from "../dist/ir/clone.js";
import { loadFile } from "../dist/ir/load.node.js";
import { feedChunks } from "../dist/run/feeds.js";
import { openSession } from "../dist/run/open-session.node.js";
import { Journal } from "../dist/techniques/journal.js";
import { pruneWeights } from "../dist/techniques/prune/weights/prune-weights.js";
import { cast } from "../dist/techniques/quantize/cast.js";
import { quantizeDynamic } from "../dist/techniques/quantize/quantize-dynamic.js";
import { quantizeWeights } from "../dist/techniques/quantize/weights/quantize-weights.js";
import { quantize } from "../dist/techniques/quantize/static/quantize.js";
import { simplify } from "../dist/techniques/simplify/simplify.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string", default: join(root, "bench", "runs", "real-models.json") },
    data: { type: "string", default: join(root, "..", "shared", "data") },
    rounds: { type: "string", default: "15" },
    threads: { type: "string", default: String(Math.min(2, cpus().length)) },
    samples: { type: "string", default: "128" },
  },
});
const data = values.data;
const [rounds, threads, samples] = [values.rounds, values.threads, values.samples].map(Number);
if (!existsSync(data)) {
  console.error(`skipped: needs ${data}`);
  process.exit(0);
}

/** Samples in a run of the second timing. */
const BATCH = 8;
const NORM = "scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225";
const imagenet = (preprocessing) =>
  `images:${data}/imagenet-mini/images?labels=${data}/imagenet-mini/labels.csv&classes=1000&${preprocessing}`;
/** Where each network's samples are: two parts, or one that is halved. */
const NETWORKS = {
  "resnet20-cifar10": {
    calibrate: `cifar10:${data}/cifar10-exact?split=train&${NORM}`,
    judge: `cifar10:${data}/cifar10-exact?split=test&${NORM}`,
  },
  "mobilenetv2-imagenet": { halves: imagenet(`crop=224&${NORM}`) },
  "squeezenet1.1-imagenet": { halves: imagenet(`crop=224&${NORM}`) },
  "mcunet-imagenet": { halves: imagenet("resize=176&crop=176&scale=127.5&mean=1") },
  "lenet5-mnist": { calibrate: `idx:${data}/mnist?split=train&scale=256`, judge: `idx:${data}/mnist?split=test&scale=256` },
  "dscnn-kws": {
    halves: `npz:${data}/audio/kws01/kws01-features.npy?labels=${data}/audio/kws01/kws01-labels.npy&scale=1.7102788&mean=48.5301`,
  },
};
const VARIANTS = {
  "fp32, simplified": [simplify()],
  fp16: [cast()],
  "fp16 as storage": [cast({ storage: true })],
  "int8 dynamic": [quantizeDynamic()],
  "int8 static": [quantize({ samples })],
  "int8 weights": [quantizeWeights({ bits: 8 })],
  "int4 weights": [quantizeWeights({ bits: 4 })],
  "int2 weights": [quantizeWeights({ bits: 2 })],
  "50 % sparse": [pruneWeights({ ratio: 0.5 })],
  "2:4 sparse": [pruneWeights({ pattern: "2:4" })],
};

/** Calibration and judging sets. Halves are used both ways, so that every sample is judged by a model that was not calibrated on it. */
async function foldsOf({ calibrate, judge, halves }) {
  if (!halves) return [[await openDataset(calibrate), await openDataset(judge)]];
  const all = await openDataset(halves);
  const [a, b] = [all.subset({ part: [0, 0.5], seed: 7 }), all.subset({ part: [0.5, 1], seed: 7 })];
  return [
    [a, b],
    [b, a],
  ];
}

async function run(steps, original, calibration) {
  let model = cloneModel(original);
  for (const { technique, options } of steps)
    model = await technique.run(model, options, {
      data: calibration,
      evaluation: undefined,
      original,
      seed: 1,
      provider: "cpu",
      threads,
      signal: undefined,
      journal: new Journal(),
      onProgress() {},
    });
  return model;
}

/** 1 where the sample is classified rightly, over all folds in order. */
async function hits(models, folds) {
  const all = [];
  for (const [index, [, judged]] of folds.entries()) {
    const { rows } = await evaluate(models[index] ?? models[0], judged, { metrics: ["accuracy"], threads });
    for (const rank of rows.ranks) all.push(rank === 0 ? 1 : 0);
  }
  return all;
}

const { cpu, features, versions } = machineInfo();
const about = {
  date: new Date().toISOString(),
  command: `node bench/real-models.mjs ${process.argv.slice(2).join(" ")}`.trim(),
  machine: { cpu, features, versions },
  threads,
  batch: BATCH,
  calibrationSamples: samples,
};
mkdirSync(dirname(values.out), { recursive: true });

const rows = [];
for (const name of positionals.length > 0 ? positionals : Object.keys(NETWORKS)) {
  const original = await loadFile(join(data, "models", `${name}.onnx`));
  const folds = await foldsOf(NETWORKS[name]);
  const reference = await openSession(original, { threads });
  const feedsOf = async (size) =>
    feedChunks(reference.inputs, await folds[0][1].take(Array.from({ length: size }, (_, i) => i)))[0].feeds;
  const batches = await Promise.all([1, BATCH].map(feedsOf));
  const base = await hits([original], folds);
  const measure = async (variant, models) => {
    const right = await hits(models, folds);
    const accuracy = wilsonInterval(right.reduce((a, b) => a + b, 0), right.length);
    const difference = pairedDifference(right, base);
    const { bytes, brotliBytes, brotliQuality } = await sizeOf(models[0]);
    const session = await openSession(models[0], { threads });
    const times = [];
    for (const feeds of batches) times.push((await latencyRatio(reference, session, feeds, { rounds })).ratio);
    await session.close();
    rows.push({
      network: name,
      variant,
      samples: right.length,
      accuracy,
      difference,
      bytes,
      brotliBytes,
      brotliQuality,
      latencyRatio: times[0],
      latencyRatioBatch: times[1],
    });
    console.error(text(rows.at(-1)));
  };
  await measure("fp32", [original]);
  for (const [variant, steps] of Object.entries(VARIANTS)) {
    try {
      const calibrated = steps.some(({ technique }) => technique.needs.includes("calibration"));
      const models = [];
      for (const [calibration] of calibrated ? folds : folds.slice(0, 1)) models.push(await run(steps, original, calibration));
      await measure(variant, models);
    } catch (error) {
      rows.push({ network: name, variant, error: error.message });
      console.error(`${name} | ${variant} | ${error.message}`);
    }
  }
  await reference.close();
  // What is measured is kept if the rest is not
  writeFileSync(values.out, `${JSON.stringify({ ...about, rows }, undefined, 2)}\n`);
}

function percent(value) {
  return (100 * value).toFixed(1);
}

function speed({ value, low, high }) {
  return `${(1 / value).toFixed(2)}× (${(1 / high).toFixed(2)}–${(1 / low).toFixed(2)})`;
}

function text(row) {
  const { network, variant, error, accuracy, difference, bytes, brotliBytes } = row;
  if (error) return `| ${network} | ${variant} | ${error} | | | | | |`;
  const cells = [
    network,
    variant,
    `${percent(accuracy.value)} (${percent(accuracy.low)}–${percent(accuracy.high)})`,
    `${percent(difference.value)} (${percent(difference.low)}–${percent(difference.high)})`,
    bytes,
    brotliBytes,
    speed(row.latencyRatio),
    speed(row.latencyRatioBatch),
  ];
  return `| ${cells.join(" | ")} |`;
}

const markdown = [
  `Measured ${about.date} on ${cpu} (${features.join(", ")}), ${threads} threads: \`${about.command}\`.`,
  `Accuracy in percent and its difference to fp32 on the same samples, with 95 % intervals; speed over fp32, timed in turns, at batch 1 and ${BATCH}.`,
  "",
  `| network | variant | accuracy | difference | bytes | brotli bytes | speed, batch 1 | speed, batch ${BATCH} |`,
  "|---|---|---|---|---|---|---|---|",
  ...rows.map(text),
  "",
].join("\n");
console.log(markdown);
process.exit(0);
