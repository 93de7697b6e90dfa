/** Block-wise quantization of a matrix along its columns, where it lies: sixteen columns side by side, a lane for each. */
import { quantizeBlock } from "./blocks";
import { MAGIC, MAGIC_BITS, laneMax, laneSum64, lower, storedScale, upper } from "./lanes";

/** Columns handled together, a strip: one cache line of every row. */
const WIDTH: i32 = 16;
const WIDTH_BYTES: usize = 64;
/** Rows whose squares are added up in single precision before they go into a double: 2^-19 of the sum is the most they lose. */
const RUN: i32 = 32;
/** Magnitudes of scales whose squared errors neither overflow nor vanish in single precision. */
const SMALLEST: f32 = 9.313225746154785e-10; // 2^-30
const LARGEST: f32 = 1073741824; // 2^30
/** Where, behind a strip, its columns' extremes, scales and zero points lie. */
const LOW: usize = 0;
const HIGH: usize = 64;
const SCALE: usize = 128;
const ZERO: usize = 192;

/**
 * Quantizes a (rows, cols) matrix, its rows `stride` floats apart, in blocks along the rows' axis: block b of column c goes to
 * place c·`places` + b of codes, scales and zeros. Arithmetic, parameters and sums are those of `quantizeBlocks`; `temp`
 * holds 17 blocks and 64 floats.
 */
export function quantizeColumns(
  src: usize,
  rows: i32,
  cols: i32,
  stride: i32,
  block: i32,
  bits: i32,
  symmetric: bool,
  half: bool,
  ratios: usize,
  ratioCount: i32,
  codes: usize,
  scales: usize,
  zeros: usize,
  places: i32,
  temp: usize,
  sums: usize,
): i32 {
  const down = (<usize>stride) << 2;
  const codeBytes = <usize>((block * bits) >> 3);
  const across = <usize>places * codeBytes;
  const strip = temp + ((<usize>block) << 2); // (block, WIDTH)
  const found = strip + <usize>block * WIDTH_BYTES;
  let notFinite = 0;
  for (let col = 0; col < cols; col += WIDTH) {
    const width = min(WIDTH, cols - col);
    for (let row = 0, b = 0; row < rows; row += block, b++) {
      const count = min(block, rows - row);
      const place = <usize>(col * places + b);
      const from = src + <usize>row * down + ((<usize>col) << 2);
      if (width == WIDTH && count == block && ratioCount == 0) {
        const norm = readStrip(from, down, block, strip, found);
        if (norm < Infinity && findScales(bits, symmetric, half, found)) {
          const to = codes + place * codeBytes;
          for (let c: usize = 0; c < <usize>WIDTH; c += 4) {
            storeFound(c, found, scales, zeros, place + c * <usize>places, places);
            if (bits == 4) encodeFour(c, strip, block, 4, found, to + c * across, across, sums);
            else if (bits == 8) encodeFour(c, strip, block, 8, found, to + c * across, across, sums);
            else encodeFour(c, strip, block, 2, found, to + c * across, across, sums);
          }
          store<f64>(sums, load<f64>(sums, 8) + norm, 8);
          continue;
        }
      }
      // What is ragged, has extreme values or needs a search goes column by column
      for (let c: usize = 0; c < <usize>width; c++) {
        for (let r: usize = 0; r < <usize>count; r++)
          store<f32>(temp + (r << 2), load<f32>(from + r * down + (c << 2)));
        memory.fill(temp + ((<usize>count) << 2), 0, (<usize>(block - count)) << 2);
        const at = place + c * <usize>places;
        notFinite += quantizeBlock(
          temp,
          block,
          bits,
          symmetric,
          half,
          ratios,
          ratioCount,
          codes + at * codeBytes,
          scales + (at << 2),
          zeros + at,
          temp,
          sums,
        );
      }
    }
  }
  return notFinite;
}

/**
 * Copies (rows, 16) floats, `down` bytes apart, into a dense strip, and finds each column's extremes widened to hold 0.
 * Returns Σ w²: not finite where an element is not, or where its square is not.
 */
function readStrip(from: usize, down: usize, rows: i32, strip: usize, found: usize): f64 {
  let low0 = f32x4.splat(0);
  let low1 = low0;
  let low2 = low0;
  let low3 = low0;
  let high0 = low0;
  let high1 = low0;
  let high2 = low0;
  let high3 = low0;
  let norm: f64 = 0;
  for (let left = rows; left > 0; left -= RUN) {
    let sum0 = f32x4.splat(0);
    let sum1 = sum0;
    for (let r = min(left, RUN); r > 0; r--) {
      const a = v128.load(from);
      const b = v128.load(from, 16);
      const c = v128.load(from, 32);
      const d = v128.load(from, 48);
      from += down;
      v128.store(strip, a);
      v128.store(strip, b, 16);
      v128.store(strip, c, 32);
      v128.store(strip, d, 48);
      strip += WIDTH_BYTES;
      low0 = f32x4.pmin(low0, a);
      low1 = f32x4.pmin(low1, b);
      low2 = f32x4.pmin(low2, c);
      low3 = f32x4.pmin(low3, d);
      high0 = f32x4.pmax(high0, a);
      high1 = f32x4.pmax(high1, b);
      high2 = f32x4.pmax(high2, c);
      high3 = f32x4.pmax(high3, d);
      sum0 = f32x4.add(sum0, f32x4.add(f32x4.mul(a, a), f32x4.mul(b, b)));
      sum1 = f32x4.add(sum1, f32x4.add(f32x4.mul(c, c), f32x4.mul(d, d)));
    }
    norm += doubleSum(f32x4.add(sum0, sum1));
  }
  v128.store(found, low0, LOW);
  v128.store(found, low1, LOW + 16);
  v128.store(found, low2, LOW + 32);
  v128.store(found, low3, LOW + 48);
  v128.store(found, high0, HIGH);
  v128.store(found, high1, HIGH + 16);
  v128.store(found, high2, HIGH + 32);
  v128.store(found, high3, HIGH + 48);
  return norm;
}

