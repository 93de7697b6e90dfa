/** The proof of a model too large to be run whole: some of its layers are cut out, run beside the original's, and compared. */
import { throwIfAborted } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { both } from "../base/settle.ts";
import type { Value } from "../ir/graph.ts";
import type { Model } from "../ir/model.ts";
import { asNumbers } from "../run/arrays.ts";
import { openSession } from "../run/open-session.node.ts";
import type { NdArray, SessionOptions } from "../run/session.ts";
import { syntheticFeeds } from "../run/synthetic.ts";
import { extract } from "../transform/extract.ts";

/** Layers that are run: the largest ones and as many drawn at random, enough to meet every kind of layer of usual models. */
const LARGEST = 4;
const RANDOM = 4;
/** Rows fed to each layer. */
const ROWS = 16;

export interface LayersProof {
  readonly layers: readonly string[];
  readonly of: number;
  readonly maxAbsError: number;
  readonly sqnrDb: number;
  readonly cosine: number;
  readonly samples: number;
}

interface Pair {
  readonly name: string;
  readonly bytes: number;
  readonly before: Model;
  readonly after: Model;
}

/**
 * Compares layers whose output has the same name in both models. Memory: two layers at a time. Inputs are drawn from
 * N(0, 1). Undefined when no layer can be cut out of both.
 */
export async function proveLayers(
  original: Model,
  model: Model,
  options: SessionOptions & { readonly seed: number },
): Promise<LayersProof | undefined> {
  const pairs = matchingLayers(original, model);
  // Two sessions at a time: one thread each, unless the caller wants more
  const sessionOptions = { ...options, threads: options.threads || 1 };
  const rng = new Rng(options.seed);
  const bySize = [...pairs].sort((a, b) => b.bytes - a.bytes);
  const chosen = [...bySize.slice(0, LARGEST), ...rng.shuffle(bySize.slice(LARGEST)).slice(0, RANDOM)];
  let signal = 0;
  let noise = 0;
  let dot = 0;
  let energy = 0;
  let maxAbsError = 0;
  for (const { before, after } of chosen) {
    throwIfAborted(options.signal);
    const [x, y] = await both(runOnce(before, sessionOptions), runOnce(after, sessionOptions));
    for (let i = 0; i < x.length; i++) {
      const [a, b] = [x[i] as number, y[i] as number];
      signal += a * a;
      energy += b * b;
      dot += a * b;
      noise += (a - b) ** 2;
      maxAbsError = Math.max(maxAbsError, Math.abs(a - b));
    }
  }
  if (chosen.length === 0) return undefined;
  return {
    layers: chosen.map(({ name }) => name),
    of: pairs.length,
    maxAbsError,
    sqnrDb: 10 * Math.log10(signal / noise), // SQNR = Σx² / Σ(x − y)²
    cosine: dot / Math.sqrt(signal * energy),
    samples: ROWS * chosen.length,
  };
}

/** Layers with weights: single nodes of the original, and in the result whatever computes the same value from the same inputs. */
function matchingLayers(original: Model, model: Model): Pair[] {
  const values = new Map<string, Value>();
  for (const value of model.graph.values()) values.set(value.name, value);
  const pairs: Pair[] = [];
  for (const node of original.graph.nodes) {
    const bytes = node.inputs.reduce((sum, input) => sum + (input?.tensor?.byteLength ?? 0), 0);
    const inputs = node.inputs.filter((input): input is Value => input !== undefined && !input.tensor);
    const output = node.outputs[0];
    const now = output && values.get(output.name);
    const nowInputs = inputs.map((input) => values.get(input.name));
    if (bytes === 0 || !output || !now || inputs.length !== 1 || !nowInputs.every((value) => value !== undefined))
      continue;
    const before = extract(original, inputs, [output]);
    const after = extract(model, nowInputs, [now]);
    if (before && after) pairs.push({ name: node.name || output.name, bytes, before, after });
  }
  return pairs;
}

async function runOnce(model: Model, options: SessionOptions & { readonly seed: number }): Promise<ArrayLike<number>> {
  const { seed, ...sessionOptions } = options;
  const session = await openSession(model, sessionOptions);
  try {
    const outputs = await session.run(syntheticFeeds(session.inputs, { seed, batch: ROWS }));
    return asNumbers(Object.values(outputs)[0] as NdArray);
  } finally {
    await session.close();
  }
}
