/** Speed of the SIMD kernels against their plain TypeScript references, side by side in one process. Run: node bench/kernels.mjs [MiB] */
import { cpus } from "node:os";
import { Rng } from "../dist/base/rng.js";
import { loadKernels } from "../dist/kernels/kernels.js";
import { plainKernels } from "../dist/kernels/reference/plain-kernels.js";

const MEBI = 2 ** 20;
const megabytes = Number(process.argv[2] ?? 64);
const json = process.argv.includes("--json");
const kernels = await loadKernels();
const cols = 4096;
const rows = (megabytes * MEBI) / 4 / cols;
const rng = new Rng(1);
const w = Float32Array.from({ length: rows * cols }, () => rng.normal(0, 0.05));
const other = w.map((x) => x * 1.01);
const halves = kernels.toFloat16(w).bits;
const mask = kernels.magnitudeMask(w, 0.05, 0).mask;
const counts = new Float64Array(2048);
const rowsLayout = { outer: 1, channels: rows, inner: cols };
const columnsLayout = { outer: rows, channels: cols, inner: 1 };
const int4 = { bits: 4, block: 32 };

/** Bandwidths are of the float32 side. `small` cases are slow in plain TypeScript: it gets a part of the rows. */
const CASES = [
  ["quantizeBlocks int4/32 symmetric", (k, x, r) => k.quantizeBlocks(x, r, cols, int4)],
  ["quantizeBlocks int4/32 asymmetric", (k, x, r) => k.quantizeBlocks(x, r, cols, { ...int4, symmetric: false })],
  ["quantizeBlocks int8/32 symmetric", (k, x, r) => k.quantizeBlocks(x, r, cols, { bits: 8, block: 32 })],
  ["quantizeBlocks int2/32 symmetric", (k, x, r) => k.quantizeBlocks(x, r, cols, { bits: 2, block: 32 })],
  ["quantizeBlocks int4/32 mse", (k, x, r) => k.quantizeBlocks(x, r, cols, { ...int4, scale: "mse" })],
  ["quantizeBlocksTransposed int4/32", (k, x, r) => k.quantizeBlocksTransposed(x, r, cols, int4)],
  ["quantizeChannels int8 rows", (k, x, r) => k.quantizeChannels(x, { ...rowsLayout, channels: r })],
  ["quantizeChannels int8 columns", (k, x, r) => k.quantizeChannels(x, { ...columnsLayout, outer: r })],
  ["quantizeChannels int8 rows mse", (k, x, r) => k.quantizeChannels(x, { ...rowsLayout, channels: r }, { scale: "mse" })],
  ["toFloat16", (k, x) => k.toFloat16(x)],
  ["toBfloat16", (k, x) => k.toBfloat16(x)],
  ["fromFloat16", (k, x) => k.fromFloat16(halves.subarray(0, x.length))],
  ["summarize", (k, x) => k.summarize(x)],
  ["summarizeChannels columns", (k, x, r) => k.summarizeChannels(x, { ...columnsLayout, outer: r })],
  ["histogram 2048", (k, x) => k.histogram(x, -0.3, 0.3, counts)],
  ["compare (per input)", (k, x) => k.compare(x, other.subarray(0, x.length))],
  ["countMagnitudes", (k, x) => k.countMagnitudes(x, 20, 0, counts)],
  ["magnitudeMask", (k, x) => k.magnitudeMask(x, 0.05, 0)],
  ["groupMask 2:4 along rows", (k, x, r) => k.groupMask(x, { outer: r, channels: cols, inner: 1 }, 2, 4)],
  ["groupMask 2:4 along columns", (k, x, r) => k.groupMask(x, { outer: 1, channels: r, inner: cols }, 2, 4)],
  ["applyMask", (k, x) => k.applyMask(x, mask.subarray(0, x.length))],
  ["transpose", (k, x, r) => k.transpose(x, r, cols)],
];

/** Best of the runs: fp32 bytes per second. */
function measure(run, set, sharePart) {
  const r = Math.max(32, Math.floor((rows * sharePart) / 32) * 32);
  const x = w.subarray(0, r * cols);
  let best = Infinity;
  const started = performance.now();
  for (let i = 0; i < 20 && (i < 3 || performance.now() - started < 600); i++) {
    const before = performance.now();
    run(set, x, r);
    best = Math.min(best, performance.now() - before);
  }
  return (x.byteLength / best) * 1000;
}

const results = CASES.map(([name, run]) => {
  const simd = measure(run, kernels, name.includes("mse") ? 1 / 8 : 1);
  const plain = measure(run, plainKernels, name.includes("mse") ? 1 / 64 : 1 / 8);
  return { name, simdBytesPerSecond: simd, plainBytesPerSecond: plain, ratio: simd / plain };
});

if (json) console.log(JSON.stringify({ cpu: cpus()[0]?.model, node: process.version, megabytes, results }, null, 2));
else {
  console.log(`${cpus()[0]?.model}, Node.js ${process.version}, ${megabytes} MiB of float32, one thread\n`);
  console.log("| kernel | SIMD GB/s | plain GB/s | ratio |\n|---|---|---|---|");
  for (const { name, simdBytesPerSecond, plainBytesPerSecond, ratio } of results)
    console.log(
      `| ${name} | ${(simdBytesPerSecond / 1e9).toFixed(2)} | ${(plainBytesPerSecond / 1e9).toFixed(2)} | ${ratio.toFixed(1)} |`,
    );
}
