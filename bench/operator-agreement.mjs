/**
 * Gradients of single operators in pare (float32) and in PyTorch (float64) on the same random inputs: the largest difference of
 * every input's gradient, relative to its largest element. Exits 1 beyond 1e-4. Needs python3 with PyTorch.
 * `node bench/operator-agreement.mjs` after `npm run build`. Writes bench/runs/operator-agreement.json.
 */
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Rng } from "../dist/base/rng.js";
import { Builder } from "../dist/ir/builder.js";
import { Model } from "../dist/ir/model.js";
import { openSession } from "../dist/run/open-session.node.js";
import { grad } from "../dist/train/grad.js";
import { writeRun } from "./support.mjs";

const TOLERANCE = 1e-4;
const float = (value) => ({ type: "float", value });
const epsilon = float(1e-3);

/** ONNX operator, attributes, input shapes; the PyTorch expression over the inputs a, b, c. */
const CASES = [
  ["LayerNormalization", { axis: -1, epsilon }, [[4, 6, 16], [16], [16]], "F.layer_norm(a, (16,), b, c, 1e-3)"],
  ["RMSNormalization", { axis: -1, epsilon }, [[4, 6, 16], [16]], "F.rms_norm(a, (16,), b, 1e-3)"],
  ["GroupNormalization", { num_groups: 2, epsilon }, [[3, 4, 5, 5], [4], [4]], "F.group_norm(a, 2, b, c, 1e-3)"],
  ["InstanceNormalization", { epsilon }, [[3, 4, 5, 5], [4], [4]], "F.instance_norm(a, weight=b, bias=c, eps=1e-3)"],
  ["LRN", { size: 3, alpha: float(0.5), beta: float(0.75), bias: float(1) }, [[2, 6, 4, 4]], "F.local_response_norm(a, 3, 0.5, 0.75, 1.0)"],
  ["LpNormalization", { axis: 1 }, [[5, 7]], "F.normalize(a, dim=1)"],
  ["Gelu", {}, [[40]], "F.gelu(a)"],
  ["Gelu", { approximate: "tanh" }, [[40]], "F.gelu(a, approximate='tanh')"],
  ["Mish", {}, [[40]], "F.mish(a)"],
  ["Swish", {}, [[40]], "F.silu(a)"],
  ["Elu", { alpha: float(0.7) }, [[40]], "F.elu(a, 0.7)"],
  ["Selu", {}, [[40]], "F.selu(a)"],
  ["Celu", { alpha: float(0.7) }, [[40]], "F.celu(a, 0.7)"],
  ["PRelu", {}, [[2, 3, 4], [3, 1]], "torch.where(a > 0, a, a * b)"],
  ["HardSwish", {}, [[40]], "F.hardswish(a)"],
  ["HardSigmoid", { alpha: float(1 / 6) }, [[40]], "F.hardsigmoid(a)"],
  ["Softsign", {}, [[40]], "F.softsign(a)"],
  ["Softmax", { axis: 1 }, [[3, 5, 4]], "F.softmax(a, 1)"],
  ["LogSoftmax", { axis: -1 }, [[3, 5, 4]], "F.log_softmax(a, -1)"],
  ["MaxPool", { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }, [[2, 3, 9, 8]], "F.max_pool2d(a, 3, 2, 1)"],
  ["MaxPool", { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, [[2, 3, 7, 5]], "F.max_pool2d(a, 2, 2, ceil_mode=True)"],
  ["AveragePool", { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1], count_include_pad: 1 }, [[2, 3, 9, 8]], "F.avg_pool2d(a, 3, 2, 1)"],
  ["AveragePool", { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }, [[2, 3, 6, 6]], "F.avg_pool2d(a, 3, 1, 1, count_include_pad=False)"],
  ["AveragePool", { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, [[2, 3, 7, 5]], "F.avg_pool2d(a, 2, 2, ceil_mode=True)"],
  ["LpPool", { kernel_shape: [2, 2], strides: [2, 2] }, [[2, 3, 6, 6]], "F.lp_pool2d(a, 2, 2)"],
  ["Conv", { strides: [2, 1], pads: [1, 2, 1, 2], dilations: [1, 2], group: 2 }, [[2, 4, 8, 9], [6, 2, 3, 3], [6]], "F.conv2d(a, b, c, (2, 1), (1, 2), (1, 2), 2)"],
  ["Conv", { pads: [1, 1, 1, 1, 1, 1] }, [[1, 2, 4, 4, 4], [3, 2, 3, 3, 3], [3]], "F.conv3d(a, b, c, padding=1)"],
  ["ConvTranspose", { strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 0], group: 2 }, [[2, 4, 4, 5], [4, 3, 3, 3], [6]], "F.conv_transpose2d(a, b, c, 2, 1, (1, 0), 2)"],
  ["ReduceProd", { keepdims: 0 }, [[3, 4]], "a.prod()"],
  ["ReduceLogSumExp", { keepdims: 0 }, [[3, 4]], "torch.logsumexp(a, (0, 1))"],
  ["Einsum", { equation: "bhqd,bhkd->bhqk" }, [[2, 2, 3, 4], [2, 2, 5, 4]], "torch.einsum('bhqd,bhkd->bhqk', a, b)"],
];

if (spawnSync("python3", ["-c", "import torch"]).status !== 0) {
  console.error("PyTorch was not found: nothing to agree with");
  process.exit(0);
}
const rng = new Rng(1);
const draw = (shape) => Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, () => rng.uniform(-2, 2));
const tasks = [];
for (const [op, attributes, shapes, torch] of CASES) {
  const model = new Model(undefined, 24, 11);
  const b = new Builder(model.graph);
  const inputs = shapes.map((shape, i) => b.input(`x${i}`, "float32", shape));
  b.output(b.op(op, inputs, { attributes }), "y");
  const feeds = Object.fromEntries(shapes.map((shape, i) => [`x${i}`, { dtype: "float32", shape, data: draw(shape) }]));
  // Σ y³: a normalized y makes Σ y and Σ y² constant.
  const [y] = model.graph.outputs;
  const cube = b.op("Mul", [b.op("Mul", [y, y]), y]);
  b.output(b.op("ReduceSum", [cube], { attributes: { keepdims: 0 } }), "loss");
  const session = await openSession(grad(model, { of: "loss", wrt: inputs.map(({ name }) => name) }), { inProcess: true });
  const outputs = await session.run(feeds);
  await session.close();
  tasks.push({
    op,
    attributes,
    torch,
    shapes,
    inputs: shapes.map((_, i) => Array.from(feeds[`x${i}`].data)),
    gradients: shapes.map((_, i) => Array.from(outputs[`x${i}_grad`].data)),
  });
}
const script = join(dirname(fileURLToPath(import.meta.url)), "operator-agreement.py");
const { status, stdout, stderr } = spawnSync("python3", [script], { input: JSON.stringify(tasks), encoding: "utf8", maxBuffer: 2 ** 26 });
if (status !== 0) throw new Error(stderr);
const { torch, errors } = JSON.parse(stdout);
const rows = tasks.map(({ op, torch: expression }, i) => ({ operator: op, torch: expression, largestDifference: errors[i], good: errors[i] <= TOLERANCE }));
for (const { operator, torch: expression, largestDifference, good } of rows)
  console.log(`${good ? "ok  " : "FAIL"} ${operator}: ${largestDifference.toExponential(1)} from ${expression}`);
writeRun("operator-agreement", rows, { versions: { torch }, tolerance: TOLERANCE });
process.exit(rows.every(({ good }) => good) ? 0 : 1);
