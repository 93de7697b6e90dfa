/** How faithful one model is to another, without labels: SQNR, cosine, agreement, divergence, largest error. */
import { PareError, throwIfAborted } from "../base/error.ts";
import { isFloat } from "../base/dtype.ts";
import { formatShape } from "../base/shape.ts";
import { type Interval, StreamingMoments, intervalOfMoments, wilsonInterval } from "../base/statistics.ts";
import { asFloat32 } from "../run/arrays.ts";
import { type FeedChunk, dropPadding } from "../run/feeds.ts";
import type { NdArray, Session } from "../run/session.ts";
import { tensorOutputs } from "./collect.ts";
import type { PortTranslation } from "./port-translation.ts";
import { ErrorSums } from "./compare.ts";
import { areProbabilities, argmax, divergence } from "./rows.ts";

/** One output of both models. */
export interface OutputFidelity {
  readonly name: string;
  /** 10·log10(Σy² / Σ(ŷ−y)²); Infinity when equal. */
  readonly sqnrDb: number;
  readonly cosine: number;
  /** NaN, as is `sqnrDb`, when the candidate answers NaN where the reference does not. */
  readonly maxAbsError: number;
  /** The reference answers nothing but NaN here: there is nothing to be faithful to. */
  readonly referenceIsNaN: boolean;
  /** Share of rows along the last axis with the same highest score; undefined unless it is a float output with such rows. */
  readonly agreement?: Interval | undefined;
  /** Mean Kullback-Leibler divergence of the rows' distributions in nats; undefined as above. */
  readonly klNats?: Interval | undefined;
}

export interface Fidelity {
  readonly samples: number;
  readonly inputs: "data" | "synthetic";
  /** Worst over the outputs. */
  readonly sqnrDb: number;
  readonly cosine: number;
  readonly maxAbsError: number;
  /** Of the first output that has it. */
  readonly agreement?: Interval | undefined;
  readonly klNats?: Interval | undefined;
  readonly outputs: readonly OutputFidelity[];
}

/**
 * Runs both sessions on the same feeds, translated where the candidate's tokens or outputs were cut. The candidate's inputs and outputs
 * must carry the reference's names.
 */
export async function fidelityOf(
  reference: Session,
  candidate: Session,
  chunks: AsyncIterable<FeedChunk> | Iterable<FeedChunk>,
  options: { readonly inputs: "data" | "synthetic"; readonly signal?: AbortSignal | undefined },
  translation?: PortTranslation,
): Promise<Fidelity> {
  const names = tensorOutputs(reference);
  for (const name of names)
    if (!candidate.outputs.some((port) => port.name === name))
      throw new PareError("verification", `The models differ in their outputs: '${name}' is missing`);
  const outputs = new Map(names.map((name) => [name, new OutputSums(name)]));
  let samples = 0;
  for await (const chunk of chunks) {
    throwIfAborted(options.signal);
    const feeds = translation?.reference(chunk.feeds) ?? chunk.feeds;
    const expected = await reference.run(feeds, names);
    const actual = await candidate.run((await translation?.candidate(feeds)) ?? feeds, names);
    for (const [name, sums] of outputs) {
      const [a, b] = [expected[name], actual[name]];
      const same = a && translation ? await translation.output(name, a) : a;
      if (same && b) sums.add(dropPadding(same, chunk), dropPadding(b, chunk));
    }
    samples += chunk.size;
  }
  if (samples === 0) throw new PareError("bad-data", "There is not one sample to compare on");
  const results = [...outputs.values()].map((sums) => sums.result());
  const classified = results.find((result) => result.agreement !== undefined);
  return {
    samples,
    inputs: options.inputs,
    sqnrDb: Math.min(...results.map((result) => result.sqnrDb)),
    cosine: Math.min(...results.map((result) => result.cosine)),
    maxAbsError: Math.max(...results.map((result) => result.maxAbsError)),
    agreement: classified?.agreement,
    klNats: classified?.klNats,
    outputs: results,
  };
}

/** Sums over batches from which the fidelity of one output follows. */
export class OutputSums {
  readonly #name: string;
  readonly #sums = new ErrorSums();
  readonly #divergences = new StreamingMoments();
  #candidateNaN = 0;
  #referenceNaN = 0;
  #elements = 0;
  #rows = 0;
  #agreeing = 0;
  #probabilities: boolean | undefined;

  constructor(name: string) {
    this.#name = name;
  }

  add(expected: NdArray, actual: NdArray): void {
    if (formatShape(expected.shape) !== formatShape(actual.shape))
      throw new PareError("verification", `Output '${this.#name}' has another shape`, {
        found: formatShape(actual.shape),
        expected: formatShape(expected.shape),
      });
    if (expected.dtype === "string") {
      this.#addStrings(expected.data as readonly string[], actual.data as readonly string[]);
      return;
    }
    this.#elements += expected.data.length;
    const [a, b] = this.#comparable(asFloat32(expected), asFloat32(actual));
    this.#sums.add(a, b);
    const width = lastAxis(expected);
    if (isFloat(expected.dtype) && width > 1) this.#addRows(a, b, width);
  }

  /** Both arrays with equal infinities and NaN in both (masked scores) taken out; counts NaN that only the candidate has. */
  #comparable(a: Float32Array, b: Float32Array): [Float32Array, Float32Array] {
    if (a.every(Number.isFinite) && b.every(Number.isFinite)) return [a, b];
    const [x, y] = [a.slice(), b.slice()];
    for (let i = 0; i < x.length; i++) {
      if (Number.isNaN(x[i])) this.#referenceNaN++;
      else if (Number.isNaN(y[i])) this.#candidateNaN++;
      if (!Number.isFinite(x[i]) && Object.is(x[i], y[i])) x[i] = y[i] = 0;
    }
    return [x, y];
  }

  #addStrings(a: readonly string[], b: readonly string[]): void {
    const ones = new Float32Array(a.length).fill(1);
    this.#sums.add(
      ones,
      Float32Array.from(a, (text, i) => (text === b[i] ? 1 : 0)),
    );
  }

  #addRows(a: Float32Array, b: Float32Array, width: number): void {
    this.#probabilities ??= areProbabilities(a, width);
    for (let offset = 0; offset + width <= a.length; offset += width) {
      this.#rows++;
      const highest = argmax(a, offset, width);
      if (highest >= 0 && highest === argmax(b, offset, width)) this.#agreeing++;
      const kl = divergence(a, b, offset, width, this.#probabilities);
      this.#divergences.add(Number.isNaN(kl) ? Number.POSITIVE_INFINITY : kl);
    }
  }

  result(): OutputFidelity {
    const { sqnrDb, cosine, maxAbsError } = this.#sums.result;
    const rows = this.#rows > 0;
    const broken = this.#candidateNaN > 0;
    return {
      name: this.#name,
      sqnrDb: broken ? Number.NaN : sqnrDb,
      cosine,
      maxAbsError: broken ? Number.NaN : maxAbsError,
      referenceIsNaN: this.#elements > 0 && this.#referenceNaN === this.#elements,
      agreement: rows ? wilsonInterval(this.#agreeing, this.#rows) : undefined,
      klNats: rows ? intervalOfMoments(this.#divergences) : undefined,
    };
  }
}

/** Size of the last axis that is not 1: (n, classes, 1, 1) is as good as (n, classes). */
function lastAxis(array: NdArray): number {
  for (let axis = array.shape.length - 1; axis > 0; axis--) if (array.shape[axis] !== 1) return array.shape[axis] ?? 1;
  return 1;
}
