/**
 * Channels of a pretrained ResNet-20 are removed, and the rest is fine-tuned on JPEG copies of CIFAR-10 by the recipe that the
 * unpruned network is fine-tuned by, too: half and two thirds of the multiplications, widths chosen for the machine; and, beside it,
 * five scores at equal multiplications, in one epoch each, with three seeds.
 * `node experiments/channel-pruning/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n] [--part share] [--only cuts|scores]`
 * after `npm run build`, FOLDER being the unpacked cifar10-jpg.tar.gz; recorded runs are skipped. `--part 0.01` tries the script
 * out on a part of the pictures and records nothing.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { latencyRatio } from "../../dist/evaluate/latency.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { openSession } from "../../dist/run/open-session.node.js";
import { formatSteps } from "../../dist/techniques/recipe.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { pruneChannels } from "../../dist/techniques/prune/channels/prune-channels.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { judged, openCifarStudy } from "../cifar10-study.mjs";

const RECIPE = { learningRate: 0.03, weightDecay: 1e-4, flip: true, crop: 4, schedule: "cosine", warmup: 0.05 };
/** Shares of the multiplications that go; layers are compared by the loss, and keep multiples of 8 channels for the engine's blocks. */
const CUTS = [0.5, 0.667];
const CUT = { scope: "global", score: "taylor", samples: 1024, multipleOf: 8, maxRatio: 0.75 };
const CUT_EPOCHS = [3, 6];
/** Every score takes as many channels from every layer, so that only the choice among them differs. */
const SCORES = ["l1", "taylor", "apoz", "geometric-median", "random"];
const SEEDS = [1, 2, 3];
const SCORE_EPOCHS = 1;
/** Samples per run and threads of the timing. */
const BATCH = 8;
const ROUNDS = 15;

const folder = dirname(fileURLToPath(import.meta.url));
const { options, models, train, test, study } = await openCifarStudy(folder, { own: { only: { type: "string" } } });
const { threads } = options;
const pretrained = await loadFile(join(options.data, "models", "resnet20-cifar10.onnx"));
const wanted = (part) => !options.only || options.only === part;

/** Time of a run of the pretrained network over that of the pruned one, in turns. */
async function speedOf(model) {
  const [plain, pruned] = [await openSession(pretrained, { threads: 1 }), await openSession(model, { threads: 1 })];
  const data = Float32Array.from({ length: BATCH * 3 * 32 * 32 }, (_, i) => Math.sin(i));
  const feeds = { [plain.inputs[0].name]: { dtype: "float32", shape: [BATCH, 3, 32, 32], data } };
  const { ratio } = await latencyRatio(plain, pruned, feeds, { rounds: ROUNDS });
  await plain.close();
  await pruned.close();
  return [1 / ratio.value, 1 / ratio.high, 1 / ratio.low].map((each) => Number(each.toFixed(3)));
}

/** The unpruned network after as many epochs of the same recipe. */
async function referenceOf(epochs, seed) {
  const path = join(models, `cifar10-float-${epochs}-${seed}.onnx`);
  const step = finetune({ ...RECIPE, epochs });
  await study.run({ cut: 0, score: "none", epochs, seed }, async () => {
    const { model } = await runSteps(pretrained, [step], { data: train, seed, threads });
    return { ...(await judged(model, path, test, threads)), recipe: formatSteps([step]) };
  });
  return existsSync(path) ? path : undefined;
}

async function pruned(cut, chosen, epochs, seed, timed) {
  await study.run({ cut, score: chosen.score, scope: chosen.scope, epochs, seed }, async () => {
    const steps = [pruneChannels({ macs: cut, ...chosen }), finetune({ ...RECIPE, epochs })];
    const reference = await referenceOf(epochs, 1);
    const { model } = await runSteps(pretrained, steps, { data: train, seed, threads });
    const path = join(models, `cifar10-${cut}-${chosen.scope}-${chosen.score}-${epochs}-${seed}.onnx`);
    const figures = await judged(model, path, test, threads, reference);
    return { ...figures, ...(timed && { speed: await speedOf(model) }), recipe: formatSteps(steps) };
  });
}

await study.run({ cut: 0, score: "none", epochs: 0, seed: 1 }, async () =>
  judged(pretrained, join(models, "cifar10-pretrained.onnx"), test, threads),
);
if (wanted("cuts"))
  for (const epochs of CUT_EPOCHS) {
    await referenceOf(epochs, 1);
    for (const cut of CUTS) await pruned(cut, CUT, epochs, 1, true);
  }
if (wanted("scores")) {
  await referenceOf(SCORE_EPOCHS, 1);
  for (const seed of SEEDS)
    for (const score of SCORES) await pruned(0.5, { scope: "local", score, samples: 1024 }, SCORE_EPOCHS, seed, false);
}
