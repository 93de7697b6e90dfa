/** Quantization of rows to any ascending levels, times a scale per row. */
import { loadRest, laneSum, storedScale } from "./lanes";
import { rangeHigh, rangeLow, rangeOf, replaceNotFinite } from "./scale";

/** Floats summed in single precision before the sum goes into a double. */
const RUN: i32 = 256;
/** Up to so many levels every border is compared with four floats at once; beyond, each float is searched for by halving. */
const FEW: i32 = 32;

/** The levels in use: set once per call. */
let levels: usize = 0;
let borders: usize = 0;
let count: i32 = 0;

/** Borders below y. */
function codeOf(y: f32): i32 {
  let low = 0;
  let high = count - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (y > load<f32>(borders + ((<usize>middle) << 2))) low = middle + 1;
    else high = middle;
  }
  return low;
}

function levelOf(y: f32): f32 {
  return load<f32>(levels + ((<usize>codeOf(y)) << 2));
}

/** Levels of four floats that are divided by their scale. */
function levelsOf(y: v128): v128 {
  if (count > FEW) {
    let v = f32x4.splat(levelOf(f32x4.extract_lane(y, 0)));
    v = f32x4.replace_lane(v, 1, levelOf(f32x4.extract_lane(y, 1)));
    v = f32x4.replace_lane(v, 2, levelOf(f32x4.extract_lane(y, 2)));
    return f32x4.replace_lane(v, 3, levelOf(f32x4.extract_lane(y, 3)));
  }
  let v = v128.load32_splat(levels);
  let level = levels + 4;
  let border = borders;
  for (const end = levels + ((<usize>count) << 2); level < end; level += 4) {
    v = v128.bitselect(v128.load32_splat(level), v, f32x4.gt(y, v128.load32_splat(border)));
    border += 4;
  }
  return v;
}

/** All ones in the first `rest` lanes. */
// @ts-ignore: decorator
@inline
function firstLanes(rest: i32): v128 {
  return i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(rest));
}

// @ts-ignore: decorator
@inline
function squaredErrors(x: v128, s: v128): v128 {
  const e = f32x4.sub(f32x4.mul(levelsOf(f32x4.div(x, s)), s), x);
  return f32x4.mul(e, e);
}

/** Σ (v·s − w)² of n finite floats. */
function searchError(p: usize, n: i32, scale: f32): f64 {
  const s = f32x4.splat(scale);
  let total: f64 = 0;
  while (n > 0) {
    const run = min(n, RUN);
    let sum = f32x4.splat(0);
    for (const end = p + ((<usize>(run & ~3)) << 2); p < end; p += 16)
      sum = f32x4.add(sum, squaredErrors(v128.load(p), s));
    if (run & 3)
      sum = f32x4.add(sum, v128.and(squaredErrors(loadRest(p, run & 3), s), firstLanes(run & 3)));
    total += laneSum(sum);
    n -= run;
  }
  return total;
}

/** The scale of least squares for the levels that another scale gives; 0 where there is none in single precision. */
function refit(p: usize, n: i32, scale: f32): f64 {
  const s = f32x4.splat(scale);
  let vwTotal: f64 = 0;
  let vvTotal: f64 = 0;
  while (n > 0) {
    const run = min(n, RUN);
    let vw = f32x4.splat(0);
    let vv = f32x4.splat(0);
    for (const end = p + ((<usize>(run & ~3)) << 2); p < end; p += 16) {
      const x = v128.load(p);
      const v = levelsOf(f32x4.div(x, s));
      vw = f32x4.add(vw, f32x4.mul(v, x));
      vv = f32x4.add(vv, f32x4.mul(v, v));
    }
    if (run & 3) {
      const x = loadRest(p, run & 3);
      const v = v128.and(levelsOf(f32x4.div(x, s)), firstLanes(run & 3));
      vw = f32x4.add(vw, f32x4.mul(v, x));
      vv = f32x4.add(vv, f32x4.mul(v, v));
    }
    vwTotal += laneSum(vw);
    vvTotal += laneSum(vv);
    n -= run;
  }
  const fitted = vwTotal / vvTotal;
  return fitted > 0 && fitted <= <f64>f32.MAX_VALUE ? fitted : 0;
}

