/**
 * Models larger than memory: int4 conversion beside plain copies of the same file, and `inspect`, each in a fresh process.
 * "convert" is reading, quantizing and writing through the library; "verb" is `pare quantize-weights` as typed: that, the
 * proof, and the sizes of both files. Runs in turns; between them the system writes out what it holds.
 * `node bench/big-model.mjs [--external 6GB] [--inline 1.9GB] [--rounds 3] [--folder DIR]` after `npm run build`; needs
 * room for three copies of the larger model. Writes bench/runs/big-model.json.
 */
import { spawnSync } from "node:child_process";
import { createReadStream, createWriteStream, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { parseArgs } from "node:util";
import { loadFile } from "../dist/ir/load.node.js";
import { saveFile } from "../dist/ir/save.node.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";
import { quantizeWeights } from "../dist/techniques/quantize/weights/quantize-weights.js";
import { measureNode, median, pare, root, settle, table, writeRun } from "./support.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    external: { type: "string", default: "6GB" },
    inline: { type: "string", default: "1.9GB" },
    rounds: { type: "string", default: "3" },
    folder: { type: "string", default: tmpdir() },
  },
});
const CHUNK_BYTES = 4 * 2 ** 20;

if (positionals[0] === "convert") await convert(positionals[1], positionals[2], positionals[3]);
else await main();

/** What a measured child does. */
async function convert(input, output, method) {
  const { model } = await runSteps(await loadFile(input), [quantizeWeights({ bits: 4, method })]);
  await saveFile(model, output);
}

async function main() {
  const folder = mkdtempSync(join(values.folder, "pare-big-"));
  const rows = [];
  try {
    for (const layout of ["external", "inline"]) rows.push(...(await measureModel(folder, layout)));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  writeRun("big-model", rows);
  console.log(
    table(
      ["model", "what", "seconds", "GB/s of fp32", "processor seconds", "peak MB"],
      rows.map((row) => [
        `${row.model} ${row.layout}`,
        row.what,
        row.seconds.toFixed(2),
        row.bytesPerSecond ? (row.bytesPerSecond / 1e9).toFixed(2) : "",
        row.cpuSeconds === undefined ? "" : row.cpuSeconds.toFixed(2),
        row.peakBytes === undefined ? "" : (row.peakBytes / 1e6).toFixed(0),
      ]),
    ),
  );
}

async function measureModel(folder, layout) {
  const model = join(folder, "model.onnx");
  const output = join(folder, "output.onnx");
  const made = spawnSync(
    process.execPath,
    [join(root, "tools", "make-big-model.mjs"), values[layout], model, "--force", ...(layout === "inline" ? ["--inline"] : [])],
    { encoding: "utf8" },
  );
  if (made.status !== 0) throw new Error(made.stderr);
  const files = readdirSync(folder).filter((name) => name.startsWith("model.onnx"));
  const bytes = files.reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
  const weights = join(folder, layout === "inline" ? "model.onnx" : "model.onnx.data");
  await read(weights); // the same warm cache for all
  const cases = {
    "copy, cp": () => timed(async () => spawnSync("cp", [weights, output])),
    "copy, Node.js streams": () =>
      timed(() =>
        pipeline(
          createReadStream(weights, { highWaterMark: CHUNK_BYTES }),
          createWriteStream(output, { highWaterMark: CHUNK_BYTES }),
        ),
      ),
    "convert to int4, rtn": () => measureNode([process.argv[1], "convert", model, output, "rtn"]),
    "verb, int4, rtn": () => measureNode([pare, "quantize-weights", model, "-o", output, "--bits", "4", "--method", "rtn", "--json"]),
    "convert to int4, mse": () => measureNode([process.argv[1], "convert", model, output, "mse"]),
    "verb, int4, mse": () => measureNode([pare, "quantize-weights", model, "-o", output, "--bits", "4", "--method", "mse", "--json"]),
    inspect: () => measureNode([pare, "inspect", model, "--json"]),
  };
  const found = new Map(Object.keys(cases).map((what) => [what, []]));
  for (let round = 0; round < Number(values.rounds); round++)
    for (const [what, run] of Object.entries(cases)) {
      for (const name of readdirSync(folder)) if (name.startsWith("output")) rmSync(join(folder, name));
      settle();
      const { stdout: _, ...usage } = await run();
      found.get(what).push(usage);
      console.error(`${layout}, round ${round + 1}, ${what}: ${usage.seconds.toFixed(2)} s`);
    }
  for (const name of readdirSync(folder)) rmSync(join(folder, name));
  return Array.from(found, ([what, all]) => {
    const seconds = median(all.map((one) => one.seconds));
    const most = (key) => (all[0][key] === undefined ? undefined : Math.max(...all.map((one) => one[key])));
    return {
      model: values[layout],
      layout,
      bytes,
      what,
      seconds,
      bytesPerSecond: what === "inspect" ? undefined : bytes / seconds,
      cpuSeconds: all[0].cpuSeconds === undefined ? undefined : median(all.map((one) => one.cpuSeconds)),
      peakBytes: most("peakBytes"),
      all,
    };
  });
}

async function timed(work) {
  const started = performance.now();
  const done = await work();
  if (done?.status) throw new Error(String(done.stderr));
  return { seconds: (performance.now() - started) / 1000 };
}

async function read(file) {
  for await (const _ of createReadStream(file, { highWaterMark: CHUNK_BYTES }));
}
