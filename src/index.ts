/** The public names of pare, and nothing else. */

// Nouns
export { Builder } from "./ir/builder.ts";
export { Graph, Node, Value } from "./ir/graph.ts";
export { Model } from "./ir/model.ts";
export { Tensor } from "./ir/tensor.ts";
export type { Batch, BatchOptions, Dataset, Field } from "./data/dataset.ts";
export type { Feeds, NdArray, Provider, Session, SessionOptions } from "./run/session.ts";
export type { Results } from "./search/results.ts";
export type { Context, Progress, Step, Technique } from "./techniques/technique.ts";
export { PareError } from "./base/error.ts";

// Files, text and data in and out
export { loadFile as load } from "./ir/load.node.ts";
export { load as loadFrom } from "./ir/load.ts";
export { saveFile as save } from "./ir/save.node.ts";
export { encodeModel } from "./ir/encode.ts";
export { parseModel } from "./ir/text-parse.ts";
export { printModel } from "./ir/text-print.ts";
export { openDataset } from "./data/open.node.ts";
export { datasetOf } from "./data/arrays.ts";

// Looking and measuring
export { checkModel } from "./ir/check.ts";
export { costOf } from "./analyse/cost.ts";
export { diffModels } from "./analyse/diff.ts";
export { inspect } from "./analyse/inspect.ts";
export { inferShapes } from "./analyse/shapes.ts";
export { benchmark, benchmarkRatio } from "./evaluate/benchmark.node.ts";
export { compareModels } from "./evaluate/compare.node.ts";
export { evaluate } from "./evaluate/evaluate.node.ts";
export { explainLayer } from "./evaluate/explain.node.ts";
export { fidelity } from "./evaluate/fidelity.node.ts";
export { sizeOf } from "./evaluate/size.node.ts";
export { openSession } from "./run/open-session.node.ts";

// Techniques and the runner that proves them
export { TECHNIQUES } from "./catalog.ts";
export { compressFile } from "./techniques/compress-file.node.ts";
export { type CompressOptions, type CompressReport, compress } from "./techniques/pipeline.node.ts";
export { distill } from "./techniques/distill/distill.ts";
export { bisect } from "./techniques/mixed/bisect.ts";
export { mix } from "./techniques/mixed/mix.ts";
export { restore } from "./techniques/mixed/restore.ts";
export { measureSensitivities, openBench } from "./techniques/mixed/sensitivity.ts";
export type { ChannelScore } from "./techniques/prune/channels/channel-scores.ts";
export { pruneVocabulary } from "./techniques/prune/vocabulary/prune-vocabulary.ts";
export { pruneBlocks } from "./techniques/prune/blocks/prune-blocks.ts";
export { pruneChannels } from "./techniques/prune/channels/prune-channels.ts";
export { pruneGradually } from "./techniques/prune/channels/prune-gradually.ts";
export { trainSparse } from "./techniques/sparsify/train-sparse.ts";
export { sparsify } from "./techniques/sparsify/sparsify.ts";
export { lottery } from "./techniques/prune/weights/lottery.ts";
export { pruneWeights } from "./techniques/prune/weights/prune-weights.ts";
export { storeSparse } from "./techniques/prune/storage/store-sparse.ts";
export { cast } from "./techniques/quantize/cast.ts";
export { quantizeDynamic } from "./techniques/quantize/quantize-dynamic.ts";
export { quantizeWeights } from "./techniques/quantize/weights/quantize-weights.ts";
export { quantize } from "./techniques/quantize/static/quantize.ts";
export { simulate } from "./techniques/quantize/simulate.ts";
export { simplify } from "./techniques/simplify/simplify.ts";
export { defineTechnique } from "./techniques/technique.ts";
export { finetune } from "./techniques/tune/finetune.ts";
export { recover } from "./techniques/tune/recover.ts";
export { reestimateBatchnorm } from "./techniques/tune/reestimate-batchnorm.ts";
export { reinitialise } from "./techniques/tune/reinitialise.ts";
export { fixInputs } from "./transform/fix-inputs.ts";
export { convertOpset } from "./transform/opset.ts";

// Training, sweeps and reports
export { ARCHITECTURES, type BuildOptions, buildArchitecture } from "./architectures/build.ts";
export type { Architecture } from "./architectures/architecture.ts";
export { grad } from "./train/grad.ts";
export { maxNorm, nonNegative } from "./train/projections.ts";
export { findLearningRate, reestimateBatchNorm, train } from "./train/train.node.ts";
export { paretoFront } from "./search/pareto.ts";
export { hypervolume } from "./search/hypervolume.ts";
export { sweep } from "./search/sweep.node.ts";
export { explainPage } from "./report/explain.ts";
export { frontSvg } from "./report/front-svg.ts";
export { htmlReport } from "./report/html.ts";
export { markdownReport } from "./report/markdown.ts";
