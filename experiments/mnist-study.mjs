/** What studies on MNIST share: the digits, and where models and results go. */
import { mkdirSync } from "node:fs";
import { openDataset } from "../dist/data/open.node.js";
import { Study, studyOptions, workplace, workplaceOptions } from "./study.mjs";

/**
 * Opens the study `mnist` of the experiment in `folder`: options, recorded runs, training and test digits in 0..1, where models are
 * kept. `--part 0.02` works on a part of the digits, in a temporary folder.
 */
export async function openMnistStudy(folder, own = {}) {
  const options = studyOptions({ ...workplaceOptions(folder), ...own });
  const { records, models, some } = workplace(folder, options);
  mkdirSync(models, { recursive: true });
  const open = async (split) => some(await openDataset(`idx:${options.data}/mnist?split=${split}&scale=255`));
  const [train, test] = [await open("train"), await open("test")];
  return { options, models, train, test, study: new Study(records, "mnist", options) };
}
