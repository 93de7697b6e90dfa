/**
 * The training steps of bench/train-step.mjs in jax-js, where it was installed beside the repository (PARE_JAX names the
 * folder): network, batch, steps. Prints the median and the shortest step in seconds, peak memory and the version. Functions of
 * jax-js take over their arguments: `.ref` keeps one for later.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { median } from "./support.mjs";

const [, , name, ...numbers] = process.argv;
const [batch, steps] = numbers.map(Number);
const peak = () => process.resourceUsage().maxRSS * 1024;
const emptyBytes = peak();
const root = join(process.env.PARE_JAX, "package.json");
const entry = createRequire(root).resolve("@jax-js/jax").replace(/\.cjs$/, ".js");
const { version } = JSON.parse(readFileSync(join(process.env.PARE_JAX, "node_modules/@jax-js/jax/package.json"), "utf8"));
const { defaultDevice, init, jit, lax, nn, numpy: np, blockUntilReady, valueAndGrad } = await import(pathToFileURL(entry).href);
await init("wasm");
defaultDevice("wasm");

const dense = (x, w, b) => np.dot(x, w).add(b);
const pool = (x) => lax.reduceWindow(x, np.max, [2, 2], [2, 2]);
const conv = (x, w, b, outputs) => lax.conv(x, w, [1, 1], "VALID").add(b.reshape([outputs, 1, 1]));
/** Shapes of the parameters, and scores from parameters and samples (n, 1, 28, 28). */
const NETWORKS = {
  "lenet-300-100": {
    shapes: [[784, 300], [300], [300, 100], [100], [100, 10], [10]],
    scores: ([w1, b1, w2, b2, w3, b3], x) => dense(nn.relu(dense(nn.relu(dense(x.reshape([batch, 784]), w1, b1)), w2, b2)), w3, b3),
  },
  "lenet-5": {
    shapes: [[20, 1, 5, 5], [20], [50, 20, 5, 5], [50], [800, 500], [500], [500, 10], [10]],
    scores: ([w1, b1, w2, b2, w3, b3, w4, b4], x) =>
      dense(nn.relu(dense(pool(conv(pool(conv(x, w1, b1, 20)), w2, b2, 50)).reshape([batch, 800]), w3, b3)), w4, b4),
  },
};

const { shapes, scores } = NETWORKS[name];
const loss = (parameters, x, y) => nn.logSoftmax(scores(parameters, x), -1).mul(y).sum().mul(-1 / batch);
const step = jit((parameters, momenta, x, y) => {
  const [value, gradients] = valueAndGrad(loss)(parameters.map((each) => each.ref), x, y);
  const moved = momenta.map((each, i) => each.mul(0.9).add(gradients[i]));
  return [value, parameters.map((each, i) => each.sub(moved[i].ref.mul(0.01))), moved];
});

const size = (shape) => shape.reduce((n, each) => n * each, 1);
const draw = (shape, scale) => np.array(Float32Array.from({ length: size(shape) }, () => scale * (Math.random() - 0.5))).reshape(shape);
let parameters = shapes.map((shape) => draw(shape, 0.1));
let momenta = shapes.map((shape) => np.zeros(shape));
const x = draw([batch, 1, 28, 28], 1);
const y = np.array(Float32Array.from({ length: batch * 10 }, (_, i) => (i % 10 === Math.floor(i / 10) % 10 ? 1 : 0))).reshape([batch, 10]);
const seconds = [];
for (let i = 0; i < steps + 2; i++) {
  const start = performance.now();
  const [value, next, moved] = step(parameters, momenta, x.ref, y.ref);
  [parameters, momenta] = [next, moved];
  await blockUntilReady([parameters, momenta]);
  await value.data();
  seconds.push((performance.now() - start) / 1000);
}
const counted = seconds.slice(2);
console.log(JSON.stringify({ median: median(counted), min: Math.min(...counted), peakBytes: peak(), emptyBytes, version }));
process.exit(0); // its worker threads stay otherwise
