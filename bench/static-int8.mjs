/**
 * Static quantization of real networks beside the naive form of it (one scale per tensor, ranges of everything seen, nothing
 * corrected) and beside onnxruntime's own quantizer, on the same samples. Needs ../shared/data; onnxruntime's quantizer where
 * Python 3 has it.
 * `node bench/static-int8.mjs [--rounds 9] [--samples 256] [--quick] [--only variant …] [network …]` after `npm run build`; rows replace
 * the recorded ones of their network and variant. Models are kept in `--models` (default .tmp/static-int8) and taken from there when
 * they are measured again. `--quick` leaves learned rounding and tuning out, which take minutes a network; `--only` measures the named
 * variants alone.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { pairedDifference, wilsonInterval } from "../dist/base/statistics.js";
import { latencyRatio } from "../dist/evaluate/latency.js";
import { sizeOf } from "../dist/evaluate/size.node.js";
import { loadFile } from "../dist/ir/load.node.js";
import { saveFile } from "../dist/ir/save.node.js";
import { openSession } from "../dist/run/open-session.node.js";
import { quantize } from "../dist/techniques/quantize/static/quantize.js";
import { applied, feedsOf, hits, openNetwork, pathOf } from "./real-networks.mjs";
import { SHARED, needsData, recorded, root, writeRun } from "./support.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string", default: SHARED },
    rounds: { type: "string", default: "9" },
    samples: { type: "string", default: "256" },
    quick: { type: "boolean", default: false },
    only: { type: "string", multiple: true },
    models: { type: "string", default: join(root, ".tmp", "static-int8") },
  },
});
const { data } = values;
const [rounds, samples] = [values.rounds, values.samples].map(Number);
needsData(data);

/** Threads of everything that is not timed, and the settings that are timed: samples per run and threads. */
const THREADS = 2;
const TIMED = [1, 8].flatMap((batch) => [1, THREADS].map((threads) => ({ batch, threads })));
const CLASSIFIERS = ["resnet20-cifar10", "mobilenetv2-imagenet", "squeezenet1.1-imagenet", "mcunet-imagenet"];
const NAIVE = { perChannel: false, method: "range", calibration: "min-max", balance: false, equalize: "never", fit: "none" };
/** Learned rounding, alone and as its papers have it, with the first and last layers in 8 bits; and where it is shown. */
const LEARNED = "int4 weights, int8 activations";
const LEARNED_INSIDE = "int4 weights, 8-bit ends, int8 activations";
/** Rounding, biases and scales of all layers learned together against the outputs of the float model on moved and mirrored pictures. */
const TUNED = "int4 weights, 8-bit ends, int8 activations, tuned";
const SLOW = [LEARNED, LEARNED_INSIDE, TUNED];
const SLOW_ON = new Set(["resnet20-cifar10", "mobilenetv2-imagenet"]);
const OWN = {
  "int8, naive": quantize({ ...NAIVE, samples }),
  int8: quantize({ samples }),
  [LEARNED]: quantize({ to: "int4", fit: "blocks", samples }),
  [LEARNED_INSIDE]: quantize({ to: "int4", ends: "int8", fit: "blocks", samples }),
};
/** To learn from, pictures are moved by a fourteenth of their width at most: 16 pixels of 224, 2 of 32. */
const tuned = (width) =>
  quantize({ to: "int4", ends: "int8", tuneSteps: 300, fitBatch: 8, flip: true, crop: Math.round(width / 14), samples });
const PEER = {
  "onnxruntime, defaults": { perChannel: false, activations: "QInt8", calibration: "MinMax" },
  "onnxruntime, per channel": { perChannel: true, activations: "QUInt8", calibration: "MinMax" },
  "onnxruntime, per channel, entropy": { perChannel: true, activations: "QUInt8", calibration: "Entropy" },
};
const peer = spawnSync("python3", ["-c", "import onnx, onnxruntime.quantization"]).status === 0;
if (!peer) console.error("not found: onnxruntime and onnx for Python 3; its quantizer is left out");

mkdirSync(values.models, { recursive: true });
const scratch = mkdtempSync(join(tmpdir(), "pare-static-"));
const versions = {};

