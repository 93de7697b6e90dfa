/**
 * Pruning a model of 1 GB by magnitude: deciding (thresholds and every mask, nothing written) within layers and over all layers, and
 * pruning with sparse storage into a file, each in a fresh process.
 * `node bench/prune-big.mjs [--size 1GB] [--folder DIR]` after `npm run build`; needs room for the model and a half.
 * Writes bench/runs/prune-big.json.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { loadFile } from "../dist/ir/load.node.js";
import { saveFile } from "../dist/ir/save.node.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";
import { pruneWeights } from "../dist/techniques/prune/weights/prune-weights.js";
import { measureNode, root, table, writeRun } from "./support.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { size: { type: "string", default: "1GB" }, folder: { type: "string", default: tmpdir() } },
});

if (positionals[0] === "child") await child(...positionals.slice(1));
else await main();

/** What a measured child does. */
async function child(input, ratio, scope, output) {
  const step = pruneWeights({ ratio: Number(ratio), scope, store: output ? "sparse" : "dense" });
  const { model } = await runSteps(await loadFile(input), [step]);
  if (output) return saveFile(model, output);
  // Masks are made when weights are read
  for (const { tensor } of model.graph.initializers.values()) await tensor?.bytes();
}

async function main() {
  const folder = mkdtempSync(join(values.folder, "pare-prune-"));
  const [model, output] = [join(folder, "model.onnx"), join(folder, "sparse.onnx")];
  const rows = [];
  try {
    const made = spawnSync(process.execPath, [join(root, "tools", "make-big-model.mjs"), values.size, model], { encoding: "utf8" });
    if (made.status !== 0) throw new Error(made.stderr);
    const sizeOf = (path) => ["", ".data"].reduce((sum, end) => sum + (statSync(path + end, { throwIfNoEntry: false })?.size ?? 0), 0);
    const bytes = sizeOf(model);
    const cases = {
      "decide, 50 % of each layer": ["0.5", "local"],
      "decide, 50 % of all layers": ["0.5", "global"],
      "prune 90 %, store, write": ["0.9", "local", output],
    };
    for (const [what, args] of Object.entries(cases)) {
      const { stdout: _, ...usage } = await measureNode([process.argv[1], "child", model, ...args]);
      rows.push({ model: values.size, bytes, what, bytesAfter: args[2] ? sizeOf(output) : undefined, ...usage });
      console.error(what, usage);
      writeRun("prune-big", rows);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(
    table(
      ["what", "seconds", "processor seconds", "peak MB", "file"],
      rows.map((row) => [row.what, row.seconds.toFixed(1), row.cpuSeconds?.toFixed(1) ?? "", (row.peakBytes / 1e6).toFixed(0), row.bytesAfter ? `${(row.bytes / row.bytesAfter).toFixed(2)} times smaller` : ""]),
    ),
  );
}
