/** Block-wise quantization to 2, 4 and 8 bits with packing, and back. */
import { MAGIC, MAGIC_BITS, laneMax, laneSum64, lower, storedScale, upper } from "./lanes";
import {
  rangeHigh,
  rangeLow,
  rangeOf,
  rangeScale,
  refit,
  refitQQ,
  refitQW,
  replaceNotFinite,
  searchError,
} from "./scale";

/** Refinements of the best ratio by least squares. */
const REFITS: i32 = 2;

/**
 * Quantizes a (rows, cols) matrix in blocks along cols; see the plain reference for the arithmetic. `block` is a multiple of
 * 16. `ratios` holds the clipping ratios tried (1 first), `ratioCount` = 0 for none. Zero points are written one byte per block.
 * `temp` holds one block. Adds ‖ŵ−w‖², ‖w‖² and the maximum of |ŵ−w| to the three doubles at `sums`.
 */
export function quantizeBlocks(
  src: usize,
  rows: i32,
  cols: i32,
  block: i32,
  bits: i32,
  symmetric: bool,
  half: bool,
  ratios: usize,
  ratioCount: i32,
  codes: usize,
  scales: usize,
  zeros: usize,
  temp: usize,
  sums: usize,
): i32 {
  const codeBytes: usize = <usize>((block * bits) >> 3);
  let notFinite = 0;
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col += block) {
      const count = min(block, cols - col);
      let p = src;
      src += (<usize>count) << 2;
      if (count < block) {
        memory.copy(temp, p, (<usize>count) << 2);
        memory.fill(temp + ((<usize>count) << 2), 0, (<usize>(block - count)) << 2);
        p = temp;
      }
      notFinite += quantizeBlock(p, block, bits, symmetric, half, ratios, ratioCount, codes, scales, zeros, temp, sums);
      scales += 4;
      zeros += 1;
      codes += codeBytes;
    }
  }
  return notFinite;
}

/** Quantizes one whole block at p (which may be `temp`); parameters as in {@link quantizeBlocks}. */
export function quantizeBlock(
  p: usize,
  block: i32,
  bits: i32,
  symmetric: bool,
  half: bool,
  ratios: usize,
  ratioCount: i32,
  codes: usize,
  scales: usize,
  zeros: usize,
  temp: usize,
  sums: usize,
): i32 {
  const middle: i32 = 1 << (bits - 1);
  const top: i32 = (1 << bits) - 1;
  const bad = rangeOf(p, block);
  const low = rangeLow;
  const high = rangeHigh;
  if (bad) {
    if (p != temp) memory.copy(temp, p, (<usize>block) << 2);
    p = temp;
    replaceNotFinite(p, block, low, high);
  }
  const peak: f32 = high > -low ? high : low;
  const plain: f32 = symmetric ? peak / <f32>-middle : rangeScale(low, high, <f32>top);
  let s = storedScale(plain, half);
  const z: i32 = symmetric ? middle : <i32>nearest(max<f32>(0, min<f32>(<f32>top, -low / s)));
  if (ratioCount) s = bestScale(p, block, plain, s, <f32>-z, <f32>(top - z), ratios, ratioCount, half);
  store<f32>(scales, s);
  store<u8>(zeros, <u8>z);
  encodeBlock(p, block, bits, s, z, top, codes, sums);
  return bad;
}

/** The best of the ratios times the plain scale and its refits; ties go to the first. */
function bestScale(
  p: usize,
  n: i32,
  plain: f32,
  first: f32,
  low: f32,
  high: f32,
  ratios: usize,
  count: i32,
  half: bool,
): f32 {
  let best = first;
  let least = searchError(p, n, first, low, high);
  for (let i = 1; i < count; i++) {
    const s = storedScale(plain * load<f32>(ratios + ((<usize>i) << 2)), half);
    const error = searchError(p, n, s, low, high);
    if (error < least) {
      least = error;
      best = s;
    }
  }
  for (let i = 0; i < REFITS; i++) {
    refit(p, n, best, low, high);
    if (!(refitQQ > 0)) break;
    const s = storedScale(<f32>(refitQW / refitQQ), half);
    const error = searchError(p, n, s, low, high);
    if (!(error < least)) break;
    least = error;
    best = s;
  }
  return best;
}

