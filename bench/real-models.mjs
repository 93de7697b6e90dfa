/**
 * Accuracy, bytes and speed of the first techniques on real networks, side by side with fp32. Needs ../shared/data.
 * `node bench/real-models.mjs [--out bench/runs/real-models.json] [--rounds 15] [--threads 2] [model …]` after `npm run build`.
 * Writes its figures to the file and a table to stdout. Networks whose data has one part only are calibrated on one half and judged on the other, both ways.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { pairedDifference, wilsonInterval } from "../dist/base/statistics.js";
import { latencyRatio } from "../dist/evaluate/latency.js";
import { machineInfo } from "../dist/evaluate/machine.node.js";
import { sizeOf } from "../dist/evaluate/size.node.js";
import { openSession } from "../dist/run/open-session.node.js";
import { pruneWeights } from "../dist/techniques/prune/weights/prune-weights.js";
import { cast } from "../dist/techniques/quantize/cast.js";
import { quantizeDynamic } from "../dist/techniques/quantize/quantize-dynamic.js";
import { quantizeWeights } from "../dist/techniques/quantize/weights/quantize-weights.js";
import { quantize } from "../dist/techniques/quantize/static/quantize.js";
import { simplify } from "../dist/techniques/simplify/simplify.js";
import { applied, feedsOf, hits, NETWORKS, openNetwork } from "./real-networks.mjs";
import { SHARED, needsData, runs } from "./support.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string", default: join(runs, "real-models.json") },
    data: { type: "string", default: SHARED },
    rounds: { type: "string", default: "15" },
    threads: { type: "string", default: String(Math.min(2, cpus().length)) },
    samples: { type: "string", default: "128" },
  },
});
const { data } = values;
const [rounds, threads, samples] = [values.rounds, values.threads, values.samples].map(Number);
needsData(data);

/** Samples in a run of the second timing. */
const BATCH = 8;
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
for (const name of positionals.length > 0 ? positionals : NETWORKS) {
  const { original, folds } = await openNetwork(name, data);
  const reference = await openSession(original, { threads });
  const batches = await Promise.all([1, BATCH].map((size) => feedsOf(reference, folds, size)));
  const base = await hits([original], folds, threads);
  const measure = async (variant, models) => {
    const right = await hits(models, folds, threads);
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
      for (const [calibration] of calibrated ? folds : folds.slice(0, 1)) models.push(await applied(steps, original, calibration, threads));
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
