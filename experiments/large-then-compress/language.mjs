/**
 * A larger language model of characters made small beside a smaller one trained as it is, at equal non-zero parameters and at equal
 * bytes of weights ("Train Large, Then Compress", Li et al. 2020, arXiv 2002.11794), on Tiny Shakespeare.
 * `node experiments/large-then-compress/language.mjs [--data ../shared/data] [--runs n]` after `npm run build`; recorded runs are skipped.
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { costOf } from "../../dist/analyse/cost.js";
import { buildArchitecture } from "../../dist/architectures/build.js";
import { openDataset } from "../../dist/data/open.node.js";
import { evaluate } from "../../dist/evaluate/evaluate.node.js";
import { sizeOf } from "../../dist/evaluate/size.node.js";
import { saveFile } from "../../dist/ir/save.node.js";
import { runSteps } from "../../dist/techniques/pipeline.node.js";
import { pruneWeights } from "../../dist/techniques/prune/weights/prune-weights.js";
import { cast } from "../../dist/techniques/quantize/cast.js";
import { quantizeWeights } from "../../dist/techniques/quantize/weights/quantize-weights.js";
import { formatSteps } from "../../dist/techniques/recipe.js";
import { finetune } from "../../dist/techniques/tune/finetune.js";
import { kept, rounded, Study, studyOptions } from "../study.mjs";

const COMMON = { batch: 16, optimizer: "adamw", beta2: 0.99, weightDecay: 0.1, clipNorm: 1, warmup: 0.05 };
const FIRST = { ...COMMON, epochs: 0.7, learningRate: 0.003 };
const THEN = { ...COMMON, epochs: 0.3, learningRate: 0.001 };
const BUILT = {
  large: () => buildArchitecture("gpt-nano", { width: 128, seed: 1 }),
  small: () => buildArchitecture("gpt-nano", { width: 64, seed: 1 }),
};

const folder = dirname(fileURLToPath(import.meta.url));
const options = studyOptions({ models: { type: "string", default: join(folder, "..", "..", ".tmp", "large-then-compress") } });
const { threads, models } = options;
const study = new Study(folder, "language", options);
const text = (rest) => openDataset(`text:${join(options.data, "text", "tinyshakespeare.txt")}?vocab=chars&length=128&${rest}`);
// Windows start every 31 characters; the last tenth is kept for the test, and no window reaches into it.
const train = await text("stride=31&part=0,0.8998");
const test = await text("part=0.9,1");

/** The network after the first epochs, kept for all rows that go on from it. */
const started = (name) =>
  kept(join(models, `language-${name}.onnx`), async () => {
    const { model } = await runSteps(BUILT[name](), [finetune(FIRST)], { data: train, seed: 1, threads });
    return model;
  });

/** Share of the large network's parameters that must be zero, so that the rest are as many as the small one's. */
const sparsity = 1 - costOf(BUILT.small()).parameters / costOf(BUILT.large()).parameters;
const ROWS = {
  "small, as it is": ["small", [finetune(THEN)]],
  "large, as it is": ["large", [finetune(THEN)]],
  "large, small weights pruned": ["large", [pruneWeights({ ratio: sparsity, tables: true }), finetune(THEN)]],
  "large, weights pruned at random": ["large", [pruneWeights({ ratio: sparsity, tables: true, score: "random" }), finetune(THEN)]],
  "small, fp16": ["small", [finetune(THEN), cast({ storage: true })]],
  "large, int4": ["large", [finetune(THEN), quantizeWeights({ to: "int4" })]],
  "small, int8": ["small", [finetune(THEN), quantizeWeights({ to: "int8" })]],
  "large, int2": ["large", [finetune(THEN), quantizeWeights({ to: "int2" })]],
};

for (const [network, [start, steps]] of Object.entries(ROWS))
  await study.run({ network }, async () => {
    const { model } = await runSteps(await started(start), steps, { data: train, seed: 1, threads });
    const path = join(models, `language-${network.replace(/[^\w]+/g, "-")}.onnx`);
    await saveFile(model, path, { force: true });
    const { metrics } = await evaluate(path, test, { threads });
    const { parameters, nonzero, bytes, brotliBytes } = await sizeOf(path);
    return { loss: rounded(metrics.loss), start, parameters, nonzero, bytes, brotliBytes, recipe: formatSteps(steps) };
  });