/** The samples as a .npy file of float32. */
async function writeSamples(session, fold, path) {
  const [input] = Object.values(await feedsOf(session, [[undefined, fold[0]]], Math.min(samples, fold[0].size)));
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${input.shape.join(", ")}), }`;
  const header = `${text.padEnd(117)}\n`;
  const start = Buffer.concat([Buffer.from("\x93NUMPY\x01\x00", "latin1"), Buffer.from([header.length, 0]), Buffer.from(header, "latin1")]);
  writeFileSync(path, Buffer.concat([start, Buffer.from(input.data.buffer, input.data.byteOffset, input.data.byteLength)]));
}

async function byPeer(name, options, session, fold) {
  const [npy, target] = [join(scratch, "samples.npy"), join(scratch, "quantized.onnx")];
  await writeSamples(session, fold, npy);
  const script = join(root, "bench", "static-int8.py");
  const { status, stdout, stderr } = spawnSync("python3", [script, pathOf(name, data), npy, target], {
    input: JSON.stringify(options),
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(stderr.trim().split("\n").at(-1));
  versions["onnxruntime (Python)"] = JSON.parse(stdout.trim().split("\n").at(-1)).onnxruntime;
  return loadFile(target);
}

for (const name of positionals.length > 0 ? positionals : CLASSIFIERS) {
  const rows = [];
  const { original, folds } = await openNetwork(name, data);
  const reference = await openSession(original, { threads: THREADS });
  const base = await hits([original], folds, THREADS);
  const before = recorded("static-int8").filter(({ network }) => network === name);
  /** One model for each fold, made from its calibration samples by `make`, or kept from before. */
  const modelsOf = async (variant, make) => {
    let seconds = before.find((row) => row.variant === variant)?.seconds;
    const models = [];
    for (const [at, fold] of folds.entries()) {
      const path = join(values.models, `${name}-${variant}-${at}.onnx`.replace(/[^\w.]+/g, "-"));
      if (!existsSync(path)) {
        const started = performance.now();
        await saveFile(await make(fold), path, { force: true });
        seconds = Number(((performance.now() - started) / 1000).toFixed(1));
      }
      models.push(await loadFile(path));
    }
    return { models, seconds };
  };
  const measure = async (variant, make) => {
    if (values.only && !values.only.includes(variant)) return;
    try {
      const { models, seconds } = await modelsOf(variant, make);
      const right = await hits(models, folds, THREADS);
      const speeds = [];
      for (const { batch, threads } of TIMED) {
        const [plain, changed] = [await openSession(original, { threads }), await openSession(models[0], { threads })];
        const { ratio } = await latencyRatio(plain, changed, await feedsOf(plain, folds, batch), { rounds });
        speeds.push({ batch, threads, ratio });
        await plain.close();
        await changed.close();
      }
      const { bytes, brotliBytes } = await sizeOf(models[0]);
      const accuracy = wilsonInterval(right.reduce((a, b) => a + b, 0), right.length);
      rows.push({ network: name, variant, samples: right.length, accuracy, difference: pairedDifference(right, base), bytes, brotliBytes, speeds, seconds });
    } catch (error) {
      rows.push({ network: name, variant, error: error.message });
    }
    console.log(JSON.stringify(rows.at(-1)));
  };
  await measure("fp32", () => original);
  const [, , , width] = original.graph.inputs[0].shape;
  for (const [variant, step] of Object.entries({ ...OWN, [TUNED]: tuned(width) }))
    if (!SLOW.includes(variant) || (SLOW_ON.has(name) && !values.quick))
      await measure(variant, ([calibration]) => applied([step], original, calibration, THREADS));
  if (peer)
    for (const [variant, options] of Object.entries(PEER))
      await measure(variant, (fold) => byPeer(name, options, reference, fold));
  await reference.close();
  const measured = new Set(rows.map(({ variant }) => variant));
  const others = recorded("static-int8").filter(({ network, variant }) => network !== name || !measured.has(variant));
  const order = (row) => CLASSIFIERS.indexOf(row.network);
  writeRun("static-int8", [...others, ...rows].sort((a, b) => order(a) - order(b)), { versions });
}
rmSync(scratch, { recursive: true });
process.exit(0);
