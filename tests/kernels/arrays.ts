/** Arrays that kernels must survive: odd sizes, zeros, denormals, extremes, NaN and infinities, and ordinary noise. */
import fc from "fast-check";
import { expect } from "vitest";
import { Rng } from "../../src/base/rng.ts";

/** Standard normal noise. */
export function noise(length: number, seed = 1, deviation = 1): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length }, () => rng.normal(0, deviation));
}

/** Noise salted with zeros, ties, denormals, huge values, NaN and infinities. */
export function salted(length: number, seed = 1): Float32Array {
  const rng = new Rng(seed);
  const salt = [0, -0, 1, -1, 0.5, 1e-42, -3e-39, 3e38, -3.4e38, 70000, NaN, Infinity, -Infinity];
  return noise(length, seed).map((x) => (rng.uniform() < 0.2 ? (salt[rng.below(salt.length)] as number) : x));
}

/** Finite noise with zeros, ties and values on the rounding grid. */
export function gridded(length: number, seed = 1): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length }, () => (rng.below(33) - 16) / 4);
}

/** Any float32 array of a few hundred elements at most. */
export const anyFloats: fc.Arbitrary<Float32Array> = fc.float32Array({ maxLength: 300 });

/** Finite float32 values of ordinary size (no denormals, which lose precision by nature). */
export const ordinaryFloats: fc.Arbitrary<Float32Array> = fc
  .array(fc.oneof(fc.double({ min: -100, max: 100, noNaN: true }), fc.integer({ min: -8, max: 8 })), {
    minLength: 1,
    maxLength: 300,
  })
  .map((values) => Float32Array.from(values, (x) => (Math.abs(x) < 1e-6 ? 0 : x)));

/** Equal length, class and elements (NaN equals NaN); names the first difference. Much faster than `toEqual` on long arrays. */
export function expectElements<T extends ArrayLike<number>>(actual: T | undefined, expected: T | undefined): void {
  if (actual === undefined || expected === undefined) {
    expect(actual).toBe(expected);
    return;
  }
  expect(actual.constructor).toBe(expected.constructor);
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < actual.length; i++) {
    const [a, b] = [actual[i], expected[i]];
    if (a !== b && !(Number.isNaN(a) && Number.isNaN(b))) expect(`element ${i}: ${a}`).toBe(`element ${i}: ${b}`);
  }
}