/** Codes of n floats, and their errors added to the three doubles at `sums`. */
function encode(p: usize, n: i32, codeScale: f32, scale: f32, codes: usize, sums: usize): void {
  let squaredError: f64 = 0;
  let squaredNorm: f64 = 0;
  let maxError: f64 = load<f64>(sums, 16);
  for (const end = p + ((<usize>n) << 2); p < end; p += 4) {
    const x = load<f32>(p);
    const code = codeOf(x / codeScale);
    store<u8>(codes++, <u8>code);
    const e = <f64>(load<f32>(levels + ((<usize>code) << 2)) * scale - x);
    squaredError += e * e;
    squaredNorm += <f64>x * <f64>x;
    maxError = max(maxError, abs(e));
  }
  store<f64>(sums, load<f64>(sums) + squaredError);
  store<f64>(sums, load<f64>(sums, 8) + squaredNorm, 8);
  store<f64>(sums, maxError, 16);
}

/**
 * Quantizes `rows` rows of `inner` floats, which are changed where they are not finite. `rule` says how a row's scale is found:
 * 0: it stands at `scales`; 1: the largest magnitude goes to the outermost level, `peakLevel`; 2: the best of `ratios` times
 * that, then up to `refits` refits; 3: fitted to the codes that `meanFactor` times the mean magnitude gives.
 */
export function quantizeLevels(
  src: usize,
  rows: i32,
  inner: i32,
  levelsAt: usize,
  bordersAt: usize,
  levelCount: i32,
  peakLevel: f32,
  rule: i32,
  half: bool,
  ratios: usize,
  ratioCount: i32,
  refits: i32,
  meanFactor: f64,
  codes: usize,
  scales: usize,
  sums: usize,
): i32 {
  levels = levelsAt;
  borders = bordersAt;
  count = levelCount;
  let notFinite = 0;
  for (let row = 0; row < rows; row++) {
    const bad = rangeOf(src, inner);
    const low = rangeLow;
    const high = rangeHigh;
    if (bad) replaceNotFinite(src, inner, low, high);
    notFinite += bad;
    let s = load<f32>(scales);
    let codeScale = s;
    if (rule == 3) {
      codeScale = <f32>((meanFactor * sumOfMagnitudes(src, inner)) / <f64>inner);
      if (codeScale == 0) codeScale = 1;
      const fitted = refit(src, inner, codeScale);
      s = storedScale(fitted > 0 ? <f32>fitted : codeScale, half);
    } else if (rule) {
      const plain: f32 = (high > -low ? high : -low) / peakLevel;
      s = storedScale(plain, half);
      if (rule == 2) s = bestScale(src, inner, plain, s, half, ratios, ratioCount, refits);
      codeScale = s;
    }
    store<f32>(scales, s);
    encode(src, inner, codeScale, s, codes, sums);
    src += (<usize>inner) << 2;
    codes += inner;
    scales += 4;
  }
  return notFinite;
}

function sumOfMagnitudes(p: usize, n: i32): f64 {
  let sum: f64 = 0;
  for (const end = p + ((<usize>n) << 2); p < end; p += 4) sum += <f64>abs(load<f32>(p));
  return sum;
}

/** The best of the ratios times the plain scale and its refits; ties go to the first. */
function bestScale(
  p: usize,
  n: i32,
  plain: f32,
  first: f32,
  half: bool,
  ratios: usize,
  ratioCount: i32,
  refits: i32,
): f32 {
  let best = first;
  let least = searchError(p, n, first);
  for (let i = 1; i < ratioCount; i++) {
    const s = storedScale(plain * load<f32>(ratios + ((<usize>i) << 2)), half);
    const error = searchError(p, n, s);
    if (error < least) {
      least = error;
      best = s;
    }
  }
  for (let i = 0; i < refits; i++) {
    const fitted = refit(p, n, best);
    if (!(fitted > 0)) break;
    const s = storedScale(<f32>fitted, half);
    const error = searchError(p, n, s);
    if (!(error < least)) break;
    least = error;
    best = s;
  }
  return best;
}
