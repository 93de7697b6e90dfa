/** Selection by magnitude: radix histograms, masks, n-of-m masks. */
import { magnitudeOf } from "./lanes";

/**
 * m being the 31 bits of |x|, counts (m >> shift) & (2^width − 1) of the elements with m >> (shift + width) = prefix.
 * `tables` are four tables of 2^width 32-bit counts.
 */
export function countMagnitudes(p: usize, n: i32, shift: i32, width: i32, prefix: u32, tables: usize): void {
  const size = (<usize>4) << width;
  const field: u32 = (1 << width) - 1;
  let table = tables;
  const last = tables + 3 * size;
  for (const end = p + ((<usize>n) << 2); p < end; p += 4) {
    const bits = (load<u32>(p) & 0x7fffffff) >> shift;
    if (bits >> width != prefix) continue;
    const at = table + ((<usize>(bits & field)) << 2);
    store<u32>(at, load<u32>(at) + 1);
    table = table == last ? tables : table + size;
  }
}

/** 1 where |x| > threshold or NaN, and for the first `ties` elements equal to it; returns the ties left. */
export function magnitudeMask(p: usize, n: i32, threshold: f32, ties: i32, mask: usize): i32 {
  const limit = f32x4.splat(threshold);
  const one = i8x16.splat(1);
  let i = 0;
  for (; i + 16 <= n; i += 16) {
    const a = magnitudeOf(v128.load(p));
    const b = magnitudeOf(v128.load(p, 16));
    const c = magnitudeOf(v128.load(p, 32));
    const d = magnitudeOf(v128.load(p, 48));
    const first = i16x8.narrow_i32x4_s(beyond(a, limit), beyond(b, limit));
    const last = i16x8.narrow_i32x4_s(beyond(c, limit), beyond(d, limit));
    v128.store(mask, v128.and(i8x16.narrow_i16x8_s(first, last), one));
    if (ties > 0) {
      const equal = v128.or(
        v128.or(f32x4.eq(a, limit), f32x4.eq(b, limit)),
        v128.or(f32x4.eq(c, limit), f32x4.eq(d, limit)),
      );
      if (v128.any_true(equal)) ties = keepTies(p, 16, threshold, ties, mask);
    }
    p += 64;
    mask += 16;
  }
  for (let rest = i; rest < n; rest++) {
    const x = abs(load<f32>(p + ((<usize>(rest - i)) << 2)));
    store<u8>(mask + <usize>(rest - i), x > threshold || x != x ? 1 : 0);
  }
  return keepTies(p, n - i, threshold, ties, mask);
}

// @ts-ignore: decorator
@inline
function beyond(x: v128, limit: v128): v128 {
  return v128.or(f32x4.gt(x, limit), f32x4.ne(x, x));
}

function keepTies(p: usize, n: i32, threshold: f32, ties: i32, mask: usize): i32 {
  for (let i: usize = 0; i < <usize>n && ties > 0; i++)
    if (abs(load<f32>(p + (i << 2))) == threshold) {
      store<u8>(mask + i, 1);
      ties--;
    }
  return ties;
}

/** 1 for the `keep` largest magnitudes of each `group` elements along the middle axis of (outer, channels, inner). */
export function groupMask(p: usize, outer: i32, channels: i32, inner: i32, keep: i32, group: i32, mask: usize): void {
  if (inner == 1 && group == 4 && (channels & 3) == 0) {
    quads(p, outer * (channels >> 2), keep, mask);
    return;
  }
  const stride = (<usize>inner) << 2;
  for (let o = 0; o < outer; o++)
    for (let start = 0; start < channels; start += group) {
      const count = min(group, channels - start);
      let i = 0;
      for (; i + 4 <= inner; i += 4) {
        const at = p + ((<usize>i) << 2);
        for (let c = 0; c < count; c++) {
          const kept = keptOf(at, c, count, stride, keep);
          const to = mask + <usize>(c * inner + i);
          const words = i16x8.narrow_i32x4_s(kept, kept);
          v128.store_lane<u32>(to, v128.and(i8x16.narrow_i16x8_s(words, words), i8x16.splat(1)), 0);
        }
      }
      for (; i < inner; i++) {
        const at = p + ((<usize>i) << 2);
        for (let c = 0; c < count; c++)
          store<u8>(mask + <usize>(c * inner + i), aheadOf(at, c, count, stride) < keep ? 1 : 0);
      }
      p += (<usize>(count * inner)) << 2;
      mask += <usize>(count * inner);
    }
}

