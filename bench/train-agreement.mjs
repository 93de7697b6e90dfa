/**
 * Gradients of whole networks in pare and, in double precision, in PyTorch, on the same weights and samples: the largest
 * difference of every parameter, relative to that parameter's largest gradient. Exits 1 beyond 1e-4, or beyond four
 * times PyTorch's own single-precision error where that is larger: in a deep network rounding moves some activations across
 * ReLU's corner, and their gradients jump. Networks with normalization are therefore also compared with scales and shifts
 * that keep activations within (0, 6), away from the corners. Both on plain images and, where the engine has them, on blocked ones. Needs
 * python3 with PyTorch.
 * `node bench/train-agreement.mjs [network …]` after `npm run build`. Writes bench/runs/train-agreement.json.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Tensor } from "../dist/ir/tensor.js";
import { openSession } from "../dist/run/open-session.node.js";
import { imageBlock } from "../dist/train/blocked/image-block.js";
import { trainableParameters } from "../dist/train/parameters.js";
import { buildStepGraph } from "../dist/train/step-graph.js";
import { buildNetwork, NETWORKS, samples } from "./networks.mjs";
import { writeRun } from "./support.mjs";

const TOLERANCE = 1e-4;

/** Sets the scales of normalization to 1/2 and its shifts to 3: activations are 3 ± 1/2. False where there is none. */
function keepInside(model) {
  const values = [...model.graph.initializers.values()].filter(({ name }) => /\bbn\.(weight|bias)$/.test(name));
  for (const value of values) {
    const fill = value.name.endsWith("weight") ? 0.5 : 3;
    value.tensor = Tensor.float32(value.tensor.shape, new Float32Array(value.tensor.shape[0]).fill(fill));
  }
  return values.length > 0;
}

const batch = 16;
const networks = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(NETWORKS);
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
  const layouts = [undefined, await imageBlock(openSession)].filter((block, i) => i === 0 || block);
  const runs = networks.flatMap((name) => layouts.flatMap((block) => [false, true].map((inside) => ({ name, block, inside }))));
  for (const { name, block, inside } of runs) {
    const model = buildNetwork(name);
    if (inside && !keepInside(model)) continue;
    const names = trainableParameters(model).map((value) => value.name);
    const graph = buildStepGraph(model, { batch, block });
    if (block && !graph.model.opsets.has("com.microsoft.nchwc")) continue;
    const session = await openSession(graph.model, { inProcess: true });
    const state = await graph.initialState();
    const resident = await session.resident(state, graph.links);
    const feeds = samples(model, graph, batch, (i) => Math.sin(0.37 * i) * Math.cos(0.011 * i));
    const { data } = feeds[model.graph.inputs[0].name];
    const outputs = await resident.step({ ...feeds, ...graph.scalars({ step: 0, learningRate: 0 }) }, [graph.loss]);
    // After the first step the momentum is the gradient.
    const gradients = await resident.read(names.map((each) => `${each}/momentum`));
    await session.close();
    const weights = names.map((each) => Buffer.from(state[each].data.buffer, state[each].data.byteOffset, state[each].data.byteLength));
    writeFileSync(join(folder, "weights.bin"), Buffer.concat(weights));
    writeFileSync(join(folder, "samples.bin"), Buffer.from(Float32Array.from(data, Number).buffer));
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
    const good = worst.error <= Math.max(TOLERANCE, 4 * peerWorst) && Math.abs(loss - peer.loss) <= TOLERANCE * Math.abs(peer.loss);
    failed ||= !good;
    torch = peer.torch;
    rows.push({
      network: name,
      batch,
      away: inside,
      layout: block ? `blocks of ${block}` : "plain",
      good,
      loss,
      torchLoss: peer.loss,
      parameters: names.length,
      largestDifference: worst.error,
      at: worst.name,
      torchSinglePrecision: peerWorst,
    });
    console.log(
      `${good ? "ok  " : "FAIL"} ${name}${block ? ` on blocks of ${block}` : ""}${inside ? " away from corners" : ""}: loss ${loss.toFixed(6)} and ${peer.loss.toFixed(6)}, ${names.length} parameters, largest difference ${worst.error.toExponential(1)} (${worst.name}; PyTorch's own in single precision: ${peerWorst.toExponential(1)}), PyTorch ${peer.torch}`,
    );
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
writeRun("train-agreement", rows, { versions: { torch } });
process.exit(failed ? 1 : 0);
