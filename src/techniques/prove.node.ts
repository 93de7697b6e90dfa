/** The proof of a result: a session opens on the target provider, and its outputs are compared with the original's. */
import { PareError, messageOf } from "../base/error.ts";
import { inferShapes } from "../analyse/shapes.ts";
import type { Dataset } from "../data/dataset.ts";
import { hasIntegerArithmetic } from "../analyse/engine-kernels.ts";
import { fidelity } from "../evaluate/fidelity.node.ts";
import { type IntegerReport, integerReport } from "../evaluate/integer-report.node.ts";
import { cloneModel } from "../ir/clone.ts";
import type { Model } from "../ir/model.ts";
import type { Provider } from "../run/session.ts";
import { proveLayers } from "./prove-layers.node.ts";
import { sampleFeeds } from "./samples.ts";

/** Models with more weights than this, in bytes, are proven layer by layer: running them whole could outgrow the memory. */
const WHOLE_MODEL_BYTES = 2 ** 30;

export interface Proof {
  readonly session: boolean;
  readonly provider: Provider;
  /** Worst over the outputs, against the original. */
  readonly maxAbsError: number | undefined;
  readonly sqnrDb: number | undefined;
  readonly cosine: number | undefined;
  readonly samples: number;
  /** What the outputs were compared on. */
  readonly on: "data" | "synthetic" | "layers";
  /** What the proof leaves open. */
  readonly note?: string;
}

export interface ProofOptions {
  readonly data?: Dataset | undefined;
  readonly evaluation?: Dataset | undefined;
  readonly seed?: number | undefined;
  readonly provider?: Provider | undefined;
  readonly threads?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Proves `model` against `original`. Throws `verification` when it does not open, or answers NaN where the original does not. */
export async function prove(original: Model, model: Model, options: ProofOptions = {}): Promise<Proof> {
  const { provider = "cpu", threads, signal, seed = 1 } = options;
  if (original.initializerBytes > WHOLE_MODEL_BYTES)
    return proveByLayers(original, model, { provider, threads, signal, seed });
  const data = options.evaluation ?? options.data;
  const sessions = { data, provider, threads, signal, seed };
  const found = await fidelity(original, model, sessions).catch(async (error: unknown) => {
    if (!(error instanceof PareError) || error.code !== "engine") throw error;
    await checkRuns(original, sessions);
    throw new PareError("verification", "The result does not run, so it was not written", {
      found: messageOf(error),
      cause: error,
    });
  });
  const silent = found.outputs.find((output) => output.referenceIsNaN);
  if (silent)
    throw new PareError("verification", "The original answers NaN only, so nothing can be proven", {
      where: silent.name,
      help: "'pare check --weights' finds weights that are not numbers; else name real inputs with --evaluate",
    });
  if (Number.isNaN(found.maxAbsError) || Number.isNaN(found.sqnrDb))
    throw new PareError("verification", "The result answers NaN where the original does not, so it was not written", {
      where: found.outputs.find((output) => Number.isNaN(output.maxAbsError))?.name ?? "outputs",
      help: "Keep the layers that overflow: --keep NAME; 'pare compare' shows where it begins",
    });
  const { maxAbsError, sqnrDb, cosine, samples, inputs } = found;
  return { session: true, provider, maxAbsError, sqnrDb, cosine, samples, on: inputs };
}

/** What the engine runs on integers, and the time beside the original's; undefined where there are none, or the model is too large. */
export async function proveIntegers(
  original: Model,
  model: Model,
  options: ProofOptions = {},
): Promise<IntegerReport | undefined> {
  if (original.initializerBytes > WHOLE_MODEL_BYTES || !hasIntegerArithmetic(model)) return undefined;
  const { provider = "cpu", threads, signal, seed = 1 } = options;
  const [feeds] = await sampleFeeds(original, { data: options.evaluation ?? options.data, seed, signal }, 1);
  return feeds && integerReport(original, model, feeds, { provider, threads, signal });
}

/** Throws when the original itself does not run on the inputs of the proof: then its result cannot be blamed. */
async function checkRuns(original: Model, options: Parameters<typeof fidelity>[2]): Promise<void> {
  await fidelity(original, original, options).catch((error: unknown) => {
    if (!(error instanceof PareError) || error.code !== "engine") throw error;
    throw new PareError("verification", "The original does not run on these inputs, so nothing can be proven", {
      found: messageOf(error),
      help: options?.data
        ? "Name samples that suit the model, or repair it: 'pare check' shows what is wrong with it"
        : "Name real inputs with --evaluate: the synthetic ones do not suit this model",
      cause: error,
    });
  });
}

async function proveByLayers(
  original: Model,
  model: Model,
  options: { provider: Provider; threads: number | undefined; signal: AbortSignal | undefined; seed: number },
): Promise<Proof> {
  const { provider } = options;
  const [before, after] = [cloneModel(original), cloneModel(model)];
  inferShapes(before);
  inferShapes(after);
  const found = await proveLayers(before, after, options);
  if (!found)
    throw new PareError("verification", "No layer of this large model could be run beside the original's", {
      help: "Its structure was changed too much for a layer-wise proof; compress it in smaller steps",
    });
  const { maxAbsError, sqnrDb, cosine, samples } = found;
  const note = `The model is too large to be run whole here: ${found.layers.length} of ${found.of} layers were run beside the original's.`;
  return { session: true, provider, maxAbsError, sqnrDb, cosine, samples, on: "layers", note };
}
