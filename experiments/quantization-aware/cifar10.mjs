/**
 * A pretrained ResNet-20 is trained on JPEG copies of CIFAR-10 for few epochs: in floating point, and by the same recipe with
 * weights and activations of few bits; the hardest for twice as long, too. Every result is stored, loaded again and judged on the JPEG test set.
 * `node experiments/quantization-aware/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n] [--part share]` after
 * `npm run build`, FOLDER being the unpacked cifar10-jpg.tar.gz; recorded runs are skipped. `--part 0.01` tries the script out
 * on a part of the pictures and records nothing; `--only W2A2` makes that network alone.
 */
import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { meanInterval } from "../../dist/base/statistics.js";
import { openDataset } from "../../dist/data/open.node.js";
import { evaluate } from "../../dist/evaluate/evaluate.node.js";
import { sizeOf } from "../../dist/evaluate/size.node.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { saveFile } from "../../dist/ir/save.node.js";
import { quantizeAware } from "../../dist/techniques/quantize-aware/quantize-aware.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { applied, Study, studyOptions } from "../distillation/study.mjs";

const RECIPE = { learningRate: 0.03, weightDecay: 1e-4, flip: true, crop: 4, schedule: "cosine", warmup: 0.05 };
const FLOAT = "float";
/** Each network's step, given the recipe. */
const NETWORKS = {
  [FLOAT]: finetune,
  W4A4: (recipe) => quantizeAware({ ...recipe, weights: 4, activations: 4 }),
  W3A3: (recipe) => quantizeAware({ ...recipe, weights: 3, activations: 3 }),
  W2A2: (recipe) => quantizeAware({ ...recipe, weights: 2, activations: 2 }),
  "ternary weights, A8": (recipe) => quantizeAware({ ...recipe, weights: "ternary", activations: 8 }),
  W8A8: (recipe) => quantizeAware({ ...recipe, weights: 8, activations: 8 }),
  "binary weights, A8": (recipe) => quantizeAware({ ...recipe, weights: "binary", activations: 8 }),
  "ternary weights (TWN), A8": (recipe) => quantizeAware({ ...recipe, weights: "ternary", rule: "mean", activations: 8 }),
  "ternary weights (TTQ), A8": (recipe) => quantizeAware({ ...recipe, weights: "ternary", rule: "trained", activations: 8 }),
};
/** Epochs, and the networks that are trained for them. */
const COURSES = [
  [3, Object.keys(NETWORKS)],
  [6, [FLOAT, "W2A2"]],
];

const folder = dirname(fileURLToPath(import.meta.url));
const options = studyOptions({
  part: { type: "string", default: "1" },
  only: { type: "string" },
  models: { type: "string", default: join(folder, "..", "..", ".tmp", "quantization-aware") },
});
const { threads } = options;
const part = Number(options.part);
if (!options.pictures || !existsSync(options.pictures)) {
  console.error("skipped: needs the unpacked pictures, --pictures FOLDER");
  process.exit(0);
}
const here = part < 1 ? mkdtempSync(join(tmpdir(), "quantization-aware-")) : folder;
const models = part < 1 ? here : options.models;
const study = new Study("cifar10", options, here);
const NORM = "scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225";
const some = (set) => (part < 1 ? set.subset({ part: [0, part], seed: 1 }) : set);
const train = some(await openDataset(`images:${join(options.pictures, "train")}?${NORM}`));
const test = some(await openDataset(`images:${join(options.pictures, "test")}?${NORM}`));
const pretrained = await loadFile(join(options.data, "models", "resnet20-cifar10.onnx"));

const fileOf = (network, epochs) => join(models, `cifar10-${network.replace(/[^\w]+/g, "-")}-${epochs}.onnx`);
const hits = async (path) => {
  const { metrics, rows } = await evaluate(path, test, { threads });
  return { accuracy: metrics.accuracy, hits: Float64Array.from(rows.ranks, (rank) => (rank === 0 ? 1 : 0)) };
};
const round = ({ value, low, high }) => [value, low, high].map((each) => Number(each.toFixed(5)));

/** Accuracy, and what is lost against the float network on the same pictures, as shares with 95 % intervals; bytes. */
async function figuresOf(network, epochs, path) {
  const own = await hits(path);
  const float = network === FLOAT ? own : await hits(fileOf(FLOAT, epochs));
  const { bytes, brotliBytes } = await sizeOf(path);
  const lost = round(meanInterval(own.hits.map((hit, i) => float.hits[i] - hit)));
  return { accuracy: round(own.accuracy), lost, samples: own.hits.length, bytes, brotliBytes };
}

await study.run({ network: "pretrained" }, async () => {
  const path = fileOf("pretrained", 0);
  await saveFile(pretrained, path, { force: true });
  const { accuracy } = await hits(path);
  const { bytes, brotliBytes } = await sizeOf(path);
  return { accuracy: round(accuracy), samples: test.size, bytes, brotliBytes };
});
for (const [epochs, networks] of COURSES)
  for (const network of networks) {
    if (options.only && options.only !== network) continue;
    await study.run({ network, epochs }, async () => {
      const path = fileOf(network, epochs);
      const started = performance.now();
      const { result, recipe } = await applied(pretrained, NETWORKS[network]({ ...RECIPE, epochs }), train, options, 1);
      const trainSeconds = Number(((performance.now() - started) / 1000).toFixed(1));
      await saveFile(result, path, { force: true });
      return { ...(await figuresOf(network, epochs, path)), trainSeconds, recipe };
    });
  }
