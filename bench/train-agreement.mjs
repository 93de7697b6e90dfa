/**
 * Gradients of whole networks in pare and, in double precision, in PyTorch, on the same weights and samples: the largest
 * difference of every parameter, relative to that parameter's largest gradient. Exits 1 beyond 1e-4, or beyond twice
 * PyTorch's own single-precision error where that is larger: in a deep network rounding moves some activations across
 * ReLU's corner, and their gradients jump. Needs python3 with PyTorch.
 * `node bench/train-agreement.mjs [network …]` after `npm run build`. Writes bench/runs/train-agreement.json.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildArchitecture } from "../dist/architectures/build.js";
import { openSession } from "../dist/run/open-session.node.js";
import { trainableParameters } from "../dist/train/parameters.js";
import { buildStepGraph } from "../dist/train/step-graph.js";
import { writeRun } from "./support.mjs";

const TOLERANCE = 1e-4;
const batch = 16;
const networks = process.argv.length > 2 ? process.argv.slice(2) : ["lenet-300-100", "lenet-5", "small-cnn", "resnet-20"];
if (spawnSync("python3", ["-c", "import torch"]).status !== 0) {
  console.error("PyTorch was not found: nothing to agree with");
  process.exit(0);
}
const folder = mkdtempSync(join(tmpdir(), "pare-agreement-"));
const script = join(dirname(fileURLToPath(import.meta.url)), "train-agreement.py");
let failed = false;
let torch = "absent";
const rows = [];
try {
  for (const name of networks) {
    const model = buildArchitecture(name);
    const names = trainableParameters(model).map((value) => value.name);
    const graph = buildStepGraph(model, { batch });
    const session = await openSession(graph.model, { inProcess: true });
    const state = await graph.initialState();
    const resident = await session.resident(state, graph.links);
    const shape = [batch, ...model.graph.inputs[0].shape.slice(1)];
    const data = new Float32Array(shape.reduce((n, size) => n * size, 1)).map((_, i) => Math.sin(0.37 * i) * Math.cos(0.011 * i));
    const labels = { dtype: "int64", shape: [batch], data: BigInt64Array.from({ length: batch }, (_, i) => BigInt(i % 10)) };
    const input = { dtype: "float32", shape, data };
    const outputs = await resident.step({ input, [graph.labels]: labels, ...graph.scalars({ step: 0, learningRate: 0 }) }, [graph.loss]);
    // After the first step the momentum is the gradient.
    const gradients = await resident.read(names.map((each) => `${each}/momentum`));
    await session.close();
    const weights = names.map((each) => Buffer.from(state[each].data.buffer, state[each].data.byteOffset, state[each].data.byteLength));
    writeFileSync(join(folder, "weights.bin"), Buffer.concat(weights));
    writeFileSync(join(folder, "samples.bin"), Buffer.from(data.buffer));
    const { status, stdout, stderr } = spawnSync("python3", [script, folder, name, String(batch)], { encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
    const peer = JSON.parse(stdout);
    const read = (bits) => new Float32Array(new Uint8Array(readFileSync(join(folder, `gradients${bits}.bin`))).buffer);
    const [single, double] = [read(32), read(64)];
    let at = 0;
    let [worst, peerWorst] = [{ name: "", error: 0 }, 0];
    for (const each of names) {
      const own = gradients[`${each}/momentum`].data;
      let [difference, rounding, size] = [0, 0, 0];
      for (let i = 0; i < own.length; i++) {
        difference = Math.max(difference, Math.abs(own[i] - double[at + i]));
        rounding = Math.max(rounding, Math.abs(single[at + i] - double[at + i]));
        size = Math.max(size, Math.abs(double[at + i]));
      }
      at += own.length;
      // A gradient that is zero but for rounding has no scale of its own.
      const error = difference / Math.max(size, 1e-4);
      peerWorst = Math.max(peerWorst, rounding / Math.max(size, 1e-4));
      if (error > worst.error) worst = { name: each, error };
    }
    const loss = outputs[graph.loss].data[0];
    const good = worst.error <= Math.max(TOLERANCE, 2 * peerWorst) && Math.abs(loss - peer.loss) <= TOLERANCE * Math.abs(peer.loss);
    failed ||= !good;
    torch = peer.torch;
    rows.push({
      network: name,
      batch,
      good,
      loss,
      torchLoss: peer.loss,
      parameters: names.length,
      largestDifference: worst.error,
      at: worst.name,
      torchSinglePrecision: peerWorst,
    });
    console.log(
      `${good ? "ok  " : "FAIL"} ${name}: loss ${loss.toFixed(6)} and ${peer.loss.toFixed(6)}, ${names.length} parameters, largest difference ${worst.error.toExponential(1)} (${worst.name}; PyTorch's own in single precision: ${peerWorst.toExponential(1)}), PyTorch ${peer.torch}`,
    );
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
writeRun("train-agreement", rows, { versions: { torch } });
process.exit(failed ? 1 : 0);