/** Sum of the lanes in double precision. */
// @ts-ignore: decorator
@inline
function doubleSum(v: v128): f64 {
  return laneSum64(f64x2.add(lower(v), upper(v)));
}

/** Scales and zero points (as floats) of 16 columns from their finite extremes; false if one is no ordinary number. */
function findScales(bits: i32, symmetric: bool, half: bool, found: usize): bool {
  const top = f32x4.splat(<f32>((1 << bits) - 1));
  const middle = f32x4.splat(<f32>(1 << (bits - 1)));
  const none = f32x4.splat(0);
  let ordinary = i32x4.splat(-1);
  for (const end = found + 64; found < end; found += 16) {
    const low = v128.load(found, LOW);
    const high = v128.load(found, HIGH);
    const below = f32x4.neg(low);
    const plain = symmetric
      ? f32x4.div(v128.bitselect(high, low, f32x4.gt(high, below)), f32x4.neg(middle))
      : f32x4.div(f32x4.sub(high, low), top);
    let s = v128.bitselect(f32x4.splat(1), plain, f32x4.eq(plain, none));
    if (half) {
      s = f32x4.splat(storedScale(f32x4.extract_lane(plain, 0), true));
      s = f32x4.replace_lane(s, 1, storedScale(f32x4.extract_lane(plain, 1), true));
      s = f32x4.replace_lane(s, 2, storedScale(f32x4.extract_lane(plain, 2), true));
      s = f32x4.replace_lane(s, 3, storedScale(f32x4.extract_lane(plain, 3), true));
    }
    const size = f32x4.abs(s);
    ordinary = v128.and(
      ordinary,
      v128.and(f32x4.ge(size, f32x4.splat(SMALLEST)), f32x4.le(size, f32x4.splat(LARGEST))),
    );
    const z = symmetric ? middle : f32x4.nearest(f32x4.max(none, f32x4.min(top, f32x4.div(below, s))));
    v128.store(found, s, SCALE);
    v128.store(found, z, ZERO);
  }
  return i32x4.all_true(ordinary);
}

/** Puts the scales and zero points of columns c to c + 3 in their places. */
function storeFound(c: usize, found: usize, scales: usize, zeros: usize, place: usize, places: i32): void {
  found += c << 2;
  for (const end = found + 16; found < end; found += 4) {
    store<u32>(scales + (place << 2), load<u32>(found, SCALE));
    store<u8>(zeros + place, <u8>load<f32>(found, ZERO));
    place += <usize>places;
  }
}

/** Codes of columns c to c + 3 of a strip, packed: 32 bits of each column at a time, `across` bytes apart. */
// @ts-ignore: decorator
@inline
function encodeFour(
  c: usize,
  strip: usize,
  rows: i32,
  bits: i32,
  found: usize,
  codes: usize,
  across: usize,
  sums: usize,
): void {
  const s = v128.load(found + (c << 2), SCALE);
  const z = v128.load(found + (c << 2), ZERO);
  const low = f32x4.neg(z);
  const high = f32x4.sub(f32x4.splat(<f32>((1 << bits) - 1)), z);
  const magic = f32x4.splat(MAGIC);
  const wordRows = 32 / bits;
  // A word is Σ (q + MAGIC_BITS)·2^(bits·row) mod 2^32; its codes are q + z: add (z − MAGIC_BITS)·Σ 2^(bits·row)
  const ones: i32 = bits == 4 ? 0x11111111 : bits == 8 ? 0x01010101 : 0x55555555;
  const shift = i32x4.mul(
    i32x4.sub(i32x4.trunc_sat_f32x4_s(z), i32x4.splat(MAGIC_BITS)),
    i32x4.splat(ones),
  );
  let maxError = f32x4.splat(0);
  let squaredError: f64 = 0;
  let p = strip + (c << 2);
  for (let left = rows; left > 0; left -= RUN) {
    let errorSum = f32x4.splat(0);
    for (let words = min(left, RUN) / wordRows; words > 0; words--) {
      let word = i32x4.splat(0);
      const start = p;
      p += <usize>wordRows * WIDTH_BYTES;
      for (let at = p; at != start; ) {
        at -= WIDTH_BYTES;
        const x = v128.load(at);
        const code = f32x4.add(f32x4.pmax(f32x4.pmin(f32x4.div(x, s), high), low), magic);
        word = i32x4.add(i32x4.shl(word, bits), code);
        const e = f32x4.sub(f32x4.mul(f32x4.sub(code, magic), s), x);
        maxError = f32x4.pmax(maxError, f32x4.abs(e));
        errorSum = f32x4.add(errorSum, f32x4.mul(e, e));
      }
      word = i32x4.add(word, shift);
      v128.store_lane<u32>(codes, word, 0);
      v128.store_lane<u32>(codes + across, word, 1);
      v128.store_lane<u32>(codes + 2 * across, word, 2);
      v128.store_lane<u32>(codes + 3 * across, word, 3);
      codes += 4;
    }
    squaredError += doubleSum(errorSum);
  }
  store<f64>(sums, load<f64>(sums) + squaredError);
  store<f64>(sums, max(load<f64>(sums, 16), <f64>laneMax(maxError)), 16);
}
