/** Seeded damage to files, as disks, networks and attackers do it. */
import type { Rng } from "../../src/base/rng.ts";

/** A file and the ranges of it that are weights, where damage is of no interest to a reader. */
export interface Seed {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly weights: readonly { readonly offset: number; readonly length: number }[];
}

const INTERESTING = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x0a, 0x12, 0x3a];

/** The bytes of a varint that claims 2^62, the largest int64, or 2^32. */
const HUGE = [
  [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
  [0x80, 0x80, 0x80, 0x80, 0x10],
];

/** A damaged copy: one to four cuts, flips, insertions, repetitions, or pieces of other seeds. */
export function mutate(seed: Seed, others: readonly Seed[], rng: Rng): Uint8Array<ArrayBuffer> {
  let bytes = seed.bytes.slice();
  const times = rng.below(2) === 0 ? 1 : 1 + rng.below(4);
  for (let i = 0; i < times; i++) bytes = damage(bytes, seed, others, rng);
  return bytes;
}

function damage(
  bytes: Uint8Array<ArrayBuffer>,
  seed: Seed,
  others: readonly Seed[],
  rng: Rng,
): Uint8Array<ArrayBuffer> {
  const at = position(bytes.length, seed, rng);
  const length = Math.min(1 + rng.below(rng.below(8) === 0 ? 4096 : 16), bytes.length - at);
  switch (rng.below(9)) {
    case 0:
    case 1:
      bytes[at] = (bytes[at] ?? 0) ^ (1 << rng.below(8));
      return bytes;
    case 2:
    case 3:
      bytes[at] = INTERESTING[rng.below(INTERESTING.length)] ?? 0;
      return bytes;
    case 4:
      return splice(
        bytes,
        at,
        0,
        Uint8Array.from({ length }, () => rng.below(256)),
      );
    case 5:
      return splice(bytes, at, length, new Uint8Array(0));
    case 6:
      return splice(bytes, at, rng.below(2) * length, Uint8Array.from(HUGE[rng.below(HUGE.length)] ?? []));
    case 7:
      return rng.below(2) === 0 ? bytes.slice(0, at) : splice(bytes, at, 0, bytes.slice(at, at + length));
    default: {
      const other = others[rng.below(others.length)] ?? seed;
      const from = position(other.bytes.length, other, rng);
      return splice(bytes, at, length, other.bytes.subarray(from, from + length));
    }
  }
}

/** A place in the file, nearly always outside the weights. */
function position(size: number, seed: Seed, rng: Rng): number {
  if (size === 0) return 0;
  for (let tries = 0; tries < 20; tries++) {
    const at = rng.below(size);
    const inWeights = seed.weights.some(({ offset, length }) => at >= offset && at < offset + length);
    if (!inWeights || rng.below(50) === 0) return at;
  }
  const range = seed.weights[rng.below(seed.weights.length)];
  return Math.min(size - 1, Math.max(0, (range?.offset ?? 0) - rng.below(64)));
}

function splice(bytes: Uint8Array, at: number, remove: number, insert: Uint8Array): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(bytes.length - remove + insert.length);
  result.set(bytes.subarray(0, at));
  result.set(insert, at);
  result.set(bytes.subarray(at + remove), at + insert.length);
  return result;
}
