/** Losses and hits of predictions on held-out samples, in double precision outside the engine. */
import { IGNORED } from "./losses/cross-entropy.ts";
import type { LossName } from "./losses/table.ts";
import type { OutputKind } from "./scores.ts";

/** Sums over some rows. */
export interface Tally {
  loss: number;
  /** Rows (or elements) that the loss is averaged over. */
  count: number;
  /** Rows (or yes-no answers) that are right; undefined where there is no right and wrong. */
  correct: number | undefined;
}

/** Outputs of some samples, labels beginning at `at`, and how many labels those samples have. */
export interface Part {
  readonly scores: Float32Array;
  readonly shape: readonly number[];
  readonly labels: ArrayLike<number>;
  readonly at: number;
  /** Labels per sample. */
  readonly width: number;
}

/** Options of a loss that say what it counts; those of its term. */
export type LossOptions = Readonly<Record<string, unknown>>;

/** What a loss is on one part, label smoothing and weights of classes left out: they are means of training, not of judging. */
export function score(loss: LossName, options: LossOptions, kind: OutputKind, part: Part): Tally {
  const option = (name: string, fallback: number): number => (options[name] as number | undefined) ?? fallback;
  switch (loss) {
    case "mse":
      return perElement(part, (x, t) => (x - t) ** 2);
    case "mae":
      return perElement(part, (x, t) => Math.abs(x - t));
    case "huber":
      return perElement(part, (x, t) => huber(Math.abs(x - t), option("delta", 1)));
    case "bce":
      return binary(part, kind);
    case "ctc":
      return sequences(part, kind, option("blank", 0));
    case "cross-entropy":
    case "kl":
      return classes(part, kind, loss === "kl", option("ignoreIndex", IGNORED));
  }
}

/** ½d² up to δ, δ(d − ½δ) beyond. */
function huber(d: number, delta: number): number {
  return d <= delta ? 0.5 * d * d : delta * (d - 0.5 * delta);
}

function perElement({ scores, labels, at }: Part, of: (x: number, t: number) => number): Tally {
  let loss = 0;
  for (let i = 0; i < scores.length; i++) loss += of(scores[i] ?? 0, labels[at + i] ?? 0);
  return { loss, count: scores.length, correct: undefined };
}

/** ln(1 + eˣ) − t·x; an answer is right on the label's side of ½. */
function binary({ scores, labels, at }: Part, kind: OutputKind): Tally {
  let [loss, correct] = [0, 0];
  for (let i = 0; i < scores.length; i++) {
    const [y, t] = [scores[i] ?? 0, labels[at + i] ?? 0];
    const x = kind === "sigmoid" ? Math.log(Math.max(y, 1e-12) / Math.max(1 - y, 1e-12)) : y;
    loss += Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))) - t * x;
    if (x > 0 === t > 0.5) correct++;
  }
  return { loss, count: scores.length, correct };
}

/** ln p of a row of scores. */
function logProbabilities(line: Float32Array, kind: OutputKind): Float64Array {
  if (kind === "probabilities") return Float64Array.from(line, (p) => Math.log(Math.max(p, 1e-12)));
  if (kind === "log-probabilities") return Float64Array.from(line);
  const top = line.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const sum = line.reduce((total, x) => total + Math.exp(x - top), 0);
  return Float64Array.from(line, (x) => x - top - Math.log(sum));
}

/** −ln p of the right class, or −Σ t·ln p (+ Σ t·ln t for kl) of a distribution; ignored labels do not count. */
function classes(
  { scores, shape, labels, at, width }: Part,
  kind: OutputKind,
  divergence: boolean,
  ignored: number,
): Tally {
  const k = shape.at(-1) ?? 1;
  const rows = scores.length / k;
  const soft = (width * (shape[0] ?? 1)) / rows === k && k > 1;
  const total: Tally & { correct: number } = { loss: 0, count: 0, correct: 0 };
  for (let row = 0; row < rows; row++) {
    const label = soft ? undefined : (labels[at + row] ?? 0);
    if (label === ignored) continue;
    const logP = logProbabilities(scores.subarray(row * k, (row + 1) * k), kind);
    let [best, wanted] = [0, label ?? 0];
    for (let c = 1; c < k; c++) if ((logP[c] ?? 0) > (logP[best] ?? 0)) best = c;
    if (label === undefined)
      for (let c = 0; c < k; c++) {
        const t = labels[at + row * k + c] ?? 0;
        if (t > (labels[at + row * k + wanted] ?? 0)) wanted = c;
        if (t > 0) total.loss += t * ((divergence ? Math.log(t) : 0) - (logP[c] ?? 0));
      }
    else total.loss -= logP[label] ?? Number.NaN;
    if (best === wanted) total.correct++;
    total.count++;
  }
  return total;
}

/** The loss ctc by its forward variables in double precision; a sample is right if the best path reads as its label. */
function sequences({ scores, shape, labels, at, width }: Part, kind: OutputKind, blank: number): Tally {
  const [n = 0, steps = 0, k = 1] = shape;
  const total: Tally & { correct: number } = { loss: 0, count: n, correct: 0 };
  for (let sample = 0; sample < n; sample++) {
    const logP = Array.from({ length: steps }, (_, t) => {
      const row = sample * steps + t;
      return logProbabilities(scores.subarray(row * k, (row + 1) * k), kind);
    });
    const label = Array.from({ length: width }, (_, i) => labels[at + sample * width + i] ?? -1).filter((c) => c >= 0);
    total.loss += alignmentLoss(logP, label, blank);
    const path = logP.map((row) => row.indexOf(Math.max(...row)));
    const read = path.filter((c, t) => c !== blank && c !== path[t - 1]);
    if (read.join() === label.join()) total.correct++;
  }
  return total;
}

/** −ln Σ of the probabilities of all paths that read as `label`. */
export function alignmentLoss(logP: readonly Float64Array[], label: readonly number[], blank = 0): number {
  const z = [blank, ...label.flatMap((c) => [c, blank])];
  const never = Number.NEGATIVE_INFINITY;
  const sum = (values: readonly number[]): number => {
    const top = Math.max(...values);
    return top === never ? never : top + Math.log(values.reduce((total, x) => total + Math.exp(x - top), 0));
  };
  let alpha = z.map((c, s) => (s < 2 ? (logP[0]?.[c] ?? never) : never));
  for (const row of logP.slice(1))
    alpha = z.map((c, s) => {
      const jump = c !== blank && c !== z[s - 2] ? (alpha[s - 2] ?? never) : never;
      return sum([alpha[s] ?? never, alpha[s - 1] ?? never, jump]) + (row[c] ?? never);
    });
  return -sum([alpha.at(-1) ?? never, label.length > 0 ? (alpha.at(-2) ?? never) : never]);
}