/** Codes of one block of finite floats, packed. */
function encodeBlock(p: usize, block: i32, bits: i32, scale: f32, z: i32, top: i32, codes: usize, sums: usize): void {
  const s = f32x4.splat(scale);
  const low = f32x4.splat(<f32>-z);
  const high = f32x4.splat(<f32>(top - z));
  const shift = i32x4.splat(z - MAGIC_BITS);
  let maxError = f32x4.splat(0);
  let errorSum = f64x2.splat(0);
  let normSum = f64x2.splat(0);
  for (const end = p + ((<usize>block) << 2); p < end; p += 64) {
    const a = biased(v128.load(p), s, low, high);
    const b = biased(v128.load(p, 16), s, low, high);
    const c = biased(v128.load(p, 32), s, low, high);
    const d = biased(v128.load(p, 48), s, low, high);
    const first = i16x8.narrow_i32x4_s(i32x4.add(a, shift), i32x4.add(b, shift));
    const last = i16x8.narrow_i32x4_s(i32x4.add(c, shift), i32x4.add(d, shift));
    const bytes = i8x16.narrow_i16x8_u(first, last);
    const ea = errorOf(a, v128.load(p), s);
    const eb = errorOf(b, v128.load(p, 16), s);
    const ec = errorOf(c, v128.load(p, 32), s);
    const ed = errorOf(d, v128.load(p, 48), s);
    maxError = f32x4.pmax(maxError, f32x4.pmax(larger(ea, eb), larger(ec, ed)));
    errorSum = f64x2.add(errorSum, f64x2.add(squares(ea, eb), squares(ec, ed)));
    normSum = f64x2.add(
      normSum,
      f64x2.add(squares(v128.load(p), v128.load(p, 16)), squares(v128.load(p, 32), v128.load(p, 48))),
    );
    if (bits == 4) {
      // Two codes in each 16-bit lane: c0 | c1 << 8 becomes c0 | c1 << 4
      const pairs = v128.and(v128.or(bytes, i16x8.shr_u(bytes, 4)), i16x8.splat(0xff));
      v128.store_lane<u64>(codes, i8x16.narrow_i16x8_u(pairs, pairs), 0);
      codes += 8;
    } else if (bits == 8) {
      v128.store(codes, bytes);
      codes += 16;
    } else {
      // c0 | c1 << 8 becomes c0 | c1 << 2, then p0 | p1 << 16 becomes p0 | p1 << 4
      const pairs = v128.and(v128.or(bytes, i16x8.shr_u(bytes, 6)), i16x8.splat(0xf));
      const fours = v128.and(v128.or(pairs, i32x4.shr_u(pairs, 12)), i32x4.splat(0xff));
      const words = i16x8.narrow_i32x4_s(fours, fours);
      v128.store_lane<u32>(codes, i8x16.narrow_i16x8_u(words, words), 0);
      codes += 4;
    }
  }
  addSums(sums, errorSum, normSum, maxError);
}

/** w/s clamped and rounded, {@link MAGIC} added. */
// @ts-ignore: decorator
@inline
function biased(x: v128, s: v128, low: v128, high: v128): v128 {
  return f32x4.add(f32x4.pmax(f32x4.pmin(f32x4.div(x, s), high), low), f32x4.splat(MAGIC));
}

/** ŵ − w. */
// @ts-ignore: decorator
@inline
function errorOf(code: v128, x: v128, s: v128): v128 {
  return f32x4.sub(f32x4.mul(f32x4.sub(code, f32x4.splat(MAGIC)), s), x);
}

/** The larger magnitude of each lane. */
// @ts-ignore: decorator
@inline
function larger(a: v128, b: v128): v128 {
  return f32x4.pmax(f32x4.abs(a), f32x4.abs(b));
}

/** Squares of two vectors, added up in double precision. */
// @ts-ignore: decorator
@inline
function squares(a: v128, b: v128): v128 {
  const a0 = lower(a);
  const a1 = upper(a);
  const b0 = lower(b);
  const b1 = upper(b);
  return f64x2.add(f64x2.add(f64x2.mul(a0, a0), f64x2.mul(a1, a1)), f64x2.add(f64x2.mul(b0, b0), f64x2.mul(b1, b1)));
}

function addSums(sums: usize, errorSum: v128, normSum: v128, maxError: v128): void {
  store<f64>(sums, load<f64>(sums) + laneSum64(errorSum));
  store<f64>(sums, load<f64>(sums, 8) + laneSum64(normSum), 8);
  store<f64>(sums, max(load<f64>(sums, 16), <f64>laneMax(maxError)), 16);
}

