/**
 * LeNet-5 on MNIST loses, round after round, the sixth of its hidden units that are zero most often (APoZ), or a sixth at random, and is
 * trained on after each round; after some rounds the same architecture is trained from new random weights for as many epochs as all
 * rounds had together. Test error over the parameters that are left, three seeds.
 * `node experiments/network-trimming/mnist.mjs [--data ../shared/data] [--runs n] [--part share]` after `npm run build`; recorded runs
 * are skipped. `--part 0.02` tries the script out on a part of the data and records nothing.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { costOf } from "../../dist/analyse/cost.js";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { saveFile } from "../../dist/ir/save.node.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { pruneChannels } from "../../dist/techniques/prune/channels/prune-channels.js";
import { formatSteps } from "../../dist/techniques/recipe.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { reinitialise } from "../../dist/techniques/tune/reinitialise.js";
import { openMnistStudy } from "../mnist-study.mjs";
import { errorOf } from "../study.mjs";

const RECIPE = { learningRate: 0.02, weightDecay: 5e-4, schedule: "cosine", warmup: 0.1 };
const DENSE_EPOCHS = 3;
const ROUND_EPOCHS = 0.5;
const ROUNDS = 12;
/** One standard deviation above the mean, the paper's limit, leaves out a sixth of what is normally distributed. */
const SHARE = 1 / 6;
const SCORES = ["apoz", "random"];
const REINITIALISED = [6, 12];
const SEEDS = [1, 2, 3];

const folder = dirname(fileURLToPath(import.meta.url));
const { options, models, train, test, study } = await openMnistStudy(folder);
const { threads } = options;

const widthsOf = (model) =>
  model.graph.nodes.flatMap(({ opType, inputs }) => {
    const shape = inputs[1]?.tensor?.shape ?? [];
    return opType === "Conv" ? [shape[0]] : opType === "Gemm" || opType === "MatMul" ? [Math.min(...shape)] : [];
  });

for (const seed of SEEDS) {
  const fileOf = (name) => join(models, `lenet-5-${name}-${seed}.onnx`);
  const made = async (key, name, from, steps) => {
    await study.run({ ...key, seed }, async () => {
      const { model } = await runSteps(await from(), steps, { data: train, seed: 100 * seed + key.round, threads });
      await saveFile(model, fileOf(name), { force: true });
      const error = await errorOf(await loadFile(fileOf(name)), test, threads);
      return { error, parameters: costOf(model).parameters, macs: costOf(model).macs, widths: widthsOf(model), recipe: formatSteps(steps) };
    });
  };
  const dense = async () => loadFile(fileOf("dense"));
  await made({ method: "dense", round: 0 }, "dense", async () => buildArchitecture("lenet-5", { seed }), [
    finetune({ ...RECIPE, epochs: DENSE_EPOCHS }),
  ]);
  await made({ method: "dense, trained on", round: 0 }, "dense-longer", dense, [finetune({ ...RECIPE, epochs: REINITIALISED[0] * ROUND_EPOCHS })]);
  for (const score of SCORES)
    for (let round = 1; round <= ROUNDS; round++) {
      const before = round === 1 ? dense : async () => loadFile(fileOf(`${score}-${round - 1}`));
      await made({ method: score, round }, `${score}-${round}`, before, [
        pruneChannels({ score, ratio: SHARE, samples: 2048, keep: ["op:Conv"] }),
        finetune({ ...RECIPE, epochs: ROUND_EPOCHS }),
      ]);
    }
  for (const round of REINITIALISED)
    if (existsSync(fileOf(`apoz-${round}`)))
      await made({ method: "apoz, weights drawn anew", round }, `anew-${round}`, async () => loadFile(fileOf(`apoz-${round}`)), [
        reinitialise(),
        finetune({ ...RECIPE, epochs: DENSE_EPOCHS + round * ROUND_EPOCHS }),
      ]);
}
