/**
 * Is a network that was trained towards zeros better to cut than one that was not? A ResNet of depth 8, trained from scratch on
 * JPEG copies of CIFAR-10, is trained on plainly, with a group lasso over its channels, with l1 on the scales of its normalizations
 * (slimming) and with growing regularization, for as long; each result is cut to the same multiplications and fine-tuned by one
 * recipe, and so is the plain one by the same scores.
 * `node experiments/sparsity-training/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n] [--part share]` after
 * `npm run build`, FOLDER being the unpacked cifar10-jpg.tar.gz; recorded runs are skipped. `--part 0.01` tries the script out on a
 * part of the pictures and records nothing.
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { channelGroups } from "../../dist/analyse/groups.js";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { cloneModel } from "../../dist/ir/clone.js";
import { formatStep } from "../../dist/techniques/recipe.js";
import { pruneChannels } from "../../dist/techniques/prune/channels/prune-channels.js";
import { countZeroGroups, shrinkGroupsOf } from "../../dist/techniques/sparsify/channel-shrinkage.js";
import { sparsify } from "../../dist/techniques/sparsify/sparsify.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { CIFAR_NORM, judged, openCifarStudy } from "../cifar10-study.mjs";
import { applied, kept } from "../study.mjs";

const COMMON = { weightDecay: 5e-4, flip: true, crop: 4 };
const FIRST = { ...COMMON, epochs: 3, learningRate: 0.1, schedule: "one-cycle", warmup: 0.3 };
const THEN = { ...COMMON, epochs: 2, learningRate: 0.1, schedule: "cosine" };
const LAST = { ...COMMON, epochs: 0.5, learningRate: 0.02, schedule: "cosine" };
/** Multiplications that go. */
const CUTS = [0.5, 0.75];
/** How the network is trained before the cut, and the score that the cut goes by; the plain one is cut by both. */
const TRAININGS = [
  { training: "plain", step: finetune(THEN), scores: ["l2", "scale"] },
  { training: "group lasso", step: sparsify({ ...THEN, method: "group-lasso", strength: 2.5e-4 }), scores: ["l2"] },
  { training: "slimming", step: sparsify({ ...THEN, method: "scale", strength: 2.5e-3 }), scores: ["scale"] },
  { training: "growing", step: sparsify({ ...THEN, method: "growing", ratio: 0.4 }), scores: ["l2"] },
];

const folder = dirname(fileURLToPath(import.meta.url));
const { options, models, train, test, study } = await openCifarStudy(folder, { norm: CIFAR_NORM });
const { threads } = options;

const fileOf = (name) => join(models, `${name.replace(/[^\w.]+/g, "-")}.onnx`);

const start = () =>
  kept(fileOf("start"), async () => {
    const scratch = buildArchitecture("resnet-20", { blocks: 1, width: 16, seed: 1 });
    return (await applied(scratch, finetune(FIRST), train, options, 1)).result;
  });
const trained = ({ training, step }) =>
  kept(fileOf(training), async () => (await applied(await start(), step, train, options, 1)).result);

async function zeroChannels(trained) {
  const model = cloneModel(trained);
  let [zero, all] = [0, 0];
  for (const family of channelGroups(model).families) {
    const groups = shrinkGroupsOf(model, family, "all");
    if (!groups) continue;
    zero += await countZeroGroups(model, groups);
    all += groups.count;
  }
  return { zero, channels: all };
}

for (const each of TRAININGS) {
  const { training, scores } = each;
  await study.run({ training, cut: 0 }, async () => {
    const model = await trained(each);
    return { ...(await judged(model, fileOf(training), test, threads)), ...(await zeroChannels(model)), recipe: formatStep(each.step) };
  });
  for (const score of scores)
    for (const cut of CUTS)
      await study.run({ training, cut, score }, async () => {
        const how = pruneChannels({ macs: cut, scope: "global", score });
        const { result, recipe } = await applied(await trained(each), how, undefined, options, 1);
        const name = `${training}-${score}-${cut}`;
        const before = await judged(result, fileOf(`${name}-cut`), test, threads);
        const tuned = await applied(result, finetune(LAST), train, options, 1);
        const after = await judged(tuned.result, fileOf(name), test, threads, fileOf(TRAININGS[0].training));
        return { before: before.accuracy, ...after, recipe: `${recipe}; ${tuned.recipe}` };
      });
}
