/** Small dense linear algebra in single precision: products, Cholesky factors, inverses, and rounding with error feedback. */
import { lower, upper } from "./lanes";

/** Columns handled together: four registers. */
const STRIP: usize = 16;

// @ts-ignore: decorator
@inline
function madd(sum: v128, x: v128, p: usize): v128 {
  return f32x4.add(sum, f32x4.mul(x, v128.load(p)));
}

/** c (m, n) += a (m, p)·b (p, n), term by term in the order of p. n is a multiple of 16. */
export function addProduct(a: usize, b: usize, c: usize, m: i32, p: i32, n: i32): void {
  const across = (<usize>n) << 2;
  const depth = (<usize>p) << 2;
  for (let col: usize = 0; col < across; col += STRIP << 2) {
    let row = 0;
    for (; row + 2 <= m; row += 2) {
      const to = c + <usize>row * across + col;
      const next = to + across;
      let a0 = v128.load(to);
      let a1 = v128.load(to, 16);
      let a2 = v128.load(to, 32);
      let a3 = v128.load(to, 48);
      let b0 = v128.load(next);
      let b1 = v128.load(next, 16);
      let b2 = v128.load(next, 32);
      let b3 = v128.load(next, 48);
      const left = a + <usize>row * depth;
      let right = b + col;
      for (let i: usize = 0; i < depth; i += 4) {
        const x = v128.load_splat<u32>(left + i);
        const y = v128.load_splat<u32>(left + depth + i);
        a0 = madd(a0, x, right);
        a1 = madd(a1, x, right + 16);
        a2 = madd(a2, x, right + 32);
        a3 = madd(a3, x, right + 48);
        b0 = madd(b0, y, right);
        b1 = madd(b1, y, right + 16);
        b2 = madd(b2, y, right + 32);
        b3 = madd(b3, y, right + 48);
        right += across;
      }
      v128.store(to, a0);
      v128.store(to, a1, 16);
      v128.store(to, a2, 32);
      v128.store(to, a3, 48);
      v128.store(next, b0);
      v128.store(next, b1, 16);
      v128.store(next, b2, 32);
      v128.store(next, b3, 48);
    }
    if (row < m) {
      const to = c + <usize>row * across + col;
      for (let part: usize = 0; part < STRIP << 2; part += 16) {
        let sum = v128.load(to + part);
        const left = a + <usize>row * depth;
        let right = b + col + part;
        for (let i: usize = 0; i < depth; i += 4) {
          sum = madd(sum, v128.load_splat<u32>(left + i), right);
          right += across;
        }
        v128.store(to + part, sum);
      }
    }
  }
}

/** y −= x·factor over n floats. */
// @ts-ignore: decorator
@inline
function subtractScaled(y: usize, x: usize, factor: f32, n: i32): void {
  const splat = f32x4.splat(factor);
  let i: usize = 0;
  const end = (<usize>n) << 2;
  for (; i + 16 <= end; i += 16)
    v128.store(y + i, f32x4.sub(v128.load(y + i), f32x4.mul(splat, v128.load(x + i))));
  for (; i < end; i += 4) store<f32>(y + i, load<f32>(y + i) - factor * load<f32>(x + i));
}

/** x ·= factor over n floats. */
// @ts-ignore: decorator
@inline
function scaleBy(x: usize, factor: f32, n: i32): void {
  const splat = f32x4.splat(factor);
  let i: usize = 0;
  const end = (<usize>n) << 2;
  for (; i + 16 <= end; i += 16) v128.store(x + i, f32x4.mul(v128.load(x + i), splat));
  for (; i < end; i += 4) store<f32>(x + i, load<f32>(x + i) * factor);
}

/**
 * A = UᵀU in place of the upper triangle of a symmetric (n, n) matrix; what is below the diagonal is left as it was.
 * Returns the first row without a positive pivot, or −1.
 */
export function choleskyUpper(a: usize, n: i32): i32 {
  const down = (<usize>n) << 2;
  for (let j = 0; j < n; j++) {
    const diagonal = a + <usize>j * (down + 4);
    const pivot = load<f32>(diagonal);
    if (!(pivot > 0) || pivot == Infinity) return j;
    scaleBy(diagonal, <f32>1 / sqrt<f32>(pivot), n - j);
    for (let i = j + 1; i < n; i++) {
      const from = diagonal + ((<usize>(i - j)) << 2);
      subtractScaled(a + <usize>i * (down + 4), from, load<f32>(from), n - i);
    }
  }
  return -1;
}

