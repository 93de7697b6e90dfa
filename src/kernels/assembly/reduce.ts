/** Reductions: summaries, per-channel statistics, histograms, comparisons. Not-finite elements are counted and left out. */
import { laneCount, laneMax, laneMin, laneSum64, loadRest, lower, notFiniteMask, upper } from "./lanes";

/** Widens (least, greatest), two f32, by finite elements; both become NaN where one is not. x·0 is zero for finite x alone. */
export function extent(p: usize, n: i32, out: usize): void {
  let low = f32x4.splat(load<f32>(out));
  let high = f32x4.splat(load<f32>(out, 4));
  let odd = f32x4.splat(0);
  for (const end = p + ((<usize>(n & ~3)) << 2); p < end; p += 16) {
    const x = v128.load(p);
    low = f32x4.pmin(low, x);
    high = f32x4.pmax(high, x);
    odd = f32x4.add(odd, f32x4.mul(x, f32x4.splat(0)));
  }
  for (let rest = n & 3; rest > 0; rest--, p += 4) {
    const x = f32x4.splat(load<f32>(p));
    low = f32x4.pmin(low, x);
    high = f32x4.pmax(high, x);
    odd = f32x4.add(odd, f32x4.mul(x, f32x4.splat(0)));
  }
  const finite = !v128.any_true(f32x4.ne(odd, f32x4.splat(0)));
  store<f32>(out, finite ? laneMin(low) : NaN);
  store<f32>(out, finite ? laneMax(high) : NaN, 4);
}

/** Merges n floats into f64s at `out`: min, max, Σx, Σx², Σ|x|, zeros, NaNs, infinities. */
export function summarize(p: usize, n: i32, out: usize): void {
  const plus = f32x4.splat(Infinity);
  const minus = f32x4.splat(-Infinity);
  let low = plus;
  let high = minus;
  let sum = f64x2.splat(0);
  let squares = f64x2.splat(0);
  let absolute = f64x2.splat(0);
  let zeros = i32x4.splat(0);
  let nans = i32x4.splat(0);
  let bad = i32x4.splat(0);
  for (const end = p + ((<usize>(n & ~3)) << 2); p < end; p += 16) {
    const x = v128.load(p);
    const mask = notFiniteMask(x);
    const finite = v128.andnot(x, mask);
    low = f32x4.pmin(low, v128.bitselect(plus, x, mask));
    high = f32x4.pmax(high, v128.bitselect(minus, x, mask));
    bad = i32x4.add(bad, mask);
    nans = i32x4.add(nans, f32x4.ne(x, x));
    zeros = i32x4.add(zeros, f32x4.eq(x, f32x4.splat(0)));
    const a = lower(finite);
    const b = upper(finite);
    sum = f64x2.add(sum, f64x2.add(a, b));
    squares = f64x2.add(squares, f64x2.add(f64x2.mul(a, a), f64x2.mul(b, b)));
    absolute = f64x2.add(absolute, f64x2.add(f64x2.abs(a), f64x2.abs(b)));
  }
  let least = laneMin(low);
  let most = laneMax(high);
  let total = laneSum64(sum);
  let totalSquares = laneSum64(squares);
  let totalAbsolute = laneSum64(absolute);
  let zero = -laneCount(zeros);
  let nan = -laneCount(nans);
  let infinite = -laneCount(bad) - nan;
  for (let rest = n & 3; rest > 0; rest--) {
    const x = load<f32>(p);
    p += 4;
    if (x != x) nan++;
    else if (abs(x) == Infinity) infinite++;
    else {
      if (x < least) least = x;
      if (x > most) most = x;
      if (x == 0) zero++;
      total += <f64>x;
      totalSquares += <f64>x * <f64>x;
      totalAbsolute += <f64>abs(x);
    }
  }
  store<f64>(out, min(load<f64>(out), <f64>least));
  store<f64>(out, max(load<f64>(out, 8), <f64>most), 8);
  store<f64>(out, load<f64>(out, 16) + total, 16);
  store<f64>(out, load<f64>(out, 24) + totalSquares, 24);
  store<f64>(out, load<f64>(out, 32) + totalAbsolute, 32);
  store<f64>(out, load<f64>(out, 40) + <f64>zero, 40);
  store<f64>(out, load<f64>(out, 48) + <f64>nan, 48);
  store<f64>(out, load<f64>(out, 56) + <f64>infinite, 56);
}

