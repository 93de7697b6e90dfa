/**
 * Accuracy, bytes and speed of the first techniques on real networks, side by side with fp32. Needs ../shared/data.
 * `node bench/real-models.mjs [--out bench/results/real-models] [--rounds 15] [--threads 2] [model …]` after `npm run build`.
 * Writes <out>.json and <out>.md. Networks whose data has one part only are calibrated on one half and judged on the other.
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openDataset } from "../dist/data/open.node.js";
import { evaluate } from "../dist/evaluate/evaluate.node.js";
import { latencyRatio } from "../dist/evaluate/latency.js";
import { sizeOf } from "../dist/evaluate/size.node.js";
import { cloneModel } from "../dist/ir/clone.js";
import { loadFile } from "../dist/ir/load.node.js";
import { feedChunks } from "../dist/run/feeds.js";
import { openSession } from "../dist/run/open-session.node.js";
import { Journal } from "../dist/techniques/journal.js";
import { pruneWeights } from "../dist/techniques/prune/prune-weights.js";
import { cast } from "../dist/techniques/quantize/cast.js";
import { quantizeDynamic } from "../dist/techniques/quantize/quantize-dynamic.js";
import { quantizeWeights } from "../dist/techniques/quantize/quantize-weights.js";
import { quantize } from "../dist/techniques/quantize/quantize.js";
import { simplify } from "../dist/techniques/simplify/simplify.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string", default: join(root, "bench", "results", "real-models") },
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
  "mcunet-imagenet": { halves: imagenet("resize=201&crop=176&scale=127.5&mean=1") },
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

async function partsOf({ calibrate, judge, halves }) {
  if (!halves) return [await openDataset(calibrate), await openDataset(judge)];
  const all = await openDataset(halves);
  return [all.subset({ part: [0, 0.5], seed: 7 }), all.subset({ part: [0.5, 1], seed: 7 })];
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

const rows = [];
for (const name of positionals.length > 0 ? positionals : Object.keys(NETWORKS)) {
  const original = await loadFile(join(data, "models", `${name}.onnx`));
  const [calibration, judged] = await partsOf(NETWORKS[name]);
  const reference = await openSession(original, { threads });
  const [{ feeds }] = feedChunks(reference.inputs, await judged.take([0]));
  const measure = async (variant, model) => {
    const { metrics, samples: count } = await evaluate(model, judged, { metrics: ["accuracy"], threads });
    const { bytes, brotliBytes, brotliQuality } = await sizeOf(model);
    const session = await openSession(model, { threads });
    const { ratio } = await latencyRatio(reference, session, feeds, { rounds });
    await session.close();
    const row = { network: name, variant, samples: count, accuracy: metrics.accuracy, bytes, brotliBytes, brotliQuality, latencyRatio: ratio };
    rows.push(row);
    console.error(text(row));
  };
  await measure("fp32", original);
  for (const [variant, steps] of Object.entries(VARIANTS)) {
    try {
      await measure(variant, await run(steps, original, calibration));
    } catch (error) {
      rows.push({ network: name, variant, error: error.message });
      console.error(`${name} | ${variant} | ${error.message}`);
    }
  }
  await reference.close();
}

function percent(value) {
  return (100 * value).toFixed(1);
}

function text({ network, variant, error, accuracy, bytes, brotliBytes, latencyRatio: ratio }) {
  if (error) return `| ${network} | ${variant} | ${error} | | | |`;
  const interval = `${percent(accuracy.value)} (${percent(accuracy.low)}–${percent(accuracy.high)})`;
  const speed = `${(1 / ratio.value).toFixed(2)}× (${(1 / ratio.high).toFixed(2)}–${(1 / ratio.low).toFixed(2)})`;
  return `| ${network} | ${variant} | ${interval} | ${bytes} | ${brotliBytes} | ${speed} |`;
}

const about = {
  date: new Date().toISOString(),
  command: `node bench/real-models.mjs ${process.argv.slice(2).join(" ")}`.trim(),
  processor: cpus()[0]?.model,
  threads,
  node: process.version,
  calibrationSamples: samples,
};
const markdown = [
  `Measured ${about.date} on ${about.processor}, ${threads} threads, Node ${about.node}: \`${about.command}\`.`,
  "Accuracy in percent with 95 % interval; speed over fp32, timed in turns, with 95 % interval.",
  "",
  "| network | variant | accuracy | bytes | brotli bytes | speed |",
  "|---|---|---|---|---|---|",
  ...rows.map(text),
  "",
].join("\n");
mkdirSync(dirname(values.out), { recursive: true });
writeFileSync(`${values.out}.json`, `${JSON.stringify({ ...about, rows }, undefined, 2)}\n`);
writeFileSync(`${values.out}.md`, markdown);
console.log(markdown);
