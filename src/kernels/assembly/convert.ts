/** float32 to and from 16-bit floats, round to nearest even, counting what was lost. */
import { FINITE, laneCount, loadRest, magnitudeOf } from "./lanes";

let overflow: v128 = i32x4.splat(0);
let underflow: v128 = i32x4.splat(0);
let notFinite: v128 = i32x4.splat(0);

/** n floats at p to halves at dst; adds overflow, underflow and not-finite counts to the three integers at `counts`. */
export function toFloat16(p: usize, n: i32, dst: usize, saturate: bool, counts: usize): void {
  resetCounts();
  const end = p + ((<usize>(n & ~7)) << 2);
  for (; p < end; p += 32) {
    v128.store(dst, i16x8.narrow_i32x4_u(half(v128.load(p), saturate), half(v128.load(p, 16), saturate)));
    dst += 16;
  }
  for (let rest = n & 7; rest > 0; rest -= 4) {
    const words = half(rest >= 4 ? v128.load(p) : loadRest(p, rest), saturate);
    storeRest(dst, i16x8.narrow_i32x4_u(words, words), rest);
    p += 16;
    dst += 8;
  }
  addCounts(counts);
}

/** The same to bfloat16. */
export function toBfloat16(p: usize, n: i32, dst: usize, saturate: bool, counts: usize): void {
  resetCounts();
  const end = p + ((<usize>(n & ~7)) << 2);
  for (; p < end; p += 32) {
    v128.store(dst, i16x8.narrow_i32x4_u(bfloat(v128.load(p), saturate), bfloat(v128.load(p, 16), saturate)));
    dst += 16;
  }
  for (let rest = n & 7; rest > 0; rest -= 4) {
    const words = bfloat(rest >= 4 ? v128.load(p) : loadRest(p, rest), saturate);
    storeRest(dst, i16x8.narrow_i32x4_u(words, words), rest);
    p += 16;
    dst += 8;
  }
  addCounts(counts);
}

/** The first min(rest, 4) 16-bit lanes. */
function storeRest(dst: usize, words: v128, rest: i32): void {
  if (rest >= 4) {
    v128.store_lane<u64>(dst, words, 0);
    return;
  }
  store<u16>(dst, i16x8.extract_lane_u(words, 0));
  if (rest > 1) store<u16>(dst, i16x8.extract_lane_u(words, 1), 2);
  if (rest > 2) store<u16>(dst, i16x8.extract_lane_u(words, 2), 4);
}

function resetCounts(): void {
  overflow = i32x4.splat(0);
  underflow = i32x4.splat(0);
  notFinite = i32x4.splat(0);
}

function addCounts(counts: usize): void {
  store<i32>(counts, load<i32>(counts) - laneCount(overflow));
  store<i32>(counts, load<i32>(counts, 4) - laneCount(underflow), 4);
  store<i32>(counts, load<i32>(counts, 8) - laneCount(notFinite), 8);
}

/** Four halves in 32-bit lanes. */
// @ts-ignore: decorator
@inline
function half(x: v128, saturate: bool): v128 {
  const magnitude = magnitudeOf(x);
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(magnitude, i32x4.splat(0xfff - 0x38000000)), odd), 13);
  // Below 2^-14: adding 0.5 leaves |x| in steps of 2^-24, the step of subnormal halves, in the low bits
  const subnormal = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
  const bits = v128.bitselect(subnormal, normal, i32x4.lt_s(magnitude, i32x4.splat(0x38800000)));
  return finish(x, magnitude, bits, i32x4.gt_s(magnitude, i32x4.splat(0x477fefff)), saturate ? 0x7bff : 0x7c00, 0x7e00);
}

/** Four bfloat16 in 32-bit lanes. */
// @ts-ignore: decorator
@inline
function bfloat(x: v128, saturate: bool): v128 {
  const magnitude = magnitudeOf(x);
  const odd = v128.and(i32x4.shr_u(magnitude, 16), i32x4.splat(1));
  const bits = i32x4.shr_u(i32x4.add(i32x4.add(magnitude, i32x4.splat(0x7fff)), odd), 16);
  return finish(x, magnitude, bits, i32x4.gt_s(magnitude, i32x4.splat(0x7f7f7fff)), saturate ? 0x7f7f : 0x7f80, 0x7fc0);
}

/** Puts overflow, NaN and sign in, and counts. */
// @ts-ignore: decorator
@inline
function finish(x: v128, magnitude: v128, bits: v128, over: v128, most: i32, nan: i32): v128 {
  const zero = i32x4.splat(0);
  const infinite = i32x4.gt_s(magnitude, i32x4.splat(FINITE));
  const isNan = i32x4.gt_s(magnitude, i32x4.splat(0x7f800000));
  const lost = v128.andnot(i32x4.eq(bits, zero), i32x4.eq(magnitude, zero));
  notFinite = i32x4.add(notFinite, infinite);
  overflow = i32x4.add(overflow, v128.andnot(over, infinite));
  underflow = i32x4.add(underflow, lost);
  const number = v128.bitselect(i32x4.splat(most), bits, over);
  const value = v128.bitselect(i32x4.splat(nan), number, isNan);
  return v128.or(value, v128.and(i32x4.shr_u(x, 16), i32x4.splat(0x8000)));
}

/** n halves at p to floats at dst. */
export function fromFloat16(p: usize, n: i32, dst: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(dst, fromHalf(i32x4.extend_low_i16x8_u(v128.load_zero<u64>(p))));
    p += 8;
    dst += 16;
  }
  for (; n > 0; n--) {
    store<f32>(dst, f32x4.extract_lane(fromHalf(i32x4.splat(load<u16>(p))), 0));
    p += 2;
    dst += 4;
  }
}

// @ts-ignore: decorator
@inline
function fromHalf(bits: v128): v128 {
  const magnitude = v128.and(bits, i32x4.splat(0x7fff));
  const special = v128.and(i32x4.gt_s(magnitude, i32x4.splat(0x7bff)), i32x4.splat(0x7f800000));
  const value = f32x4.mul(i32x4.shl(magnitude, 13), i32x4.splat(0x77800000)); // times 2^112
  return v128.or(v128.or(value, special), i32x4.shl(v128.and(bits, i32x4.splat(0x8000)), 16));
}

/** n bfloat16 at p to floats at dst. */
export function fromBfloat16(p: usize, n: i32, dst: usize): void {
  for (; n >= 4; n -= 4) {
    v128.store(dst, i32x4.shl(i32x4.extend_low_i16x8_u(v128.load_zero<u64>(p)), 16));
    p += 8;
    dst += 16;
  }
  for (; n > 0; n--) {
    store<u32>(dst, (<u32>load<u16>(p)) << 16);
    p += 2;
    dst += 4;
  }
}
