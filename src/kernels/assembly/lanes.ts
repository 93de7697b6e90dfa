/** Small pieces shared by the kernels: partial loads, bit masks, sums over lanes, half-precision scales. */

/** Bits of the largest finite magnitude. */
export const FINITE: i32 = 0x7f7fffff;
export const MAGNITUDE: i32 = 0x7fffffff;
/** Adding 1.5·2^23 rounds |x| < 2^22 to an integer, half to even, and leaves that integer in the low bits. */
export const MAGIC: f32 = 12582912.0;
export const MAGIC_BITS: i32 = 0x4b400000;

// @ts-ignore: decorator
@inline
export function magnitudeOf(x: v128): v128 {
  return v128.and(x, i32x4.splat(MAGNITUDE));
}

/** All ones where x is NaN or infinite. */
// @ts-ignore: decorator
@inline
export function notFiniteMask(x: v128): v128 {
  return i32x4.gt_s(magnitudeOf(x), i32x4.splat(FINITE));
}

/** The first `rest` (1..3) floats at p, then zeros. */
// @ts-ignore: decorator
@inline
export function loadRest(p: usize, rest: i32): v128 {
  if (rest == 1) return v128.load_zero<u32>(p);
  const two = v128.load_zero<u64>(p);
  return rest == 2 ? two : v128.load_lane<u32>(p + 8, two, 2);
}

/** (a + b) + (c + d) in double precision. */
// @ts-ignore: decorator
@inline
export function laneSum(v: v128): f64 {
  return (
    <f64>f32x4.extract_lane(v, 0) +
    <f64>f32x4.extract_lane(v, 1) +
    (<f64>f32x4.extract_lane(v, 2) + <f64>f32x4.extract_lane(v, 3))
  );
}

// @ts-ignore: decorator
@inline
export function laneSum64(v: v128): f64 {
  return f64x2.extract_lane(v, 0) + f64x2.extract_lane(v, 1);
}

/** Sum of four signed counters. */
// @ts-ignore: decorator
@inline
export function laneCount(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + (i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3));
}

// @ts-ignore: decorator
@inline
export function laneMin(v: v128): f32 {
  const two = f32x4.pmin(v, v128.shuffle<f32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.pmin(two, v128.shuffle<f32>(two, two, 1, 0, 3, 2)), 0);
}

// @ts-ignore: decorator
@inline
export function laneMax(v: v128): f32 {
  const two = f32x4.pmax(v, v128.shuffle<f32>(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.pmax(two, v128.shuffle<f32>(two, two, 1, 0, 3, 2)), 0);
}

/** The lower and the upper two lanes in double precision. */
// @ts-ignore: decorator
@inline
export function lower(v: v128): v128 {
  return f64x2.promote_low_f32x4(v);
}

// @ts-ignore: decorator
@inline
export function upper(v: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<f32>(v, v, 2, 3, 2, 3));
}

/** x through half precision, half to even, saturating at ±65504. */
function throughHalf(x: f32): f32 {
  const bits = reinterpret<u32>(x);
  const magnitude = bits & 0x7fffffff;
  let half: u32;
  if (magnitude >= 0x477ff000) half = 0x7bff;
  else if (magnitude < 0x38800000) half = reinterpret<u32>(abs(x) + <f32>0.5) - 0x3f000000;
  else half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  return copysign(reinterpret<f32>(half << 13) * reinterpret<f32>(0x77800000), x); // times 2^112
}

/** A scale as it is stored; one that is 0 becomes 1. */
export function storedScale(s: f32, half: bool): f32 {
  const stored = half ? throughHalf(s) : s;
  return stored == 0 ? 1 : stored;
}
