/** Everything pare offers by name: one import line each. */
import { distill } from "./techniques/distill/distill.ts";
import { mix } from "./techniques/mixed/mix.ts";
import { restore } from "./techniques/mixed/restore.ts";
import { pruneBlocks } from "./techniques/prune/blocks/prune-blocks.ts";
import { pruneChannels } from "./techniques/prune/channels/prune-channels.ts";
import { pruneGradually } from "./techniques/prune/channels/prune-gradually.ts";
import { lottery } from "./techniques/prune/weights/lottery.ts";
import { pruneVocabulary } from "./techniques/prune/vocabulary/prune-vocabulary.ts";
import { pruneWeights } from "./techniques/prune/weights/prune-weights.ts";
import { storeSparse } from "./techniques/prune/storage/store-sparse.ts";
import { cast } from "./techniques/quantize/cast.ts";
import { quantizeAware } from "./techniques/quantize-aware/quantize-aware.ts";
import { smooth } from "./techniques/quantize/smooth.ts";
import { equalize } from "./techniques/quantize/static/equalize.ts";
import { quantizeDynamic } from "./techniques/quantize/quantize-dynamic.ts";
import { quantizeWeights } from "./techniques/quantize/weights/quantize-weights.ts";
import { simulate } from "./techniques/quantize/simulate.ts";
import { quantize } from "./techniques/quantize/static/quantize.ts";
import { simplify } from "./techniques/simplify/simplify.ts";
import { sparsify } from "./techniques/sparsify/sparsify.ts";
import { trainSparse } from "./techniques/sparsify/train-sparse.ts";
import type { Technique } from "./techniques/technique.ts";
import { finetune } from "./techniques/tune/finetune.ts";
import { recover } from "./techniques/tune/recover.ts";
import { reestimateBatchnorm } from "./techniques/tune/reestimate-batchnorm.ts";
import { reinitialise } from "./techniques/tune/reinitialise.ts";

/** Techniques in the order of help pages. */
export const TECHNIQUES: ReadonlyMap<string, Technique> = new Map(
  [
    simplify,
    cast,
    quantizeWeights,
    mix,
    smooth,
    quantizeDynamic,
    equalize,
    quantize,
    quantizeAware,
    simulate,
    pruneWeights,
    pruneChannels,
    pruneGradually,
    pruneBlocks,
    pruneVocabulary,
    lottery,
    sparsify,
    trainSparse,
    storeSparse,
    recover,
    reestimateBatchnorm,
    restore,
    finetune,
    reinitialise,
    distill,
  ].map((technique) => [technique.name, technique as unknown as Technique]),
);
