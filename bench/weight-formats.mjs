/**
 * Where each number format of weights lives: what it is stored as, what it costs to load and to run, in stock ONNX Runtime for Node and
 * in its WebAssembly build, beside the same model in float32, in turns, in processor time of one thread. Weights are normal noise.
 * Run after a build: node bench/weight-formats.mjs. Writes bench/runs/weight-formats.json and docs/FORMATS.md; with --page only the
 * page, from the recorded run.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import * as web from "onnxruntime-web";
import { Rng } from "../dist/base/rng.js";
import { Builder, Model, Tensor, encodeModel } from "../dist/index.js";
import { loadFile } from "../dist/ir/load.node.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";
import { WEIGHT_FORMATS, formatNamed } from "../dist/techniques/quantize/weights/formats.js";
import { quantizeWeights } from "../dist/techniques/quantize/weights/quantize-weights.js";
import { median, root, runs, table, writeRun } from "./support.mjs";

const TURNS = 7;
const RUNS = 20;

/** Layers of which a dense float32 weight is read at every run. */
const LAYERS = {
  MatMul: { op: "MatMul", x: [1, 512], weights: [[512, 1024]], y: [1, 1024] },
  Conv: { op: "Conv", x: [1, 64, 14, 14], weights: [[128, 64, 3, 3]], y: [1, 128, 12, 12] },
  LSTM: {
    op: "LSTM",
    attributes: { hidden_size: 128 },
    x: [4, 1, 256],
    weights: [
      [1, 512, 256],
      [1, 512, 128],
    ],
    y: [4, 1, 1, 128],
  },
  Gather: { op: "Gather", x: null, weights: [[2000, 128]], y: [8, 128] },
};

function modelOf({ op, attributes = {}, x, weights, y }, opset) {
  const rng = new Rng(7);
  const model = new Model(undefined, opset, opset >= 25 ? 13 : 10);
  const b = new Builder(model.graph);
  const data = x ? b.input("x", "float32", x) : b.input("x", "int64", [8]);
  const kernels = weights.map((shape, i) => {
    const floats = Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, () => rng.normal(0, 0.05));
    return b.constant(`w${i}`, Tensor.float32(shape, floats));
  });
  const result = b.op(op, x ? [data, ...kernels] : [...kernels, data], { attributes, name: "layer" });
  [result.dtype, result.shape] = ["float32", y];
  b.output(result, "y");
  return model;
}

async function quantized(model, options) {
  const { model: result, steps } = await runSteps(model, [quantizeWeights(options)]);
  return { result, changes: steps[0].changed };
}

function feedsOf(runtime, { x }) {
  if (!x) return { x: new runtime.Tensor("int64", BigInt64Array.from({ length: 8 }, (_, i) => BigInt(i * 91)), [8]) };
  const data = Float32Array.from({ length: x.reduce((n, size) => n * size, 1) }, (_, i) => Math.sin(i));
  return { x: new runtime.Tensor("float32", data, x) };
}

function processorSeconds(since) {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
}

async function timed(count, work) {
  const since = process.cpuUsage();
  for (let i = 0; i < count; i++) await work();
  return processorSeconds(since) / count;
}

/** Processor time to load and to run, the format's over float32's, median over turns. */
async function ratios(runtime, options, files, layer) {
  const feeds = feedsOf(runtime, layer);
  const load = [[], []];
  const run = [[], []];
  for (let turn = 0; turn < TURNS; turn++)
    for (const [i, file] of files.entries()) {
      let session;
      load[i].push(await timed(1, async () => (session = await runtime.InferenceSession.create(file, options))));
      await session.run(feeds);
      run[i].push(await timed(RUNS, () => session.run(feeds)));
      await session.release();
    }
  return { load: median(load[1]) / median(load[0]), run: median(run[1]) / median(run[0]) };
}

