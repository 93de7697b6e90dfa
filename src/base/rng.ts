/** Seeded random numbers: the same seed gives the same stream on every machine. */

/**
 * A stream of pseudo-random numbers (xoshiro128**, Blackman and Vigna 2021, seeded through splitmix32).
 * `fork(label)` gives an independent stream, so that one consumer's draws never shift another's.
 */
export class Rng {
  #s0: number;
  #s1: number;
  #s2: number;
  #s3: number;
  #spare: number | undefined;
  readonly #seed: number;

  constructor(seed: number) {
    this.#seed = seed >>> 0;
    let state = this.#seed;
    const next = (): number => {
      state = (state + 0x9e3779b9) >>> 0;
      let z = state;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return (z ^ (z >>> 16)) >>> 0;
    };
    this.#s0 = next();
    this.#s1 = next();
    this.#s2 = next();
    this.#s3 = next() | 1;
  }

  /** A uniform 32-bit unsigned integer. */
  bits(): number {
    const rotated = Math.imul(this.#s1, 5);
    const result = Math.imul((rotated << 7) | (rotated >>> 25), 9) >>> 0;
    const t = this.#s1 << 9;
    this.#s2 ^= this.#s0;
    this.#s3 ^= this.#s1;
    this.#s1 ^= this.#s2;
    this.#s0 ^= this.#s3;
    this.#s2 ^= t;
    this.#s3 = (this.#s3 << 11) | (this.#s3 >>> 21);
    return result;
  }

  /** Uniform in [low, high), default [0, 1). */
  uniform(low = 0, high = 1): number {
    return low + (high - low) * (this.bits() / 0x1_0000_0000);
  }

  /** A uniform integer in [0, n). */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** Standard normal by Box-Muller: √(-2 ln u) cos 2πv, scaled to `mean` and `deviation`. */
  normal(mean = 0, deviation = 1): number {
    if (this.#spare !== undefined) {
      const spare = this.#spare;
      this.#spare = undefined;
      return mean + deviation * spare;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.#spare = radius * Math.sin(angle);
    return mean + deviation * radius * Math.cos(angle);
  }

  /** Shuffles in place (Fisher-Yates) and returns the array. */
  shuffle<T extends { [index: number]: unknown; length: number }>(array: T): T {
    for (let i = array.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const swap = array[i];
      array[i] = array[j];
      array[j] = swap;
    }
    return array;
  }

  /** An independent stream named by `label`, a function of this stream's seed alone (not of draws already made). */
  fork(label: string | number): Rng {
    let hash = 0x811c9dc5 ^ this.#seed; // FNV-1a
    for (const character of String(label)) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193);
    return new Rng(hash);
  }
}
