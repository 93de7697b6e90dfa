/**
 * A larger network made small beside a smaller one trained as it is, at equal parameters and equal epochs, on JPEG copies of
 * CIFAR-10; whether the weights that pruning keeps are worth anything, and whether a better architecture is worth more.
 * `node experiments/large-then-compress/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n] [--part share]` after
 * `npm run build`, FOLDER being the unpacked cifar10-jpg.tar.gz; recorded runs are skipped. `--part 0.01` tries the script out
 * on a part of the pictures and records nothing.
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { costOf } from "../../dist/analyse/cost.js";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { pruneChannels } from "../../dist/techniques/prune/channels/prune-channels.js";
import { quantizeAware } from "../../dist/techniques/quantize-aware/quantize-aware.js";
import { formatSteps } from "../../dist/techniques/recipe.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { reinitialise } from "../../dist/techniques/tune/reinitialise.js";
import { CIFAR_NORM, judged, openCifarStudy } from "../cifar10-study.mjs";
import { kept } from "../study.mjs";

const COMMON = { weightDecay: 5e-4, flip: true, crop: 4 };
const FIRST = { ...COMMON, epochs: 4, learningRate: 0.1, schedule: "one-cycle", warmup: 0.3 };
const THEN = { ...COMMON, epochs: 2, learningRate: 0.05, schedule: "cosine", warmup: 0.05 };
/** ResNets of one block per stage, the larger and the smaller; a plain network of as many parameters as the larger. */
const BUILT = {
  large: () => buildArchitecture("resnet-20", { blocks: 1, width: 16, seed: 1 }),
  small: () => buildArchitecture("resnet-20", { blocks: 1, width: 8, seed: 1 }),
  plain: () => buildArchitecture("small-cnn", { input: [3, 32, 32], classes: 10, width: 16, seed: 1 }),
};

const folder = dirname(fileURLToPath(import.meta.url));
const { options, models, train, test, study } = await openCifarStudy(folder, { norm: CIFAR_NORM });
const { threads } = options;
const parameters = (model) => costOf(model).parameters;

/** The network after the first epochs, kept for all rows that go on from it. */
const started = (name) =>
  kept(join(models, `cifar10-${name}.onnx`), async () => {
    const { model } = await runSteps(BUILT[name](), [finetune(FIRST)], { data: train, seed: 1, threads });
    return model;
  });

/** Options of a cut down to the parameters of `wanted`. */
const downTo = (model, wanted) => ({ parameters: 1 - parameters(wanted) / parameters(model), scope: "local" });

const small = BUILT.small();
const ROWS = {
  "small, as it is": ["small", () => [finetune(THEN)]],
  "large, as it is": ["large", () => [finetune(THEN)]],
  "large, pruned to the small one's parameters": ["large", (m) => [pruneChannels(downTo(m, small)), finetune(THEN)]],
  "large, channels removed at random": ["large", (m) => [pruneChannels({ ...downTo(m, small), score: "random" }), finetune(THEN)]],
  "large, pruned, weights drawn anew": ["large", (m) => [pruneChannels(downTo(m, small)), reinitialise(), finetune(THEN)]],
  "large, pruned, weights drawn anew, all epochs": [
    "large",
    (m) => [pruneChannels(downTo(m, small)), reinitialise(), finetune(FIRST), finetune(THEN)],
  ],
  "plain, as it is": ["plain", () => [finetune(THEN)]],
  "plain, pruned to the small one's parameters": ["plain", (m) => [pruneChannels(downTo(m, small)), finetune(THEN)]],
  "small, 8 bits": ["small", () => [quantizeAware({ ...THEN, weights: 8, activations: 8 })]],
  "large, 2 bits": ["large", () => [quantizeAware({ ...THEN, weights: 2, activations: 8, ends: 2 })]],
};

for (const [network, [start, stepsOf]] of Object.entries(ROWS))
  await study.run({ network }, async () => {
    const model = await started(start);
    const steps = stepsOf(model);
    const { model: result } = await runSteps(model, steps, { data: train, seed: 1, threads });
    const path = join(models, `cifar10-${network.replace(/[^\w]+/g, "-")}.onnx`);
    return { ...(await judged(result, path, test, threads)), start, recipe: formatSteps(steps) };
  });