/** Operators left in the engine's own graph beside the layer. */
async function leftOver(file) {
  const folder = mkdtempSync(join(tmpdir(), "pare-formats-"));
  try {
    const path = join(folder, "optimized.onnx");
    const session = await ort.InferenceSession.create(file, { optimizedModelFilePath: path, logSeverityLevel: 3 });
    await session.release();
    return (await loadFile(path)).graph.nodes.map(({ opType }) => opType);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv.includes("--page")) {
  writePage(JSON.parse(readFileSync(join(runs, "weight-formats.json"), "utf8")));
  process.exit(0);
}
web.env.wasm.numThreads = 1;
const node = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 };
const wasm = { executionProviders: ["wasm"] };
const rows = [];
for (const name of WEIGHT_FORMATS.filter((one) => one !== "float")) {
  const format = formatNamed(name);
  for (const [layerName, layer] of Object.entries(LAYERS)) {
    const before = modelOf(layer, format.bits === 2 ? 25 : 21);
    const { result, changes } = await quantized(before, { to: name });
    const files = [await encodeModel(before), await encodeModel(result)];
    const elements = layer.weights.reduce((sum, shape) => sum + shape.reduce((n, size) => n * size, 1), 0);
    const row = {
      format: name,
      layer: layerName,
      bits: (8 * changes.reduce((sum, { bytesAfter }) => sum + bytesAfter, 0)) / elements,
      error: Math.sqrt(changes.reduce((sum, { error }) => sum + error ** 2, 0) / changes.length),
      types: [...new Set([...result.graph.initializers.values()].filter(({ name: one }) => one.endsWith(".codes")).map(({ tensor }) => tensor.dtype))],
      stored: [...new Set(result.graph.nodes.map(({ opType }) => opType))],
      left: await leftOver(files[1]),
      node: await ratios(ort, node, files, layer),
      wasm: await ratios(web, wasm, files, layer),
    };
    rows.push(row);
    console.error(`${name} ${layerName}: ${row.bits.toFixed(2)} bits, run ${row.node.run.toFixed(2)}, wasm ${row.wasm.run.toFixed(2)}, left ${row.left.join()}`);
  }
}
const versions = { "onnxruntime-node": ort.env.versions?.node, "onnxruntime-web": ort.env.versions?.web ?? web.env.versions?.web };
const record = writeRun("weight-formats", rows, { versions });
writePage(record);
process.exit(0);

function writePage(run) {
  writeFileSync(join(root, "docs", "FORMATS.md"), page(run));
}

/** Operators of the layer itself, and of the engine's blocked images, in which float32 convolutions run too. */
function expected(op, layer) {
  return [layer, "MatMulNBits", "GatherBlockQuantized", "ReorderInput", "ReorderOutput"].includes(op);
}

function page({ command, machine, rows: all, load }) {
  const of = (format, layer) => all.find((row) => row.format === format && row.layer === layer);
  const times = (x) => `${x.toFixed(2)}×`;
  const formats = [...new Set(all.map(({ format }) => format))];
  const layers = Object.keys(LAYERS);
  const opsets = (format) => {
    const { bits, kind } = formatNamed(format);
    if (kind === "half") return format === "bf16" ? "13" : "7";
    if (format.startsWith("fp8")) return "7; element type from 19";
    return bits === 4 ? "7; element type from 21" : bits === 2 ? "7; element type from 25" : "7";
  };
  const form = (row) => {
    const packed = row.stored.find((op) => op === "MatMulNBits" || op === "GatherBlockQuantized");
    return packed ? `\`${packed}\`` : row.stored.filter((op) => op !== row.layer).map((op) => `\`${op}\``).join(" → ");
  };
  return `# Number formats of weights: where each lives, and what it costs

Written by \`${command}\`, beside the same layer in float32, in turns, in processor time of one thread, on ${machine.cpu ?? machine.model ?? "one machine"}
(load ${load.start} to ${load.end}: ratios of short runs, read them to one digit). Weights are normal noise: errors of real layers differ.

\`pare quantize-weights --to FORMAT\`, or \`--layers 'PATTERN=FORMAT'\` for single layers. Every format fits every operator with weights:
MatMul, Gemm, Conv, ConvTranspose, Gather (embeddings), LSTM, GRU, RNN, and Attention of \`com.microsoft\`. Each pair is a case of
\`tests/techniques/weight-formats.test.ts\`, which opens it in onnxruntime-node and in onnxruntime-web's WebAssembly and compares numbers
with the float model that has the stored weights.

## Stored as

Two forms. **Packed**: the kernel reads the codes at every run (\`MatMulNBits\`, \`GatherBlockQuantized\`; int8, int4, int2 of matrix products and
tables only). **Unpacked at load**: standard operators on constants, which the engine computes once when a session opens; then the layer
is the float32 layer, in speed and in memory. That needs graph optimization, which is on by default: with \`graphOptimizationLevel: "disabled"\` the
unpacking runs at every inference. 3, 5 and 6 bits have neither element type nor kernel anywhere: they are planes of 4, 2 and 1 bits.

${table(
  ["format", "bits per weight", "opset", "codes", "matrix product", "any other operator", "error of the weight"],
  formats.map((format) => {
    const [product, conv] = [of(format, "MatMul"), of(format, "Conv")];
    return [
      `\`${format}\``,
      `${product.bits.toFixed(2)} / ${conv.bits.toFixed(2)}`,
      opsets(format),
      [...new Set([...product.types, ...conv.types])].join(", "),
      form(product),
      form(conv),
      `${(100 * product.error).toPrecision(2)} %`,
    ];
  }),
)}

