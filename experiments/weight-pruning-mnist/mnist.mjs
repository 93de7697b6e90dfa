/**
 * LeNet-300-100 and LeNet-5 on MNIST with ever fewer weights: pruned step by step by magnitude, by first-order Taylor scores and at
 * random, with training after each step; pruned before any training by SNIP; and lottery tickets, pruned step by step and trained
 * from their first values each time. Test error over the share of the weights that is kept, three seeds.
 * `node experiments/weight-pruning-mnist/mnist.mjs [--network lenet-300-100|lenet-5] [--data ../shared/data] [--runs n]
 * [--budget factor] [--part share]` after `npm run build`; recorded runs are skipped. `--budget 2` trains twice as long everywhere;
 * `--part 0.02` tries the script out on a part of the data and records nothing.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { saveFile } from "../../dist/ir/save.node.js";
import { lottery } from "../../dist/techniques/prune/weights/lottery.js";
import { pruneWeights } from "../../dist/techniques/prune/weights/prune-weights.js";
import { rewindWeights, snapshotWeights } from "../../dist/techniques/prune/weights/rewind.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { weightSites } from "../../dist/transform/weight-sites.js";
import { openMnistStudy } from "../mnist-study.mjs";
import { applied, errorOf } from "../study.mjs";

/** Epochs: of the dense network, after each pruning of trained weights, and of what starts from its first values. */
const NETWORKS = {
  "lenet-300-100": {
    kept: [0.5, 0.2, 0.08, 0.05, 0.02, 0.01, 0.005],
    epochs: { dense: 10, tuned: 5, fresh: 6 },
    training: { learningRate: 0.1 },
  },
  "lenet-5": {
    kept: [0.2, 0.08, 0.02, 0.005],
    epochs: { dense: 3, tuned: 1.2, fresh: 1.5 },
    training: { learningRate: 0.02, warmup: 0.1 },
  },
};
const COMMON = { weightDecay: 5e-4, schedule: "cosine" };
const SEEDS = [1, 2, 3];
/** What goes, when so much goes: shares by layer follow from LAMP scores, the gradient's scores, or, at random, from the layers' shapes. */
const PRUNED = {
  magnitude: { score: "magnitude", allocation: "lamp" },
  gradient: { score: "taylor", scope: "global", samples: 256 },
  random: { score: "random", allocation: "erk" },
  snip: { score: "snip", samples: 1280 },
  lottery: { score: "magnitude", allocation: "lamp" },
};

const folder = dirname(fileURLToPath(import.meta.url));
const own = { network: { type: "string" }, budget: { type: "string", default: "1" } };
const { options, models, train, test, study } = await openMnistStudy(folder, own);
const { threads } = options;
const budget = Number(options.budget);

async function keptShare(model) {
  let [left, all] = [0, 0];
  for (const { tensor } of weightSites(model, { roles: ["kernel"] })) {
    const weights = await tensor.data();
    all += weights.length;
    left += weights.filter((w) => w !== 0).length;
  }
  return Number((left / all).toFixed(5));
}

for (const [network, { kept, epochs, training }] of Object.entries(NETWORKS)) {
  if (options.network && options.network !== network) continue;
  for (const seed of SEEDS) {
    const recipe = (count) => ({ ...COMMON, ...training, epochs: budget * count });
    const begin = () => buildArchitecture(network, { seed });
    const step = async (model, how, own) => (await applied(model, how, train, options, own)).result;
    /** The file of a method's network at its k-th share, −1 being the dense one; made from the one before it where it is missing. */
    const stage = async (method, k) => {
      const path = join(models, `${network}-${k < 0 ? "dense" : `${method}-${kept[k]}`}-${seed}.onnx`);
      if (!existsSync(path)) await saveFile(await made(method, k), path, { force: true });
      return path;
    };
    const made = async (method, k) => {
      if (k < 0) return step(begin(), finetune(recipe(epochs.dense)), seed);
      const own = 100 * seed + k; // other samples where a step sees a part of an epoch, another random choice
      const how = { ...PRUNED[method], ratio: 1 - kept[k], store: "dense" };
      if (method === "snip")
        return step(await step(begin(), pruneWeights(how), own), finetune(recipe(epochs.fresh)), own);
      const before = await loadFile(await stage(method, k - 1));
      if (method !== "lottery")
        return step(before, lottery({ ...recipe(epochs.tuned), ...how, rewind: "none", rounds: 1 }), own);
      const ticket = await step(before, pruneWeights(how), own);
      await rewindWeights(ticket, snapshotWeights(begin()));
      return step(ticket, finetune(recipe(epochs.fresh)), own);
    };
    const judged = async (path) => {
      const model = await loadFile(path);
      return { share: await keptShare(model), error: await errorOf(model, test, threads) };
    };
    await study.run({ network, method: "dense", kept: 1, seed }, async () => judged(await stage("dense", -1)));
    await study.run({ network, method: "dense, trained on", kept: 1, seed }, async () => {
      // As long as the network at 8 % was trained on by magnitude pruning: what longer training alone is worth.
      const rounds = kept.indexOf(0.08) + 1;
      const more = await step(await loadFile(await stage("dense", -1)), finetune(recipe(rounds * epochs.tuned)), 100 * seed);
      const path = join(models, `${network}-dense-longer-${seed}.onnx`);
      await saveFile(more, path, { force: true });
      return judged(path);
    });
    for (const method of Object.keys(PRUNED))
      for (const [k, share] of kept.entries())
        await study.run({ network, method, kept: share, seed }, async () => judged(await stage(method, k)));
  }
}
