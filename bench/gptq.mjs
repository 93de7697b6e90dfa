/**
 * GPTQ of one layer against the engine's own matrix product, in turns in one process: codes of a (k, n) weight from its
 * second moments XᵀX, and one product of two (k, k) and (k, n) matrices through the same session interface.
 * Run after a build: node bench/gptq.mjs [k] [rounds]. Writes bench/runs/gptq.json.
 */
import { Rng } from "../dist/base/rng.js";
import { loadKernels } from "../dist/kernels/kernels.js";
import { MatrixEngine } from "../dist/run/matrix-engine.js";
import { openSession } from "../dist/run/open-session.node.js";
import { Builder } from "../dist/ir/builder.js";
import { Model } from "../dist/ir/model.js";
import { gptq } from "../dist/techniques/quantize/weights/gptq.js";
import { median, table, writeRun } from "./support.mjs";

const [size = 2048, rounds = 9] = process.argv.slice(2).map(Number);
const kernels = await loadKernels();
const engine = await MatrixEngine.open(openSession, kernels);
const rng = new Rng(1);
const noise = (length) => Float32Array.from({ length }, () => rng.normal());

/** Second moments of correlated inputs: ZᵀZ/rows of 2 k rows that share 64 directions. */
async function moments(k) {
  const rows = 2 * k;
  const shared = await engine.product(
    { rows, cols: 64, data: noise(rows * 64) },
    { rows: 64, cols: k, data: noise(64 * k) },
    { rows, cols: k, data: noise(rows * k) },
  );
  const { data } = await engine.minusCrossProduct(shared, shared);
  return Float64Array.from(data, (x) => -x / rows);
}

function productModel() {
  const model = new Model(undefined, 17, 8);
  const b = new Builder(model.graph);
  const y = b.op("MatMul", [b.input("a", "float32", ["m", "p"]), b.input("b", "float32", ["p", "n"])]);
  [y.dtype, y.shape] = ["float32", ["m", "n"]];
  b.output(y, "y");
  return model;
}

const session = await openSession(productModel());
const gram = await moments(size);
const weights = { k: size, n: size, data: noise(size * size) };
const product = { a: { dtype: "float32", shape: [size, size], data: noise(size * size) }, b: { dtype: "float32", shape: [size, size], data: weights.data } };
/** Rounds that are not counted: code and memory are warm after them. */
const WARM_UP = 3;
const CASES = {
  "4 bits, groups of 32, act-order": { bits: 4, group: 32, actOrder: true },
  "4 bits, groups of 128, scales on the way": { bits: 4, group: 128, actOrder: false },
};
const options = { symmetric: false, scale: "range", scaleType: "float32", rule: "blocks", damping: 0.01 };

// k³/3 for the factor and n·k² for the updates, a multiplication and an addition being two operations.
const operations = size ** 3 / 3 + size * size * size;
// The paper's own way: Cholesky, inverse and Cholesky again (4/3 k³), and the same updates.
const paperOperations = (4 * size ** 3) / 3 + size * size * size;
const productOperations = 2 * size ** 3;
const times = Object.fromEntries([...Object.keys(CASES), "product"].map((name) => [name, []]));
for (let round = -WARM_UP; round < rounds; round++) {
  const seconds = async (work) => {
    const started = performance.now();
    await work();
    return (performance.now() - started) / 1000;
  };
  for (const [name, own] of Object.entries(CASES)) {
    const took = await seconds(() => gptq(engine, kernels, weights, gram, { ...options, ...own }));
    if (round >= 0) times[name].push(took);
  }
  const inside = await session.time(product, 2);
  if (round >= 0) times.product.push(Math.min(...inside));
}
await engine.close();
await session.close();
const engineRate = productOperations / median(times.product);
const rows = Object.keys(CASES).map((name) => ({
  name,
  k: size,
  n: size,
  seconds: median(times[name]),
  all: times[name],
  operationsPerSecond: operations / median(times[name]),
  engineOperationsPerSecond: engineRate,
  ratio: median(times[name].map((took, i) => operations / took / (productOperations / times.product[i]))),
  paperRatio: median(times[name].map((took, i) => paperOperations / took / (productOperations / times.product[i]))),
}));
writeRun("gptq", rows, { rounds });
console.log(
  table(
    ["layer", "seconds", "GFLOP/s", "engine's product", "ratio", "ratio by the paper's count"],
    rows.map((row) => [
      `${row.k} × ${row.n}, ${row.name}`,
      row.seconds.toFixed(3),
      (row.operationsPerSecond / 1e9).toFixed(1),
      (row.engineOperationsPerSecond / 1e9).toFixed(1),
      row.ratio.toFixed(2),
      row.paperRatio.toFixed(2),
    ]),
  ),
);