/** Merges (outer, channels, inner) floats into per-channel arrays: f32 minima and maxima, f64 sums and sums of squares. */
export function summarizeChannels(
  p: usize,
  outer: i32,
  channels: i32,
  inner: i32,
  minima: usize,
  maxima: usize,
  sums: usize,
  squares: usize,
): void {
  for (let o = 0; o < outer; o++) {
    let c: usize = 0;
    if (inner == 1) {
      for (const whole = <usize>(channels & ~3); c < whole; c += 4) {
        fourChannels(v128.load(p), minima + (c << 2), maxima + (c << 2), sums + (c << 3), squares + (c << 3));
        p += 16;
      }
    }
    for (; c < <usize>channels; c++) {
      oneChannel(p, inner, minima + (c << 2), maxima + (c << 2), sums + (c << 3), squares + (c << 3));
      p += (<usize>inner) << 2;
    }
  }
}

// @ts-ignore: decorator
@inline
function fourChannels(x: v128, minima: usize, maxima: usize, sums: usize, squares: usize): void {
  const mask = notFiniteMask(x);
  const finite = v128.andnot(x, mask);
  const low = v128.load(minima);
  const high = v128.load(maxima);
  v128.store(minima, f32x4.pmin(low, v128.bitselect(low, x, mask)));
  v128.store(maxima, f32x4.pmax(high, v128.bitselect(high, x, mask)));
  const a = lower(finite);
  const b = upper(finite);
  v128.store(sums, f64x2.add(v128.load(sums), a));
  v128.store(sums, f64x2.add(v128.load(sums, 16), b), 16);
  v128.store(squares, f64x2.add(v128.load(squares), f64x2.mul(a, a)));
  v128.store(squares, f64x2.add(v128.load(squares, 16), f64x2.mul(b, b)), 16);
}

function oneChannel(p: usize, n: i32, minimum: usize, maximum: usize, sum: usize, squares: usize): void {
  let low = f32x4.splat(load<f32>(minimum));
  let high = f32x4.splat(load<f32>(maximum));
  let total = f64x2.splat(0);
  let totalSquares = f64x2.splat(0);
  for (const end = p + ((<usize>(n & ~3)) << 2); p < end; p += 16) {
    const x = v128.load(p);
    const mask = notFiniteMask(x);
    const finite = v128.andnot(x, mask);
    low = f32x4.pmin(low, v128.bitselect(low, x, mask));
    high = f32x4.pmax(high, v128.bitselect(high, x, mask));
    const a = lower(finite);
    const b = upper(finite);
    total = f64x2.add(total, f64x2.add(a, b));
    totalSquares = f64x2.add(totalSquares, f64x2.add(f64x2.mul(a, a), f64x2.mul(b, b)));
  }
  let least = laneMin(low);
  let most = laneMax(high);
  let rest = laneSum64(total);
  let restSquares = laneSum64(totalSquares);
  for (let i = n & 3; i > 0; i--) {
    const x = load<f32>(p);
    p += 4;
    if (!(abs(x) < Infinity)) continue;
    if (x < least) least = x;
    if (x > most) most = x;
    rest += <f64>x;
    restSquares += <f64>x * <f64>x;
  }
  store<f32>(minimum, least);
  store<f32>(maximum, most);
  store<f64>(sum, load<f64>(sum) + rest);
  store<f64>(squares, load<f64>(squares) + restSquares);
}

/**
 * Counts n floats (their magnitudes if `absolute`) into `bins` bins, bin = ⌊(x − low)·perUnit⌋. `tables` are four tables of
 * bins + 1 32-bit counts, one per lane (neighbours often fall into one bin); the last count of each takes what is outside.
 * Adds the counts below, above and not finite to the three integers at `rest`.
 */
