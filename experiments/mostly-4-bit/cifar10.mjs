/**
 * Is a quantized ResNet best mostly at 4 bits ("Pareto-Optimal Quantized ResNet Is Mostly 4-bit", arXiv 2105.03536)? A ResNet of
 * depth 8 at three widths is trained from scratch on JPEG copies of CIFAR-10, and from there on, by one recipe, in floating
 * point, at 8 bits, at 4 bits, and at 4 bits with the first and last layer at 8.
 * `node experiments/mostly-4-bit/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n] [--part share]` after
 * `npm run build`, FOLDER being the unpacked cifar10-jpg.tar.gz; recorded runs are skipped. `--part 0.01` tries the script out
 * on a part of the pictures and records nothing.
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { costOf } from "../../dist/analyse/cost.js";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { quantizeAware } from "../../dist/techniques/quantize-aware/quantize-aware.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { CIFAR_NORM, judged, openCifarStudy } from "../cifar10-study.mjs";
import { applied, kept } from "../study.mjs";

const WIDTHS = [8, 16, 24];
const COMMON = { weightDecay: 5e-4, flip: true, crop: 4 };
const FIRST = { ...COMMON, epochs: 4, learningRate: 0.1, schedule: "one-cycle", warmup: 0.3 };
const THEN = { ...COMMON, epochs: 2, learningRate: 0.02, schedule: "cosine", warmup: 0.05 };
const PRECISIONS = [
  ["float", finetune(THEN)],
  ["8 bits", quantizeAware({ ...THEN, weights: 8, activations: 8 })],
  ["4 bits", quantizeAware({ ...THEN, weights: 4, activations: 4, ends: 4 })],
  ["4 bits, ends 8", quantizeAware({ ...THEN, weights: 4, activations: 4, ends: 8 })],
];

const folder = dirname(fileURLToPath(import.meta.url));
const { options, models, train, test, study } = await openCifarStudy(folder, { norm: CIFAR_NORM });
const { threads } = options;

/** Σ macs · max(bits of weights, bits of activations): what hardware pays whose throughput doubles as bits halve. */
const linearCost = (model) =>
  costOf(model).layers.reduce((sum, layer) => sum + layer.macs * Math.max(layer.weightBits, layer.activationBits), 0);

for (const width of WIDTHS) {
  const start = join(models, `cifar10-${width}.onnx`);
  for (const [precision, step] of PRECISIONS)
    await study.run({ width, precision }, async () => {
      const first = await kept(start, async () => {
        const scratch = buildArchitecture("resnet-20", { blocks: 1, width, seed: 1 });
        return (await applied(scratch, finetune(FIRST), train, options, 1)).result;
      });
      const { result, recipe } = await applied(first, step, train, options, 1);
      const path = join(models, `cifar10-${width}-${precision.replace(/[^\w]+/g, "-")}.onnx`);
      const figures = await judged(result, path, test, threads);
      return { ...figures, linear: linearCost(await loadFile(path)), recipe };
    });
}
