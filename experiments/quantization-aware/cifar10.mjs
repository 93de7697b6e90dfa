/**
 * A pretrained ResNet-20 is trained on JPEG copies of CIFAR-10 for few epochs: in floating point, and by the same recipe with
 * weights and activations of few bits; the hardest for twice as long, too. Every result is stored, loaded again and judged on the JPEG test set.
 * `node experiments/quantization-aware/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n] [--part share]` after
 * `npm run build`, FOLDER being the unpacked cifar10-jpg.tar.gz; recorded runs are skipped. `--part 0.01` tries the script out
 * on a part of the pictures and records nothing; `--only W2A2` makes that network alone.
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadFile } from "../../dist/ir/load.node.js";
import { quantizeAware } from "../../dist/techniques/quantize-aware/quantize-aware.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { judged, openCifarStudy } from "../cifar10-study.mjs";
import { applied } from "../study.mjs";

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
const { options, models, train, test, study } = await openCifarStudy(folder, { own: { only: { type: "string" } } });
const { threads } = options;
const pretrained = await loadFile(join(options.data, "models", "resnet20-cifar10.onnx"));
const fileOf = (network, epochs) => join(models, `cifar10-${network.replace(/[^\w]+/g, "-")}-${epochs}.onnx`);

await study.run({ network: "pretrained" }, () => judged(pretrained, fileOf("pretrained", 0), test, threads));
for (const [epochs, networks] of COURSES)
  for (const network of networks) {
    if (options.only && options.only !== network) continue;
    await study.run({ network, epochs }, async () => {
      const started = performance.now();
      const { result, recipe } = await applied(pretrained, NETWORKS[network]({ ...RECIPE, epochs }), train, options, 1);
      const trainSeconds = Number(((performance.now() - started) / 1000).toFixed(1));
      const reference = network === FLOAT ? undefined : fileOf(FLOAT, epochs);
      return { ...(await judged(result, fileOf(network, epochs), test, threads, reference)), trainSeconds, recipe };
    });
  }
