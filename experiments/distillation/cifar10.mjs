/**
 * A pretrained ResNet-20 is fine-tuned for one epoch on JPEG copies of CIFAR-10 and then teaches a ResNet-20 of half its width,
 * a quarter of its multiplications; the same student learns without it by the same recipe. Three seeds each.
 * `node experiments/distillation/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n]` after `npm run build`, FOLDER being
 * the unpacked cifar10-jpg.tar.gz; recorded runs are skipped.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { costOf } from "../../dist/analyse/cost.js";
import { openDataset } from "../../dist/data/open.node.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { distill } from "../../dist/techniques/distill/distill.js";
import { formatStep } from "../../dist/techniques/recipe.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { applied, errorOf, kept, Study, studyOptions } from "../study.mjs";

const FINETUNING = { epochs: 1, learningRate: 0.01, flip: true };
const STUDENT = "resnet-20:width=8";
const TRAINING = { epochs: 4, learningRate: 0.1, weightDecay: 5e-4, schedule: "cosine", warmup: 0.1 };
const TEACHING = { share: 0.9, temperature: 4 };
const SEEDS = [1, 2, 3];

const folder = dirname(fileURLToPath(import.meta.url));
const options = studyOptions();
const { threads } = options;
if (!options.pictures || !existsSync(options.pictures)) {
  console.error("skipped: needs the unpacked pictures, --pictures FOLDER");
  process.exit(0);
}
const study = new Study(folder, "cifar10", options);
const NORM = "scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225";
const train50k = await openDataset(`images:${join(options.pictures, "train")}?${NORM}`);
const test = await openDataset(`images:${join(options.pictures, "test")}?${NORM}`);

const pretrained = await loadFile(join(options.data, "models", "resnet20-cifar10.onnx"));
const macs = (model) => costOf(model).macs;
await study.run({ network: "pretrained ResNet-20", teacher: false, seed: 1 }, async () => ({
  error: await errorOf(pretrained, test, threads),
  macs: macs(pretrained),
}));
const path = join(options.models, "cifar10-teacher.onnx");
const teacher = await kept(path, async () => (await applied(pretrained, finetune(FINETUNING), train50k, options, 1)).result);
await study.run({ network: "fine-tuned ResNet-20", teacher: false, seed: 1 }, async () => ({
  error: await errorOf(teacher, test, threads),
  macs: macs(teacher),
  recipe: formatStep(finetune(FINETUNING)),
}));

for (const seed of SEEDS)
  for (const taught of [true, false])
    await study.run({ network: "ResNet-20, half the width", teacher: taught, seed }, async () => {
      const step = distill({ student: STUDENT, ...TRAINING, ...(taught ? TEACHING : { share: 0 }) });
      const { result, recipe } = await applied(teacher, step, train50k, options, seed);
      return { error: await errorOf(result, test, threads), macs: macs(result), recipe };
    });