/** Codes of n finite floats as bytes: round(w/s) + z clamped to [low + z, high + z]. Sums as in {@link quantizeBlocks}. */
export function quantizeBytes(p: usize, n: i32, s: f32, low: f32, high: f32, z: i32, dst: usize, sums: usize): void {
  const scale = f32x4.splat(s);
  const lowest = f32x4.splat(low);
  const highest = f32x4.splat(high);
  const shift = i32x4.splat(z - MAGIC_BITS);
  const keep = i32x4.splat(0xff);
  let maxError = f32x4.splat(0);
  let errorSum = f64x2.splat(0);
  let normSum = f64x2.splat(0);
  for (const end = p + ((<usize>(n & ~15)) << 2); p < end; p += 64) {
    const a = biased(v128.load(p), scale, lowest, highest);
    const b = biased(v128.load(p, 16), scale, lowest, highest);
    const c = biased(v128.load(p, 32), scale, lowest, highest);
    const d = biased(v128.load(p, 48), scale, lowest, highest);
    const first = i16x8.narrow_i32x4_s(v128.and(i32x4.add(a, shift), keep), v128.and(i32x4.add(b, shift), keep));
    const last = i16x8.narrow_i32x4_s(v128.and(i32x4.add(c, shift), keep), v128.and(i32x4.add(d, shift), keep));
    v128.store(dst, i8x16.narrow_i16x8_u(first, last));
    dst += 16;
    const ea = errorOf(a, v128.load(p), scale);
    const eb = errorOf(b, v128.load(p, 16), scale);
    const ec = errorOf(c, v128.load(p, 32), scale);
    const ed = errorOf(d, v128.load(p, 48), scale);
    maxError = f32x4.pmax(maxError, f32x4.pmax(larger(ea, eb), larger(ec, ed)));
    errorSum = f64x2.add(errorSum, f64x2.add(squares(ea, eb), squares(ec, ed)));
    normSum = f64x2.add(
      normSum,
      f64x2.add(squares(v128.load(p), v128.load(p, 16)), squares(v128.load(p, 32), v128.load(p, 48))),
    );
  }
  for (let rest = n & 15; rest > 0; rest--) {
    const x = v128.load_zero<u32>(p);
    const code = biased(x, scale, lowest, highest);
    store<u8>(dst, <u8>i32x4.extract_lane(i32x4.add(code, shift), 0));
    const e = errorOf(code, x, scale); // the other lanes hold 0, whose code is exact
    maxError = f32x4.pmax(maxError, f32x4.abs(e));
    errorSum = f64x2.add(errorSum, squares(e, f32x4.splat(0)));
    normSum = f64x2.add(normSum, squares(x, f32x4.splat(0)));
    p += 4;
    dst += 1;
  }
  addSums(sums, errorSum, normSum, maxError);
}

/** ŵ = (code − z)·s of `blocks` whole blocks; zero points one byte each. */
export function dequantizeBlocks(
  codes: usize,
  blocks: i32,
  block: i32,
  bits: i32,
  scales: usize,
  zeros: usize,
  dst: usize,
): void {
  for (let b = 0; b < blocks; b++) {
    const s = f32x4.splat(load<f32>(scales));
    const z = i16x8.splat(<i16>load<u8>(zeros));
    scales += 4;
    zeros += 1;
    for (let i = 0; i < block; i += 16) {
      let bytes: v128;
      if (bits == 8) {
        bytes = v128.load(codes);
        codes += 16;
      } else if (bits == 4) {
        const pairs = i16x8.extend_low_i8x16_u(v128.load_zero<u64>(codes));
        bytes = v128.and(v128.or(pairs, i16x8.shl(pairs, 4)), i8x16.splat(15));
        codes += 8;
      } else {
        const fours = i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load_zero<u32>(codes)));
        const pairs = v128.and(v128.or(fours, i32x4.shl(fours, 12)), i16x8.splat(15));
        bytes = v128.and(v128.or(pairs, i16x8.shl(pairs, 6)), i8x16.splat(3));
        codes += 4;
      }
      const first = i16x8.sub(i16x8.extend_low_i8x16_u(bytes), z);
      const last = i16x8.sub(i16x8.extend_high_i8x16_u(bytes), z);
      v128.store(dst, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(first)), s));
      v128.store(dst, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(first)), s), 16);
      v128.store(dst, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(last)), s), 32);
      v128.store(dst, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(last)), s), 48);
      dst += 64;
    }
  }
}
