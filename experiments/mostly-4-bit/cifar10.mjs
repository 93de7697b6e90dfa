/**
 * Is a quantized ResNet best mostly at 4 bits ("Pareto-Optimal Quantized ResNet Is Mostly 4-bit", arXiv 2105.03536)? A ResNet of
 * depth 8 at three widths is trained from scratch on JPEG copies of CIFAR-10, and from there on, by one recipe, in floating
 * point, at 8 bits, at 4 bits, and at 4 bits with the first and last layer at 8.
 * `node experiments/mostly-4-bit/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n] [--part share]` after
 * `npm run build`, FOLDER being the unpacked cifar10-jpg.tar.gz; recorded runs are skipped. `--part 0.01` tries the script out
 * on a part of the pictures and records nothing.
 */
import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { costOf } from "../../dist/analyse/cost.js";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { openDataset } from "../../dist/data/open.node.js";
import { evaluate } from "../../dist/evaluate/evaluate.node.js";
import { sizeOf } from "../../dist/evaluate/size.node.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { saveFile } from "../../dist/ir/save.node.js";
import { quantizeAware } from "../../dist/techniques/quantize-aware/quantize-aware.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { applied, Study, studyOptions } from "../distillation/study.mjs";

const WIDTHS = [8, 16, 32];
const COMMON = { weightDecay: 5e-4, flip: true, crop: 4 };
const FIRST = { ...COMMON, epochs: 5, learningRate: 0.1, schedule: "one-cycle", warmup: 0.3 };
const THEN = { ...COMMON, epochs: 2, learningRate: 0.02, schedule: "cosine", warmup: 0.05 };
const PRECISIONS = [
  ["float", finetune(THEN)],
  ["8 bits", quantizeAware({ ...THEN, weights: 8, activations: 8 })],
  ["4 bits", quantizeAware({ ...THEN, weights: 4, activations: 4, ends: 4 })],
  ["4 bits, ends 8", quantizeAware({ ...THEN, weights: 4, activations: 4, ends: 8 })],
];

const folder = dirname(fileURLToPath(import.meta.url));
const options = studyOptions({
  part: { type: "string", default: "1" },
  models: { type: "string", default: join(folder, "..", "..", ".tmp", "mostly-4-bit") },
});
const { threads } = options;
const part = Number(options.part);
if (!options.pictures || !existsSync(options.pictures)) {
  console.error("skipped: needs the unpacked pictures, --pictures FOLDER");
  process.exit(0);
}
const here = part < 1 ? mkdtempSync(join(tmpdir(), "mostly-4-bit-")) : folder;
const models = part < 1 ? here : options.models;
const study = new Study("cifar10", options, here);
const NORM = "scale=255&mean=0.4914,0.4822,0.4465&std=0.247,0.2435,0.2616";
const some = (set) => (part < 1 ? set.subset({ part: [0, part], seed: 1 }) : set);
const train = some(await openDataset(`images:${join(options.pictures, "train")}?${NORM}`));
const test = some(await openDataset(`images:${join(options.pictures, "test")}?${NORM}`));

/** Σ macs · max(bits of weights, bits of activations): what hardware pays whose throughput doubles as bits halve. */
const linearCost = (model) =>
  costOf(model).layers.reduce((sum, layer) => sum + layer.macs * Math.max(layer.weightBits, layer.activationBits), 0);
const round = ({ value, low, high }) => [value, low, high].map((each) => Number(each.toFixed(5)));

for (const width of WIDTHS) {
  const start = join(models, `cifar10-${width}.onnx`);
  for (const [precision, step] of PRECISIONS)
    await study.run({ width, precision }, async () => {
      if (!existsSync(start)) {
        const scratch = buildArchitecture("resnet-20", { blocks: 1, width, seed: 1 });
        await saveFile((await applied(scratch, finetune(FIRST), train, options, 1)).result, start, { force: true });
      }
      const { result, recipe } = await applied(await loadFile(start), step, train, options, 1);
      const path = join(models, `cifar10-${width}-${precision.replace(/[^\w]+/g, "-")}.onnx`);
      await saveFile(result, path, { force: true });
      const { metrics } = await evaluate(path, test, { threads });
      const { bytes, brotliBytes, macs, bops, parameters } = await sizeOf(path);
      const linear = linearCost(await loadFile(path));
      return { accuracy: round(metrics.accuracy), samples: test.size, macs, bops, linear, parameters, bytes, brotliBytes, recipe };
    });
}
