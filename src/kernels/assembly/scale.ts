/** What a scale is found from: finite ranges, squared errors of candidate scales, least-squares refits. */
import { MAGIC, laneCount, laneMax, laneMin, laneSum, loadRest, notFiniteMask } from "./lanes";

/** Floats summed in single precision before the sum goes into a double. */
const RUN: i32 = 256;

/** Results of {@link rangeOf}. */
export let rangeLow: f32 = 0;
export let rangeHigh: f32 = 0;

/** Finite extremes widened to hold 0, into rangeLow and rangeHigh; returns how many of the n floats are not finite. */
export function rangeOf(p: usize, n: i32): i32 {
  let low = f32x4.splat(0);
  let high = f32x4.splat(0);
  let bad = i32x4.splat(0);
  const whole = p + ((<usize>(n & ~3)) << 2);
  for (; p < whole; p += 16) {
    const x = v128.load(p);
    const mask = notFiniteMask(x);
    const finite = v128.andnot(x, mask);
    low = f32x4.pmin(low, finite);
    high = f32x4.pmax(high, finite);
    bad = i32x4.sub(bad, mask);
  }
  if (n & 3) {
    const x = loadRest(p, n & 3);
    const mask = notFiniteMask(x);
    const finite = v128.andnot(x, mask);
    low = f32x4.pmin(low, finite);
    high = f32x4.pmax(high, finite);
    bad = i32x4.sub(bad, mask);
  }
  rangeLow = laneMin(low);
  rangeHigh = laneMax(high);
  return laneCount(bad);
}

/** {@link rangeOf} merged into the two floats at `out`. */
export function mergeRange(p: usize, n: i32, out: usize): i32 {
  const bad = rangeOf(p, n);
  if (rangeLow < load<f32>(out)) store<f32>(out, rangeLow);
  if (rangeHigh > load<f32>(out, 4)) store<f32>(out, rangeHigh, 4);
  return bad;
}

/** In place: NaN becomes 0, an infinity the end of the range on its side. */
export function replaceNotFinite(p: usize, n: i32, low: f32, high: f32): void {
  for (const end = p + ((<usize>n) << 2); p < end; p += 4) {
    const x = load<f32>(p);
    if (x != x) store<f32>(p, 0);
    else if (x == Infinity) store<f32>(p, high);
    else if (x == -Infinity) store<f32>(p, low);
  }
}

/** (high − low)/levels; divides first where the difference would overflow. */
export function rangeScale(low: f32, high: f32, levels: f32): f32 {
  const range = high - low;
  return range != Infinity ? range / levels : high / levels - low / levels;
}

/** (clamp(round(w/s))·s − w)². */
// @ts-ignore: decorator
@inline
function squaredErrors(x: v128, s: v128, low: v128, high: v128): v128 {
  const q = rounded(x, s, low, high);
  const e = f32x4.sub(f32x4.mul(q, s), x);
  return f32x4.mul(e, e);
}

/** clamp(round(w/s)). */
// @ts-ignore: decorator
@inline
function rounded(x: v128, s: v128, low: v128, high: v128): v128 {
  const clamped = f32x4.pmax(f32x4.pmin(f32x4.div(x, s), high), low);
  const magic = f32x4.splat(MAGIC);
  return f32x4.sub(f32x4.add(clamped, magic), magic);
}

/** Σ (clamp(round(w/s))·s − w)² of n finite floats. */
export function searchError(p: usize, n: i32, scale: f32, lowest: f32, highest: f32): f64 {
  const s = f32x4.splat(scale);
  const low = f32x4.splat(lowest);
  const high = f32x4.splat(highest);
  let total: f64 = 0;
  while (n > 0) {
    const run = min(n, RUN);
    let sum = f32x4.splat(0);
    for (const end = p + ((<usize>(run & ~3)) << 2); p < end; p += 16)
      sum = f32x4.add(sum, squaredErrors(v128.load(p), s, low, high));
    if (run & 3) sum = f32x4.add(sum, squaredErrors(loadRest(p, run & 3), s, low, high));
    total += laneSum(sum);
    n -= run;
  }
  return total;
}

/** Adds the {@link searchError} of each of `count` scales to the doubles at `out`. */
export function searchErrors(p: usize, n: i32, scales: usize, count: i32, low: f32, high: f32, out: usize): void {
  for (let i = 0; i < count; i++) {
    const at = out + ((<usize>i) << 3);
    store<f64>(at, load<f64>(at) + searchError(p, n, load<f32>(scales + ((<usize>i) << 2)), low, high));
  }
}

/**
 * Adds to the doubles at `out`, for each of `count` grids of three floats (s, low, high), the sum over n pairs of
 * g·(clamp(round(x/s))·s − x).
 */
export function gridEffects(p: usize, g: usize, n: i32, grids: usize, count: i32, out: usize): void {
  for (let i = 0; i < count; i++) {
    const s = f32x4.splat(load<f32>(grids));
    const low = f32x4.splat(load<f32>(grids, 4));
    const high = f32x4.splat(load<f32>(grids, 8));
    grids += 12;
    let total: f64 = 0;
    let x = p;
    let y = g;
    for (let left = n; left > 0; left -= RUN) {
      const run = min(left, RUN);
      let sum = f32x4.splat(0);
      for (const end = x + ((<usize>(run & ~3)) << 2); x < end; x += 16, y += 16) {
        const v = v128.load(x);
        const e = f32x4.sub(f32x4.mul(rounded(v, s, low, high), s), v);
        sum = f32x4.add(sum, f32x4.mul(e, v128.load(y)));
      }
      if (run & 3) {
        const v = loadRest(x, run & 3);
        const e = f32x4.sub(f32x4.mul(rounded(v, s, low, high), s), v);
        sum = f32x4.add(sum, f32x4.mul(e, loadRest(y, run & 3)));
      }
      total += laneSum(sum);
    }
    store<f64>(out, load<f64>(out) + total);
    out += 8;
  }
}

/** Results of {@link refit}: Σ q·w and Σ q². */
export let refitQW: f64 = 0;
export let refitQQ: f64 = 0;

/** Sums over the codes q that scale s gives. */
export function refit(p: usize, n: i32, scale: f32, lowest: f32, highest: f32): void {
  const s = f32x4.splat(scale);
  const low = f32x4.splat(lowest);
  const high = f32x4.splat(highest);
  refitQW = 0;
  refitQQ = 0;
  while (n > 0) {
    const run = min(n, RUN);
    let qw = f32x4.splat(0);
    let qq = f32x4.splat(0);
    for (const end = p + ((<usize>(run & ~3)) << 2); p < end; p += 16) {
      const x = v128.load(p);
      const q = rounded(x, s, low, high);
      qw = f32x4.add(qw, f32x4.mul(q, x));
      qq = f32x4.add(qq, f32x4.mul(q, q));
    }
    if (run & 3) {
      const x = loadRest(p, run & 3);
      const q = rounded(x, s, low, high);
      qw = f32x4.add(qw, f32x4.mul(q, x));
      qq = f32x4.add(qq, f32x4.mul(q, q));
    }
    refitQW += laneSum(qw);
    refitQQ += laneSum(qq);
    n -= run;
  }
}

/** Adds the sums of {@link refit} to the two doubles at `out`. */
export function addRefit(p: usize, n: i32, scale: f32, low: f32, high: f32, out: usize): void {
  refit(p, n, scale, low, high);
  store<f64>(out, load<f64>(out) + refitQW);
  store<f64>(out, load<f64>(out, 8) + refitQQ, 8);
}