Bits per weight are those of a matrix product and of a convolution, scales, zero points and codebooks included.

## Costs

Time to open a session and to run it once (one row of inputs, 196 pixels, 4 steps, 8 rows), over float32's. What is unpacked at load runs at 1,
within the noise; a session opens in some milliseconds more for each million weights.

${table(
  ["format", ...layers.flatMap((layer) => [`${layer}: load`, "run", "run, wasm"])],
  formats.map((format) => [
    `\`${format}\``,
    ...layers.flatMap((layer) => {
      const row = of(format, layer);
      return [times(row.node.load), times(row.node.run), times(row.wasm.run)];
    }),
  ]),
)}

Nodes of the unpacking that are left in the engine's own graph, of every format and layer above: ${
    [...new Set(all.flatMap(({ left, layer }) => left.filter((op) => !expected(op, layer))))].join(", ") || "none"
  }.

In WebAssembly \`MatMulNBits\` has no fast kernel, whatever its bits, \`--compute\` and zero points: for that provider use \`--form folded\`,
which runs as float32 does and is as small a file.

## Providers

| | CPU (Node) | WebAssembly | WebGPU |
| --- | --- | --- | --- |
| unpacked at load, all formats | tested here | tested here, opset 25 with 2-bit elements included | folded on the CPU before the graph is split among providers, so that the GPU gets dense floats; needs nothing of it. Not run here: no GPU |
| \`MatMulNBits\` int4 | tested here | tested here, slow | kernel for blocks of any power of two |
| \`MatMulNBits\` int8 | tested here | tested here | since [microsoft/onnxruntime#24546](https://github.com/microsoft/onnxruntime/pull/24546); the older JSEP build (\`matmulnbits.ts\`: "TODO support quantization bits not equal to 4") has 4 bits only |
| \`MatMulNBits\` int2 | tested here | tested here | with zero points (without \`--symmetric\`) since [microsoft/onnxruntime#27285](https://github.com/microsoft/onnxruntime/pull/27285) and [#27325](https://github.com/microsoft/onnxruntime/pull/27325) |
| \`GatherBlockQuantized\` | int8, int4, int2 tested here | the same | 4 and 8 bits; in the newest sources 2 bits too ([gather_block_quantized.cc](https://github.com/microsoft/onnxruntime/blob/182f7aada1f620a3e3f079be122f2d0e4a922ada/onnxruntime/contrib_ops/webgpu/quantization/gather_block_quantized.cc)), which earlier releases refuse: use \`--form folded\` for 2-bit tables there |
| LSTM, GRU, RNN | tested here | tested here | no kernels ([webgpu-operators.md](https://github.com/microsoft/onnxruntime/blob/main/js/web/docs/webgpu-operators.md)): the layer itself runs on the CPU, in every format and in float |
| \`DequantizeLinear\` (\`--form dequantize\`) | runs at every inference | runs at every inference | runs at every inference |
| fp8, bf16 arithmetic | none: storage only | none | none |
`;
}