/** All ones in the lanes where fewer than `keep` of a group's magnitudes are ahead of element c's. */
// @ts-ignore: decorator
@inline
function keptOf(at: usize, c: i32, count: i32, stride: usize, keep: i32): v128 {
  const mine = magnitudeOf(v128.load(at + <usize>c * stride));
  let ahead = i32x4.splat(0);
  for (let other = 0; other < c; other++)
    ahead = i32x4.sub(ahead, f32x4.ge(magnitudeOf(v128.load(at + <usize>other * stride)), mine));
  for (let other = c + 1; other < count; other++)
    ahead = i32x4.sub(ahead, f32x4.gt(magnitudeOf(v128.load(at + <usize>other * stride)), mine));
  return i32x4.lt_s(ahead, i32x4.splat(keep));
}

function aheadOf(at: usize, c: i32, count: i32, stride: usize): i32 {
  const mine = abs(load<f32>(at + <usize>c * stride));
  let ahead = 0;
  for (let other = 0; other < c; other++) ahead += i32(abs(load<f32>(at + <usize>other * stride)) >= mine);
  for (let other = c + 1; other < count; other++) ahead += i32(abs(load<f32>(at + <usize>other * stride)) > mine);
  return ahead;
}

/** Groups of four consecutive elements: each against its three neighbours, rotated into place. */
function quads(p: usize, count: i32, keep: i32, mask: usize): void {
  const limit = i32x4.splat(keep);
  for (let i = 0; i < count; i++) {
    const x = magnitudeOf(v128.load(p));
    // Lane c meets c+1, c+2, c+3 (mod 4); whom it meets at a lower index wins ties
    const one = v128.shuffle<f32>(x, x, 1, 2, 3, 0);
    const two = v128.shuffle<f32>(x, x, 2, 3, 0, 1);
    const three = v128.shuffle<f32>(x, x, 3, 0, 1, 2);
    const tieOne = v128.and(f32x4.eq(one, x), i32x4(0, 0, 0, -1));
    const tieTwo = v128.and(f32x4.eq(two, x), i32x4(0, 0, -1, -1));
    const tieThree = v128.and(f32x4.eq(three, x), i32x4(0, -1, -1, -1));
    const ahead = i32x4.add(
      i32x4.add(v128.or(f32x4.gt(one, x), tieOne), v128.or(f32x4.gt(two, x), tieTwo)),
      v128.or(f32x4.gt(three, x), tieThree),
    );
    const kept = i32x4.lt_s(i32x4.neg(ahead), limit);
    const words = i16x8.narrow_i32x4_s(kept, kept);
    v128.store_lane<u32>(mask, v128.and(i8x16.narrow_i16x8_s(words, words), i8x16.splat(1)), 0);
    p += 16;
    mask += 4;
  }
}

/** x where the mask is not 0, else +0. */
export function applyMask(p: usize, mask: usize, n: i32, dst: usize): void {
  const zero = i32x4.splat(0);
  for (; n >= 4; n -= 4) {
    const bytes = i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load_zero<u32>(mask)));
    v128.store(dst, v128.andnot(v128.load(p), i32x4.eq(bytes, zero)));
    p += 16;
    dst += 16;
    mask += 4;
  }
  for (; n > 0; n--) {
    store<f32>(dst, load<u8>(mask) ? load<f32>(p) : 0);
    p += 4;
    dst += 4;
    mask += 1;
  }
}
