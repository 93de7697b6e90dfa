/**
 * Channels of a ResNet-20 are removed and the rest is fine-tuned on JPEG copies of CIFAR-10: half and two thirds of the
 * multiplications, beside the unpruned network trained for as long by the same recipe; and five scores at equal multiplications, with
 * three seeds. All start from the pretrained network after a few epochs on these pictures.
 * `node experiments/channel-pruning/cifar10.mjs --pictures FOLDER [--data ../shared/data] [--runs n] [--part share]
 * [--only unpruned|cuts|scores|speed]` after `npm run build`, FOLDER being the unpacked cifar10-jpg.tar.gz; recorded runs are skipped.
 * `--only` makes a part of the study, so that two processes may share it; speed wants a quiet machine. `--part 0.01` tries the script
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
import { judge, judged, lostBetween, openCifarStudy } from "../cifar10-study.mjs";
import { kept } from "../study.mjs";

const RECIPE = { weightDecay: 1e-4, flip: true, crop: 4, schedule: "cosine", warmup: 0.05 };
const FIRST = { ...RECIPE, learningRate: 0.03, epochs: 3 };
/** After the cut, and for the unpruned network too: the network after the first epochs teaches. */
const THEN = { ...RECIPE, learningRate: 0.1, epochs: 7, teacher: "original" };
/** Channels inside residual blocks go, in multiples of 8 for the engine's blocks. */
const CUT = { kind: ["channels"], score: "taylor", samples: 1024, multipleOf: 8 };
/** Shares of the multiplications that go, layers compared by the loss; no layer loses more of its channels than that. */
const CUTS = [
  { macs: 0.5, scope: "global", maxRatio: 0.63 },
  { macs: 0.667, scope: "global", maxRatio: 0.8 },
];
/** Where scores are compared, every layer loses as many, so that only the choice among its channels differs. */
const SCORE_CUT = { macs: 0.5, scope: "local" };
const SCORES = ["l1", "taylor", "apoz", "geometric-median", "random"];
const SEEDS = [1, 2, 3];
const AFTER_SCORE = { ...RECIPE, learningRate: 0.03, epochs: 0.5 };
/** Samples per run and rounds of the timing. */
const BATCH = 8;
const ROUNDS = 31;

const folder = dirname(fileURLToPath(import.meta.url));
const { options, models, train, test, study } = await openCifarStudy(folder, { own: { only: { type: "string" } } });
const { threads } = options;
const wanted = (part) => !options.only || options.only === part;
const fileOf = (name) => join(models, `cifar10-${name}.onnx`);
const pretrained = await loadFile(join(options.data, "models", "resnet20-cifar10.onnx"));

const first = () =>
  kept(fileOf("first"), async () => {
    const { model } = await runSteps(pretrained, [finetune(FIRST)], { data: train, seed: 1, threads });
    return model;
  });

/** One row: the first network after the steps, stored under its name and judged. */
async function made(key, name, steps) {
  await study.run(key, async () => {
    const { model } = await runSteps(await first(), steps, { data: train, seed: key.seed, threads });
    return { ...(await judged(model, fileOf(name), test, threads)), recipe: formatSteps(steps) };
  });
}

/** Points lost against the unpruned network, picture by picture, and its time over the pruned one's, in turns. */
async function compared(path, reference) {
  const lost = lostBetween(await judge(path, test, threads), await judge(reference, test, threads));
  const [plain, pruned] = await Promise.all([reference, path].map((file) => openSession(file, { threads: 1 })));
  const data = Float32Array.from({ length: BATCH * 3 * 32 * 32 }, (_, i) => Math.sin(i));
  const feeds = { [plain.inputs[0].name]: { dtype: "float32", shape: [BATCH, 3, 32, 32], data } };
  const { ratio } = await latencyRatio(plain, pruned, feeds, { rounds: ROUNDS });
  await Promise.all([plain, pruned].map((session) => session.close()));
  return { lost, speed: [1 / ratio.value, 1 / ratio.high, 1 / ratio.low].map((each) => Number(each.toFixed(3))) };
}

await study.run({ cut: 0, epochs: 0, seed: 1 }, async () => judged(pretrained, fileOf("pretrained"), test, threads));
await made({ cut: 0, epochs: FIRST.epochs, seed: 1 }, "unpruned-first", []);
const all = FIRST.epochs + THEN.epochs;
if (wanted("cuts"))
  for (const cut of CUTS)
    await made({ cut: cut.macs, epochs: all, seed: 1 }, `cut-${cut.macs}`, [pruneChannels({ ...CUT, ...cut }), finetune(THEN)]);
if (wanted("scores"))
  for (const seed of SEEDS)
    for (const score of SCORES) {
      const steps = [pruneChannels({ ...CUT, ...SCORE_CUT, score }), finetune(AFTER_SCORE)];
      await made({ cut: SCORE_CUT.macs, score, epochs: FIRST.epochs + AFTER_SCORE.epochs, seed }, `score-${score}-${seed}`, steps);
    }
if (wanted("unpruned")) await made({ cut: 0, epochs: all, seed: 1 }, "unpruned", [finetune(THEN)]);
if (wanted("speed"))
  for (const { macs } of CUTS)
    if (existsSync(fileOf(`cut-${macs}`)) && existsSync(fileOf("unpruned")))
      await study.run({ compared: macs, seed: 1 }, () => compared(fileOf(`cut-${macs}`), fileOf("unpruned")));