/** V = U⁻¹ of an upper triangle (n, n); dst is cleared. */
export function invertUpper(u: usize, n: i32, dst: usize): void {
  const down = (<usize>n) << 2;
  for (let i = n - 1; i >= 0; i--) {
    const row = dst + <usize>i * down;
    const source = u + <usize>i * down;
    store<f32>(row + ((<usize>i) << 2), 1);
    for (let j = i + 1; j < n; j++) {
      const at = (<usize>j) << 2;
      subtractScaled(row + at, dst + <usize>j * down + at, load<f32>(source + at), n - j);
    }
    const at = (<usize>i) << 2;
    scaleBy(row + at, <f32>1 / load<f32>(source + at), n - i);
  }
}

/**
 * Rounds the rows of w (count, n) from the last to the first, each after the errors of those before it were added:
 * x_j = w_j + base_j + Σ_{i>j} f_ji·e_i, e_j = w_j − ŵ_j, ŵ_j = (q_j − z)·s, with scales and zero points of row groups[j].
 * n is a multiple of 16. Adds Σ_j d_j·‖x_j − ŵ_j‖² to the double at `loss`.
 */
export function roundWithFeedback(
  w: usize,
  base: usize,
  count: i32,
  n: i32,
  f: usize,
  d: usize,
  groups: usize,
  scales: usize,
  zeros: usize,
  top: f32,
  codes: usize,
  errors: usize,
  loss: usize,
): void {
  const across = (<usize>n) << 2;
  const depth = (<usize>count) << 2;
  const highest = f32x4.splat(top);
  let total: f64 = 0;
  for (let col: usize = 0; col < across; col += STRIP << 2) {
    for (let j = count - 1; j >= 0; j--) {
      const at = <usize>j * across + col;
      let x0 = f32x4.add(v128.load(w + at), v128.load(base + at));
      let x1 = f32x4.add(v128.load(w + at, 16), v128.load(base + at, 16));
      let x2 = f32x4.add(v128.load(w + at, 32), v128.load(base + at, 32));
      let x3 = f32x4.add(v128.load(w + at, 48), v128.load(base + at, 48));
      const factors = f + <usize>j * depth;
      let from = errors + <usize>(j + 1) * across + col;
      for (let i = (<usize>(j + 1)) << 2; i < depth; i += 4) {
        const factor = v128.load_splat<u32>(factors + i);
        x0 = madd(x0, factor, from);
        x1 = madd(x1, factor, from + 16);
        x2 = madd(x2, factor, from + 32);
        x3 = madd(x3, factor, from + 48);
        from += across;
      }
      const grid = <usize>load<i32>(groups + ((<usize>j) << 2)) * across + col;
      const to = codes + ((<usize>j * across + col) >> 2);
      const sum = f64x2.add(
        f64x2.add(
          roundFour(x0, w + at, scales + grid, zeros + grid, highest, to, errors + at),
          roundFour(x1, w + at + 16, scales + grid + 16, zeros + grid + 16, highest, to + 4, errors + at + 16),
        ),
        f64x2.add(
          roundFour(x2, w + at + 32, scales + grid + 32, zeros + grid + 32, highest, to + 8, errors + at + 32),
          roundFour(x3, w + at + 48, scales + grid + 48, zeros + grid + 48, highest, to + 12, errors + at + 48),
        ),
      );
      total += <f64>load<f32>(d + ((<usize>j) << 2)) * (f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1));
    }
  }
  store<f64>(loss, load<f64>(loss) + total);
}

/** Codes and errors of four elements; returns the squares of x − ŵ in pairs of double precision. */
// @ts-ignore: decorator
@inline
function roundFour(x: v128, w: usize, scale: usize, zero: usize, top: v128, codes: usize, errors: usize): v128 {
  const s = v128.load(scale);
  const z = v128.load(zero);
  const clamped = f32x4.min(f32x4.max(f32x4.div(x, s), f32x4.neg(z)), f32x4.sub(top, z));
  const q = f32x4.nearest(clamped);
  const dense = f32x4.mul(q, s);
  v128.store(errors, f32x4.sub(v128.load(w), dense));
  const code = i32x4.trunc_sat_f32x4_s(f32x4.add(q, z));
  const words = i16x8.narrow_i32x4_s(code, code);
  store<u32>(codes, <u32>i32x4.extract_lane(i8x16.narrow_i16x8_u(words, words), 0));
  const off = f32x4.sub(x, dense);
  const low = lower(off);
  const high = upper(off);
  return f64x2.add(f64x2.mul(low, low), f64x2.mul(high, high));
}
