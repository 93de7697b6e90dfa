/** What studies of the real language model share: the model, the stories that judge it, the text that it is calibrated on, and results on disk. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { datasetOf, evaluate, load, openDataset, openSession } from "../dist/index.js";
import { decoderOf, writeText } from "../dist/run/write-text.js";

/** The folder of shared data: the first argument that is no flag, else beside the checkout. */
export const shared =
  process.argv.slice(2).find((word) => !word.startsWith("-")) ?? join(import.meta.dirname, "..", "..", "shared", "data");
const folder = join(shared, "models", "stories260k");
const stories = join(shared, "text", "tinystories", "tinystories_sample.txt");

export const MODEL = join(folder, "model.onnx");
/** Five stories, each from its start token, as a data set's name. */
export const JUDGE = `text:${stories}?vocab=${join(folder, "tokenizer.json")}&format=documents&separator=<|endoftext|>&length=512&start=1`;
/** Texts that the model writes itself. */
export const CALIBRATION = { count: 32, length: 128, seed: 1 };
const textFile = join(import.meta.dirname, "language-model-bits", "calibration-text.json");

/** Written whole or not at all. */
export function store(path, value, indent) {
  writeFileSync(`${path}.tmp`, `${JSON.stringify(value, null, indent)}\n`);
  renameSync(`${path}.tmp`, path);
}

/** Recorded results, or what they start from. */
export function recorded(path, start) {
  return existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : start;
}

/** The model, its score on the stories, and the calibration text, which is written where it is not kept yet. */
export async function openStudy() {
  const { count, length, seed } = CALIBRATION;
  const model = await load(MODEL);
  const judge = await openDataset(JUDGE);
  if (!existsSync(textFile)) {
    const text = await writeText(model, decoderOf(model), { count, length, seed, start: 1 }, openSession, {});
    store(textFile, Array.from(text, Number));
  }
  const tokens = BigInt64Array.from(JSON.parse(readFileSync(textFile, "utf8")), BigInt);
  const data = datasetOf({ fields: { input_ids: { dtype: "int64", shape: [count, length], data: tokens } } });
  const score = async (subject) => {
    const { metrics } = await evaluate(subject, judge, { threads: 1 });
    return { perplexity: metrics.perplexity, loss: metrics.loss };
  };
  return { model, data, score };
}
