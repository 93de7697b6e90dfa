/** The real networks of the benchmarks of techniques: their samples, how techniques are applied to them, and who is right. */
import { join } from "node:path";
import { openDataset } from "../dist/data/open.node.js";
import { evaluate } from "../dist/evaluate/evaluate.node.js";
import { loadFile } from "../dist/ir/load.node.js";
import { feedChunks } from "../dist/run/feeds.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";

const NORM = "scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225";

/** Where each network's samples are: two parts, or one that is halved. */
const SAMPLES = {
  "resnet20-cifar10": {
    calibrate: (data) => `cifar10:${data}/cifar10-exact?split=train&${NORM}`,
    judge: (data) => `cifar10:${data}/cifar10-exact?split=test&${NORM}`,
  },
  "mobilenetv2-imagenet": { halves: (data) => imagenet(data, `crop=224&${NORM}`) },
  "squeezenet1.1-imagenet": { halves: (data) => imagenet(data, `crop=224&${NORM}`) },
  "mcunet-imagenet": { halves: (data) => imagenet(data, "resize=176&crop=176&scale=127.5&mean=1") },
  "lenet5-mnist": {
    calibrate: (data) => `idx:${data}/mnist?split=train&scale=256`,
    judge: (data) => `idx:${data}/mnist?split=test&scale=256`,
  },
  "dscnn-kws": {
    halves: (data) =>
      `npz:${data}/audio/kws01/kws01-features.npy?labels=${data}/audio/kws01/kws01-labels.npy&scale=1.7102788&mean=48.5301`,
  },
};
export const NETWORKS = Object.keys(SAMPLES);

function imagenet(data, preprocessing) {
  return `images:${data}/imagenet-mini/images?labels=${data}/imagenet-mini/labels.csv&classes=1000&${preprocessing}`;
}

export function pathOf(name, data) {
  return join(data, "models", `${name}.onnx`);
}

/** The network and its folds of calibration and judging sets. Halves are used both ways, so that every sample is judged by a model that was not calibrated on it. */
export async function openNetwork(name, data) {
  const { calibrate, judge, halves } = SAMPLES[name];
  const original = await loadFile(pathOf(name, data));
  if (!halves) return { original, folds: [[await openDataset(calibrate(data)), await openDataset(judge(data))]] };
  const all = await openDataset(halves(data));
  const [a, b] = [all.subset({ part: [0, 0.5], seed: 7 }), all.subset({ part: [0.5, 1], seed: 7 })];
  return {
    original,
    folds: [
      [a, b],
      [b, a],
    ],
  };
}

/** The network after the steps. */
export async function applied(steps, original, calibration, threads) {
  return (await runSteps(original, steps, { data: calibration, seed: 1, threads })).model;
}

/** 1 where the sample is classified rightly, over all folds in order; one model for each fold, or one for all. */
export async function hits(models, folds, threads) {
  const all = [];
  for (const [index, [, judged]] of folds.entries()) {
    const { rows } = await evaluate(models[index] ?? models[0], judged, { metrics: ["accuracy"], threads });
    for (const rank of rows.ranks) all.push(rank === 0 ? 1 : 0);
  }
  return all;
}

/** What a session is fed with to run the first samples that are judged. */
export async function feedsOf(session, folds, size) {
  return feedChunks(session.inputs, await folds[0][1].take(Array.from({ length: size }, (_, i) => i)))[0].feeds;
}
