/**
 * Speed of the SIMD kernels against their plain TypeScript references: same data, one process, one thread.
 * Time is processor time, so that a busy machine does not make the figures of one core worse.
 * Run after a build: node bench/kernels.mjs [MiB]. Writes bench/runs/kernels.json.
 */
import { cpus } from "node:os";
import { Rng } from "../dist/base/rng.js";
import { loadKernels } from "../dist/kernels/kernels.js";
import { plainKernels } from "../dist/kernels/reference/plain-kernels.js";
import { table, writeRun } from "./support.mjs";

const MEBI = 2 ** 20;
const megabytes = Number(process.argv.find((argument) => /^\d+$/.test(argument)) ?? 16);
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

/** Bandwidths count the float32 side once. */
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

/** The searches for the least error are slow in plain TypeScript: an eighth of the rows has to do, for both. */
const rowsOf = (name) => (name.includes("mse") ? Math.max(32, Math.floor(rows / 256) * 32) : rows);

/** The best of at least three runs: float32 bytes per second of processor time. */
function measure(run, set, rowCount) {
  const x = w.subarray(0, rowCount * cols);
  let best = Infinity;
  const started = performance.now();
  for (let i = 0; i < 20 && (i < 3 || performance.now() - started < 500); i++) {
    const before = process.cpuUsage();
    run(set, x, rowCount);
    const { user, system } = process.cpuUsage(before); // microseconds
    best = Math.min(best, user + system);
  }
  return (x.byteLength / best) * 1e6;
}

const results = CASES.map(([name, run]) => {
  const simd = measure(run, kernels, rowsOf(name));
  const plain = measure(run, plainKernels, rowsOf(name));
  return { name, simdBytesPerSecond: simd, plainBytesPerSecond: plain, ratio: simd / plain };
});

writeRun("kernels", results, { megabytes });
console.log(`${cpus()[0]?.model}, Node.js ${process.version}, ${megabytes} MiB of float32, one thread\n`);
const gigabytes = (bytes) => (bytes / 1e9).toFixed(2);
console.log(
  table(
    ["kernel", "SIMD GB/s", "plain GB/s", "ratio"],
    results.map(({ name, simdBytesPerSecond, plainBytesPerSecond, ratio }) => [
      name,
      gigabytes(simdBytesPerSecond),
      gigabytes(plainBytesPerSecond),
      ratio.toFixed(1),
    ]),
  ),
);
