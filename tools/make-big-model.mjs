/**
 * Writes a model of a wanted size, streaming: a chain of MatMul layers with seeded pseudo-random weights, for measuring
 * how tools cope with models larger than memory. Run `node tools/make-big-model.mjs 6GB big.onnx` after the build;
 * `--inline` keeps the weights in the one file (at most 2 GB), `--seed N` changes them, `--width N` the layers.
 */
import { parseArgs } from "node:util";
import { Builder } from "../dist/ir/builder.js";
import { Model } from "../dist/ir/model.js";
import { saveFile } from "../dist/ir/save.node.js";
import { Tensor } from "../dist/ir/tensor.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    inline: { type: "boolean", default: false },
    seed: { type: "string", default: "1" },
    width: { type: "string", default: "4096" },
    force: { type: "boolean", default: false },
  },
});
const match = /^(\d+(?:\.\d+)?)(MB|GB)?$/.exec(positionals[0] ?? "");
const path = positionals[1];
if (!match || !path) {
  console.error(
    "Usage: node tools/make-big-model.mjs SIZE[MB|GB] FILE.onnx [--inline] [--seed N] [--width N] [--force]",
  );
  process.exit(2);
}
const bytes = Number(match[1]) * { MB: 1e6, GB: 1e9 }[match[2] ?? "GB"];
const width = Number(values.width);
const layers = Math.max(1, Math.round(bytes / (width * width * 4)));

/** Weights uniform in ±√(3/width), which keeps the variance of activations; one xorshift32 stream a layer. */
function weights(layer) {
  let state = (Math.imul(Number(values.seed) + layer + 1, 0x9e3779b9) | 1) >>> 0;
  const scale = Math.sqrt(3 / width) / 0x8000_0000;
  const data = new Float32Array(width * width);
  for (let i = 0; i < data.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    data[i] = state * scale;
  }
  return new Uint8Array(data.buffer);
}

const model = new Model();
model.producerName = "make-big-model";
const b = new Builder(model.graph);
let x = b.input("x", "float32", ["batch", width]);
for (let layer = 0; layer < layers; layer++) {
  const tensor = Tensor.lazy("float32", [width, width], async () => weights(layer));
  x = b.op("MatMul", [x, b.constant(`w${layer}`, tensor)]);
}
b.output(x, "y");
try {
  const saved = await saveFile(model, path, {
    force: values.force,
    externalDataThreshold: values.inline ? Number.POSITIVE_INFINITY : 0,
  });
  for (const file of saved.files) console.log(`${file.path}: ${file.bytes} bytes`);
} catch (error) {
  console.error(error.message);
  process.exit(2);
}