export function histogram(
  p: usize,
  n: i32,
  low: f32,
  high: f32,
  perUnit: f32,
  bins: i32,
  absolute: bool,
  tables: usize,
  rest: usize,
): void {
  const from = f32x4.splat(low);
  const to = f32x4.splat(high);
  const scale = f32x4.splat(perUnit);
  const last = i32x4.splat(bins - 1);
  const outside = i32x4.splat(bins);
  const clear = i32x4.splat(absolute ? 0x7fffffff : -1);
  const size = (<usize>(bins + 1)) << 2;
  const second = tables + size;
  const third = second + size;
  const fourth = third + size;
  let below = i32x4.splat(0);
  let above = i32x4.splat(0);
  let bad = i32x4.splat(0);
  for (const end = p + ((<usize>(n & ~3)) << 2); p < end; p += 16) {
    const x = v128.and(v128.load(p), clear);
    const mask = notFiniteMask(x);
    const under = v128.andnot(f32x4.lt(x, from), mask);
    const over = v128.andnot(f32x4.gt(x, to), mask);
    below = i32x4.sub(below, under);
    above = i32x4.sub(above, over);
    bad = i32x4.sub(bad, mask);
    const bin = i32x4.min_s(last, i32x4.trunc_sat_f32x4_s(f32x4.mul(f32x4.sub(x, from), scale)));
    const at = i32x4.shl(v128.bitselect(outside, bin, v128.or(mask, v128.or(under, over))), 2);
    increment(tables + <usize>i32x4.extract_lane(at, 0));
    increment(second + <usize>i32x4.extract_lane(at, 1));
    increment(third + <usize>i32x4.extract_lane(at, 2));
    increment(fourth + <usize>i32x4.extract_lane(at, 3));
  }
  let under = laneCount(below);
  let over = laneCount(above);
  let odd = laneCount(bad);
  for (let i = n & 3; i > 0; i--) {
    const x = absolute ? abs(load<f32>(p)) : load<f32>(p);
    p += 4;
    if (!(abs(x) < Infinity)) odd++;
    else if (x < low) under++;
    else if (x > high) over++;
    else increment(tables + ((<usize>min(bins - 1, <i32>((x - low) * perUnit))) << 2));
  }
  store<i32>(rest, load<i32>(rest) + under);
  store<i32>(rest, load<i32>(rest, 4) + over, 4);
  store<i32>(rest, load<i32>(rest, 8) + odd, 8);
}

// @ts-ignore: decorator
@inline
function increment(at: usize): void {
  store<u32>(at, load<u32>(at) + 1);
}

/** Elements that are not ±0. */
export function countNonZero(p: usize, n: i32): i32 {
  let zeros = i32x4.splat(0);
  for (const end = p + ((<usize>(n & ~3)) << 2); p < end; p += 16)
    zeros = i32x4.sub(zeros, f32x4.eq(v128.load(p), f32x4.splat(0)));
  let zero = laneCount(zeros);
  for (let i = n & 3; i > 0; i--) {
    if (load<f32>(p) == 0) zero++;
    p += 4;
  }
  return n - zero;
}

/** Adds to f64s at `out`: Σ(a−b)², Σab, Σa², Σb², Σ|a−b|; merges max|a−b|; adds the count of pairs not finite. */
export function compare(p: usize, q: usize, n: i32, out: usize): void {
  let differences = f64x2.splat(0);
  let products = f64x2.splat(0);
  let firsts = f64x2.splat(0);
  let seconds = f64x2.splat(0);
  let absolutes = f64x2.splat(0);
  let most = f64x2.splat(0);
  let bad = i32x4.splat(0);
  for (let i = 0; i < n; i += 4) {
    let x = i + 4 <= n ? v128.load(p) : loadRest(p, n - i);
    let y = i + 4 <= n ? v128.load(q) : loadRest(q, n - i);
    p += 16;
    q += 16;
    const mask = v128.or(notFiniteMask(x), notFiniteMask(y));
    bad = i32x4.sub(bad, mask);
    x = v128.andnot(x, mask);
    y = v128.andnot(y, mask);
    const x0 = lower(x);
    const x1 = upper(x);
    const y0 = lower(y);
    const y1 = upper(y);
    const d0 = f64x2.sub(x0, y0);
    const d1 = f64x2.sub(x1, y1);
    differences = f64x2.add(differences, f64x2.add(f64x2.mul(d0, d0), f64x2.mul(d1, d1)));
    products = f64x2.add(products, f64x2.add(f64x2.mul(x0, y0), f64x2.mul(x1, y1)));
    firsts = f64x2.add(firsts, f64x2.add(f64x2.mul(x0, x0), f64x2.mul(x1, x1)));
    seconds = f64x2.add(seconds, f64x2.add(f64x2.mul(y0, y0), f64x2.mul(y1, y1)));
    const a0 = f64x2.abs(d0);
    const a1 = f64x2.abs(d1);
    absolutes = f64x2.add(absolutes, f64x2.add(a0, a1));
    most = f64x2.pmax(most, f64x2.pmax(a0, a1));
  }
  store<f64>(out, load<f64>(out) + laneSum64(differences));
  store<f64>(out, load<f64>(out, 8) + laneSum64(products), 8);
  store<f64>(out, load<f64>(out, 16) + laneSum64(firsts), 16);
  store<f64>(out, load<f64>(out, 24) + laneSum64(seconds), 24);
  store<f64>(out, load<f64>(out, 32) + laneSum64(absolutes), 32);
  const largest = max(f64x2.extract_lane(most, 0), f64x2.extract_lane(most, 1));
  store<f64>(out, max(load<f64>(out, 40), largest), 40);
  store<f64>(out, load<f64>(out, 48) + <f64>laneCount(bad), 48);
}
