/** What studies on the JPEG copies of CIFAR-10 share: the pictures, and how a stored network is judged on them. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { meanInterval } from "../dist/base/statistics.js";
import { openDataset } from "../dist/data/open.node.js";
import { evaluate } from "../dist/evaluate/evaluate.node.js";
import { sizeOf } from "../dist/evaluate/size.node.js";
import { saveFile } from "../dist/ir/save.node.js";
import { rounded, Study, studyOptions, workplace, workplaceOptions } from "./study.mjs";

/** Means and deviations of the channels that torchvision's networks expect, and those of CIFAR-10 itself. */
export const IMAGENET_NORM = "scale=255&mean=0.485,0.456,0.406&std=0.229,0.224,0.225";
export const CIFAR_NORM = "scale=255&mean=0.4914,0.4822,0.4465&std=0.247,0.2435,0.2616";

/**
 * Opens the study `name` of the experiment in `folder`: options, recorded runs, training and test pictures, where models are
 * kept. `--part 0.01` works on a part of the pictures, in a temporary folder. Without pictures the study says so and ends.
 */
export async function openCifarStudy(folder, { name = "cifar10", norm = IMAGENET_NORM, own = {} } = {}) {
  const options = studyOptions({ ...workplaceOptions(folder), ...own });
  if (!options.pictures || !existsSync(options.pictures)) {
    console.error("skipped: needs the unpacked pictures, --pictures FOLDER");
    process.exit(0);
  }
  const { records, models, some } = workplace(folder, options);
  const open = async (split) => some(await openDataset(`images:${join(options.pictures, split)}?${norm}`));
  const [train, test] = [await open("train"), await open("test")];
  return { options, models, train, test, study: new Study(records, name, options) };
}

/** 1 for every test picture that the stored network classifies rightly, and the share of them with its interval. */
export async function judge(path, test, threads) {
  const { metrics, rows } = await evaluate(path, test, { threads });
  return { accuracy: rounded(metrics.accuracy), hits: Float64Array.from(rows.ranks, (rank) => (rank === 0 ? 1 : 0)) };
}

/** Share of the pictures that `own` gets wrong where `other` does not, less the other way round, from what {@link judge} found. */
export function lostBetween(own, other) {
  return rounded(meanInterval(own.hits.map((hit, i) => other.hits[i] - hit)));
}

/** Stores the network and judges the file, beside `reference` (a file) on the same pictures: shares with 95 % intervals; what `sizeOf` counts. */
export async function judged(model, path, test, threads, reference) {
  await saveFile(model, path, { force: true });
  const own = await judge(path, test, threads);
  const other = reference && (await judge(reference, test, threads));
  const { bytes, brotliBytes, macs, bops, parameters } = await sizeOf(path);
  const lost = other && lostBetween(own, other);
  return { accuracy: own.accuracy, ...(lost && { lost }), samples: own.hits.length, macs, bops, parameters, bytes, brotliBytes };
}
