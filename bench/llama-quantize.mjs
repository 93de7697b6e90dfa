/**
 * Round-to-nearest 4-bit weights in blocks of 32, beside llama.cpp's quantizer to Q4_0 on the same weights, in turns, each in a fresh
 * process on warm files: `node bench/llama-quantize.mjs [--size 2GB] [--rounds 5] [--threads 2] [--folder DIR]` after
 * `npm run build`. The peer is libllama in the folder that the environment names as PARE_LLAMA (called by python3); needs room
 * for three copies. Writes bench/runs/llama-quantize.json.
 */
import { spawnSync } from "node:child_process";
import { createReadStream, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { loadFile } from "../dist/ir/load.node.js";
import { saveFile } from "../dist/ir/save.node.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";
import { quantizeWeights } from "../dist/techniques/quantize/weights/quantize-weights.js";
import { writeGguf } from "./gguf.mjs";
import { measureNode, median, root, settle, table, writeRun } from "./support.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    size: { type: "string", default: "2GB" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    folder: { type: "string", default: tmpdir() },
  },
});
const BLOCK = 32;

if (positionals[0] === "convert") await convert(positionals[1], positionals[2]);
else await main();

/** What a measured child does. */
async function convert(input, output) {
  const step = quantizeWeights({ bits: 4, method: "rtn", symmetric: true, block: BLOCK });
  const { model } = await runSteps(await loadFile(input), [step], { threads: Number(values.threads) });
  await saveFile(model, output);
}

async function main() {
  const libraries = process.env.PARE_LLAMA;
  if (!libraries) {
    console.error("skipped: PARE_LLAMA names no folder with libllama");
    return;
  }
  const folder = mkdtempSync(join(values.folder, "pare-llama-"));
  try {
    const [onnx, gguf] = [join(folder, "model.onnx"), join(folder, "model.gguf")];
    const bytes = await makeModels(onnx, gguf);
    for (const file of [`${onnx}.data`, gguf]) for await (const _ of createReadStream(file, { highWaterMark: 2 ** 22 }));
    const cases = {
      pare: async () => {
        const { seconds } = await measureNode([process.argv[1], "convert", onnx, join(folder, "output.onnx"), "--threads", values.threads]);
        return seconds;
      },
      "llama.cpp": async () => {
        const { seconds, version } = llama(libraries, gguf, join(folder, "output.gguf"));
        versions["llama.cpp"] = version;
        return seconds;
      },
    };
    const versions = {};
    const found = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
    const written = {};
    for (let round = 0; round <= Number(values.rounds); round++)
      for (const [name, run] of Object.entries(cases)) {
        settle();
        const seconds = await run();
        if (round > 0) found[name].push(seconds);
        const outputs = readdirSync(folder).filter((file) => file.startsWith("output"));
        written[name] = outputs.reduce((sum, file) => sum + statSync(join(folder, file)).size, 0);
        for (const file of outputs) rmSync(join(folder, file));
      }
    // Throughput of pare over that of the peer, round by round
    const ratio = median(found.pare.map((seconds, i) => found["llama.cpp"][i] / seconds));
    const rows = Object.entries(found).map(([name, all]) => {
      const seconds = median(all);
      return { name, seconds, bytesPerSecond: bytes / seconds, writtenBytes: written[name], all };
    });
    writeRun("llama-quantize", rows, { bytes, ratio, versions });
    console.log(
      table(
        ["quantizer", "seconds", "GB/s of fp32", "MB written"],
        rows.map((row) => [
          row.name,
          row.seconds.toFixed(2),
          (row.bytesPerSecond / 1e9).toFixed(2),
          (row.writtenBytes / 1e6).toFixed(0),
        ]),
      ),
    );
    console.log(`pare has ${ratio.toFixed(2)} of llama.cpp's throughput`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The same matrices for both: (in, out) for ONNX, as rows of (out, in) for llama.cpp. Returns their bytes. */
async function makeModels(onnx, gguf) {
  const made = spawnSync(process.execPath, [join(root, "tools", "make-big-model.mjs"), values.size, onnx], { encoding: "utf8" });
  if (made.status !== 0) throw new Error(made.stderr);
  const model = await loadFile(onnx);
  const matrices = model.graph.nodes.map((node, layer) => {
    const { tensor } = node.inputs[1];
    const [inputs, outputs] = tensor.shape;
    return {
      name: `blk.${layer}.ffn_up.weight`,
      rows: outputs,
      cols: inputs,
      read: async () => {
        const bytes = await tensor.bytes();
        const data = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
        const turned = new Float32Array(data.length);
        for (let i = 0; i < inputs; i++) for (let o = 0; o < outputs; o++) turned[o * inputs + i] = data[i * outputs + o];
        return new Uint8Array(turned.buffer);
      },
    };
  });
  await writeGguf(gguf, matrices, { width: matrices[0].cols });
  return matrices.reduce((sum, { rows, cols }) => sum + 4 * rows * cols, 0);
}

/** Seconds of one call, the start of Python aside, and the version of the peer. */
function llama(libraries, input, output) {
  const script = join(root, "bench", "llama-quantize.py");
  const { status, stdout, stderr } = spawnSync("python3", [script, libraries, input, output, values.threads], { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout.trim().split("\n").at(-1));
}
