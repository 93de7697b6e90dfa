/**
 * Hinton's experiment on MNIST: a large teacher that has seen shifted digits, and students of four sizes that learn the
 * plain digits from labels alone, or from the teacher's soft answers too, at five temperatures, three seeds each.
 * `node experiments/distillation/mnist.mjs [--data ../shared/data] [--runs n]` after `npm run build`; recorded runs are skipped.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { openDataset } from "../../dist/data/open.node.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { saveFile } from "../../dist/ir/save.node.js";
import { distill } from "../../dist/techniques/distill/distill.js";
import { train } from "../../dist/train/train.node.js";
import { applied, errorOf, Study, studyOptions } from "../study.mjs";

const TEACHER = { hidden: [1200, 1200] };
const TEACHER_TRAINING = {
  epochs: 8,
  learningRate: 0.1,
  nesterov: true,
  weightDecay: 1e-4,
  schedule: "one-cycle",
  augment: { crop: 2 },
};
const STUDENTS = ["300-100", "100-100", "30", "10-10"];
const TEMPERATURES = [2, 6, 20];
const SEEDS = [1, 2, 3];
const TRAINING = { epochs: 10, learningRate: 0.1, schedule: "cosine", weightDecay: 1e-4 };

const folder = dirname(fileURLToPath(import.meta.url));
const options = studyOptions();
const { threads } = options;
const study = new Study(folder, "mnist", options);
const train60k = await openDataset(`idx:${options.data}/mnist?split=train&scale=255`);
const test = await openDataset(`idx:${options.data}/mnist?split=test&scale=255`);

const path = join(options.models, "mnist-teacher.onnx");
if (!existsSync(path)) {
  const model = buildArchitecture("mlp", { ...TEACHER, seed: 1 });
  await train(model, train60k, { ...TEACHER_TRAINING, seed: 1, threads, checkpoint: `${path}.checkpoint`, resume: true });
  await saveFile(model, path, { force: true });
}
const teacher = await loadFile(path);
await study.run({ network: "teacher 1200-1200", teacher: false, temperature: null, seed: 1 }, async () => ({
  error: await errorOf(teacher, test, threads),
  recipe: "8 epochs, one-cycle to 0.1, digits shifted by up to 2 pixels",
}));

for (const seed of SEEDS)
  for (const student of STUDENTS) {
    const learn = (key, how) =>
      study.run({ network: student, seed, ...key }, async () => {
        const step = distill({ student: `mlp:hidden=${student}`, ...TRAINING, ...how });
        const { result, recipe } = await applied(teacher, step, train60k, options, seed);
        return { error: await errorOf(result, test, threads), recipe };
      });
    await learn({ teacher: false, temperature: null }, { share: 0 });
    for (const temperature of TEMPERATURES) await learn({ teacher: true, temperature }, { share: 0.9, temperature });
  }
