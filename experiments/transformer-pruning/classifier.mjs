/**
 * Heads, neurons, blocks and layers removed from two classifiers: a vision transformer pretrained on CIFAR-10, and a BERT of four
 * layers that is trained on SST-2 first; without and with one epoch of training afterwards.
 * `node experiments/transformer-pruning/classifier.mjs [--data ../shared/data] [--models FOLDER] [--runs n]` after `npm run build`;
 * recorded runs are skipped.
 */
import { join } from "node:path";
import { costOf } from "../../dist/analyse/cost.js";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { openDataset } from "../../dist/data/open.node.js";
import { evaluate } from "../../dist/evaluate/evaluate.node.js";
import { loadFile } from "../../dist/ir/load.node.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { kept, rounded, Study, studyOptions } from "../study.mjs";
import { cuts } from "./cuts.mjs";

const options = studyOptions();
const { threads, models, data } = options;
const study = new Study(import.meta.dirname, "classifier", options);

async function vision() {
  const norm = "scale=255&mean=0.4914,0.4822,0.4465&std=0.2023,0.1994,0.201";
  const open = (split) => openDataset(`cifar10:${join(data, "cifar10-exact")}?split=${split}&${norm}`);
  const model = await loadFile(join(data, "models", "cifar10-vit-ibp_3_3_8.onnx"));
  return { model, train: await open("train"), test: await open("test"), layers: 3, rate: 0.0003 };
}

/** Subwords of the tokenizer of the stories model: 512 of them. */
async function sentiment() {
  const vocab = join(data, "models", "stories260k", "tokenizer.json");
  const open = (split) => openDataset(`text:${join(data, "text", "sst2", `${split}.tsv`)}?format=tsv&vocab=${vocab}&length=64`);
  const [train, test] = [await open("train"), await open("dev")];
  const model = await kept(join(models, "sst2-bert.onnx"), async () => {
    const start = buildArchitecture("bert-mini", { vocabulary: 512, sequence: 64, layers: 4, width: 64, heads: 4, seed: 1 });
    return (await runSteps(start, [training(0.001, 6)], { data: train, seed: 1, threads })).model;
  });
  return { model, train, test, layers: 4, rate: 0.0003 };
}

function training(learningRate, epochs) {
  return finetune({ epochs, learningRate, batch: 32, optimizer: "adamw", weightDecay: 0.01, warmup: 0.1, clipNorm: 1 });
}

async function figures(subject, test) {
  const { metrics } = await evaluate(subject, test, { threads });
  const { macs, parameters } = costOf(subject);
  return { accuracy: rounded(metrics.accuracy), macs, parameters };
}

/** Cuts after which one epoch of training is tried, too: those of half of the heads or neurons, two blocks, one layer. */
const isTuned = ({ part, amount, score }) =>
  ["random", "l2", "taylor", "output"].includes(score) &&
  ((/^(heads|neurons)$/.test(part) && amount === 0.5) || (part === "blocks" && amount === 2) || (part === "layers" && amount === 1));

for (const [network, open] of Object.entries({ vision, sentiment })) {
  const { model, train, test, layers, rate } = await open();
  await study.run({ network, part: "none" }, () => figures(model, test));
  await study.run({ network, part: "none", epochs: 1 }, async () => {
    const { model: tuned } = await runSteps(model, [training(rate, 1)], { seed: 1, data: train, threads });
    return figures(tuned, test);
  });
  for (const cut of cuts({ grouped: false, layers })) {
    const { part, score, amount, step } = cut;
    for (const epochs of isTuned(cut) ? [0, 1] : [0])
      await study.run({ network, part, score, amount, epochs }, async () => {
        const steps = [step(), ...(epochs > 0 ? [training(rate, epochs)] : [])];
        const { model: result, steps: done } = await runSteps(model, steps, { seed: 1, data: train, threads });
        return { ...(await figures(result, test)), changed: done[0].changed.length };
      });
  }
}
