/** Statistics of samples: moments, quantiles, and 95 % intervals for proportions, means and paired differences. */
import { PareError } from "./error.ts";
import { Rng } from "./rng.ts";

/** Normal quantile of 0.975: half the width of a 95 % interval in standard errors. */
export const Z95 = 1.959963984540054;

/** An estimate with its 95 % interval. */
export interface Interval {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** Mean, variance, minimum and maximum of a stream; pieces can be merged (Welford 1962; Chan, Golub and LeVeque 1983). */
export class StreamingMoments {
  #count = 0;
  #mean = 0;
  #m2 = 0;
  #min = Infinity;
  #max = -Infinity;

  add(x: number): void {
    this.#count++;
    const delta = x - this.#mean;
    this.#mean += delta / this.#count;
    this.#m2 += delta * (x - this.#mean);
    if (x < this.#min) this.#min = x;
    if (x > this.#max) this.#max = x;
  }

  addAll(values: Iterable<number>): void {
    for (const x of values) this.add(x);
  }

  /** Adds everything that another stream saw: M2 = M2a + M2b + δ²·na·nb/n. */
  merge(other: StreamingMoments): void {
    if (other.#count === 0) return;
    const count = this.#count + other.#count;
    const delta = other.#mean - this.#mean;
    this.#m2 += other.#m2 + (delta * delta * this.#count * other.#count) / count;
    this.#mean += (delta * other.#count) / count;
    this.#count = count;
    this.#min = Math.min(this.#min, other.#min);
    this.#max = Math.max(this.#max, other.#max);
  }

  get count(): number {
    return this.#count;
  }

  /** NaN when empty, as are all the others. */
  get mean(): number {
    return this.#count === 0 ? Number.NaN : this.#mean;
  }

  /** Unbiased: Σ(x − mean)²/(n − 1); NaN for fewer than two. */
  get variance(): number {
    return this.#count < 2 ? Number.NaN : this.#m2 / (this.#count - 1);
  }

  get deviation(): number {
    return Math.sqrt(this.variance);
  }

  get min(): number {
    return this.#count === 0 ? Number.NaN : this.#min;
  }

  get max(): number {
    return this.#count === 0 ? Number.NaN : this.#max;
  }
}

export function mean(values: ArrayLike<number>): number {
  return momentsOf(values).mean;
}

/** Unbiased: Σ(x − mean)²/(n − 1); NaN for fewer than two. */
export function variance(values: ArrayLike<number>): number {
  return momentsOf(values).variance;
}

function momentsOf(values: ArrayLike<number>): StreamingMoments {
  const moments = new StreamingMoments();
  for (let i = 0; i < values.length; i++) moments.add(values[i] as number);
  return moments;
}

/** The q-quantile, 0 ≤ q ≤ 1, linear between order statistics (type 7 of Hyndman and Fan 1996); NaN when empty. */
export function quantile(values: ArrayLike<number>, q: number): number {
  return quantiles(values, [q])[0] as number;
}

/** Several quantiles with one sort. */
export function quantiles(values: ArrayLike<number>, qs: readonly number[]): number[] {
  const sorted = Float64Array.from(values).sort();
  return qs.map((q) => sortedQuantile(sorted, q));
}

function sortedQuantile(sorted: Float64Array, q: number): number {
  if (!(q >= 0 && q <= 1)) throw new PareError("internal", "A quantile lies between 0 and 1", { found: String(q) });
  if (sorted.length === 0) return Number.NaN;
  const at = q * (sorted.length - 1);
  const below = Math.floor(at);
  const low = sorted[below] as number;
  const high = sorted[Math.min(below + 1, sorted.length - 1)] as number;
  return at === below ? low : low + (high - low) * (at - below);
}

/**
 * Wilson's 95 % interval for `successes` out of `count` (Wilson 1927), right also near 0 and 1:
 * (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n). With no sample, [0, 1] around NaN.
 */
export function wilsonInterval(successes: number, count: number): Interval {
  if (count === 0) return { value: Number.NaN, low: 0, high: 1 };
  const p = successes / count;
  const z2n = (Z95 * Z95) / count;
  const centre = p + z2n / 2;
  const half = Z95 * Math.sqrt((p * (1 - p)) / count + z2n / (4 * count));
  return {
    value: p,
    low: successes === 0 ? 0 : Math.max(0, (centre - half) / (1 + z2n)),
    high: successes === count ? 1 : Math.min(1, (centre + half) / (1 + z2n)),
  };
}

/** 95 % interval of a mean: mean ± t·s/√n with Student's t of n − 1 degrees of freedom. One sample: the whole line. */
export function meanInterval(values: ArrayLike<number>): Interval {
  const moments = momentsOf(values);
  return intervalOfMoments(moments);
}

/** {@link meanInterval} of samples that were streamed. */
export function intervalOfMoments(moments: StreamingMoments): Interval {
  const value = moments.mean;
  if (moments.count < 2) return { value, low: -Infinity, high: Infinity };
  const half = (studentT95(moments.count - 1) * moments.deviation) / Math.sqrt(moments.count);
  return { value, low: value - half, high: value + half };
}

/** t of 1 to 10 degrees of freedom, where the expansion below is not yet good to three digits. */
const T95 = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.306, 2.2622, 2.2281];

/** 0.975-quantile of Student's t, by the Cornish-Fisher expansion z + (z³+z)/4ν + (5z⁵+16z³+3z)/96ν² + … */
export function studentT95(degrees: number): number {
  const known = T95[degrees - 1];
  if (known !== undefined) return known;
  const z = Z95;
  const z3 = z ** 3;
  const z5 = z ** 5;
  return (
    z +
    (z3 + z) / (4 * degrees) +
    (5 * z5 + 16 * z3 + 3 * z) / (96 * degrees ** 2) +
    (3 * z ** 7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * degrees ** 3)
  );
}

/**
 * 95 % percentile bootstrap interval (Efron 1979) of any statistic of `count` samples. `statistic` is given the indices of
 * the samples drawn (each in 0..count−1), the identity first; the same seed gives the same interval.
 */
export function bootstrapInterval(
  count: number,
  statistic: (indices: Uint32Array) => number,
  options: { readonly seed?: number; readonly resamples?: number } = {},
): Interval {
  const indices = Uint32Array.from({ length: count }, (_, i) => i);
  const value = statistic(indices);
  const rng = new Rng(options.seed ?? 1);
  const replicas = new Float64Array(options.resamples ?? 1000);
  for (let r = 0; r < replicas.length; r++) {
    for (let i = 0; i < count; i++) indices[i] = rng.below(count);
    replicas[r] = statistic(indices);
  }
  const [low, high] = quantiles(replicas, [0.025, 0.975]) as [number, number];
  return { value, low, high };
}

/** 95 % interval of mean(a − b) over pairs measured on the same samples: {@link meanInterval} of the differences. */
export function pairedDifference(a: ArrayLike<number>, b: ArrayLike<number>): Interval {
  if (a.length !== b.length)
    throw new PareError("internal", "Paired samples differ in number", { found: `${a.length} and ${b.length}` });
  return meanInterval(Float64Array.from({ length: a.length }, (_, i) => (a[i] as number) - (b[i] as number)));
}
